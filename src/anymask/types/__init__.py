"""The values that cross the layers: frozen, checked at birth, one file each.

Conventions: points are (x, y) and boxes (x0, y0, x1, y1) in pixels of the given image, origin at the top-left
corner of the top-left pixel; sizes are (height, width); arrays inside a value are read-only.
"""

from anymask.types.embedding import Embedding
from anymask.types.image import Image
from anymask.types.mask import Mask, MaskSet
from anymask.types.prompt import Prompt

__all__ = ["Embedding", "Image", "Mask", "MaskSet", "Prompt"]
