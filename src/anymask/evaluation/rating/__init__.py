"""Blind human rating of masks: laid out, read back, compared."""
