"""anymask: promptable segmentation."""

__version__ = "0.1.0"
