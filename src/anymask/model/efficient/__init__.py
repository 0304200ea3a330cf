"""EfficientSAM."""
