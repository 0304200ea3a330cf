"""The one door for foreign checkpoints."""
