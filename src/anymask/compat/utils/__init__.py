"""Helpers under the names of `segment_anything.utils`."""
