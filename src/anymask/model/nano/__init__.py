"""The embedded model's network."""
