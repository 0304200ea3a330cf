"""`ResizeLongestSide`: images, points and boxes to the network's frame, over `anymask.frame`.

Source: ``segment_anything/utils/transforms.py`` of the published code, whose names are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anymask.compat.errors import ImageDtypeError, PublishedAssertionError, need_torch
from anymask.frame import Frame

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ResizeLongestSide", "StretchToSquare"]


class ResizeLongestSide:
    """Scales so that the longer side has ``target_length`` pixels; sizes are (height, width).

    As published, except that a side never shrinks to 0 and that sizes are within ``anymask.limits`` (`InputError`).
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, C) or (H, W) uint8, scaled by Pillow's bilinear with antialiasing; a fresh array.

        Raises `ImageDtypeError` unless they are uint8, and `PublishedAssertionError` for another number of axes.
        """
        pixels = _pixels(image)
        frame = self._frame(pixels.shape[:2])
        return np.array(frame.resize_image(pixels), order="C")

    def apply_coords(self, coords: NDArray[Any], original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Points (..., 2), (x, y) in image pixels, to network pixels; float64, without the half-pixel shift."""
        return self._frame(original_size).points_to_network(np.asarray(coords))

    def apply_boxes(self, boxes: NDArray[Any], original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Boxes (..., 4), (x0, y0, x1, y1) in image pixels, to network pixels; (B, 4) float64."""
        return self._frame(original_size).boxes_to_network(np.asarray(boxes)).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Batched float images (B, C, H, W), scaled by torch; near to `apply_image`, which models expect."""
        need_torch("ResizeLongestSide.apply_image_torch")
        from torch.nn import functional as F

        size = self._frame(tuple(image.shape[2:])).resized_size
        resized: Tensor = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        return resized

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """As `apply_coords` for a tensor, on its device; float32."""
        torch = need_torch("ResizeLongestSide.apply_coords_torch")
        scale_x, scale_y = self._frame(original_size).scale_xy
        x, y = coords.to(torch.float32).unbind(-1)
        scaled: Tensor = torch.stack([x * scale_x, y * scale_y], dim=-1)
        return scaled

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """As `apply_boxes` for a tensor, on its device; (B, 4) float32."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """(height, width) of the scaled image."""
        return Frame((oldh, oldw), long_side_length).resized_size

    def _frame(self, original_size: tuple[int, ...]) -> Frame:
        height, width = original_size
        return Frame((int(height), int(width)), self.target_length)


class StretchToSquare(ResizeLongestSide):
    """The same for models that take both sides stretched to ``target_length``; ours."""

    def _frame(self, original_size: tuple[int, ...]) -> Frame:
        height, width = original_size
        return Frame((int(height), int(width)), self.target_length, resize="stretch")


def _pixels(image: object) -> NDArray[np.uint8]:
    """An image as Pillow can take it: a single channel loses its axis, as in torchvision's conversion."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        seen = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageDtypeError(f"an image must be a uint8 array with values from 0 to 255, got {seen}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise PublishedAssertionError(
            f"an image must be (height, width, channels) or (height, width), got {image.shape}"
        )
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
