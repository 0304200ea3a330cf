"""Coordinates and sizes: image <-> network frame <-> crop.  The only place that scales, pads or shifts.

Three frames, all with the origin at the top-left corner of the top-left pixel, x to the right, y down:

* **image**: pixels of the given image;
* **network**: the image scaled so that its longer side is ``long_side``, then padded with zeros at the bottom
  and right (published: ``ResizeLongestSide`` and ``Sam.preprocess`` of segment_anything), or stretched to a square
  of that side (EfficientSAM, MedSAM);
* **low-res**: the grid of the mask logits, over the whole padded network frame.

The half-pixel shift: the published prompt encoder adds 0.5 to network coordinates (``_embed_points``,
``_embed_boxes``), inside the network.  ``points_to_network`` therefore gives the published ``apply_coords``
values *without* the shift, and the networks add ``HALF_PIXEL`` once.  Nothing else adds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import InputError
from anymask.limits import MAX_CROP_LAYERS, MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MAX_NETWORK_SIDE
from anymask.resampling import bilinear, cubic_spline

__all__ = [
    "HALF_PIXEL",
    "MASK_PROMPT_LOGIT",
    "Frame",
    "Upsampler",
    "crop_boxes",
    "crop_to_image",
    "image_to_crop",
    "uncrop_masks",
    "whole_stride",
]

HALF_PIXEL: Final = 0.5
"""What the prompt encoder adds to network coordinates, once; see the module's text."""
MASK_PROMPT_LOGIT: Final = 8.0
"""Logit given to a cell fully inside a user's mask prompt; fully outside gets its negative."""

LARGEST_LOGIT: Final = 15.0
"""Where logits are cut before they become probabilities: in float32 a larger one is a probability of 1."""

CropBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class Frame:
    """How one image sits in the network frame.

    ``image_size`` is (height, width); ``pad`` is ``"square"`` (to ``long_side`` both ways, as published) or a
    whole number to whose multiples both sides are padded.  ``resize`` is ``"longest_side"``, or ``"stretch"`` when
    both sides become ``long_side`` and nothing is padded; ``pad`` is ``"square"`` then.  ``normalisation`` says how
    values are made, ``"mean_std"`` or ``"min_max"``; see `to_network`.  Raises ``InputError`` outside
    ``anymask.limits``.

    A stretched frame is resampled, both ways, as the one published model of its normalisation does: EfficientSAM
    (``"mean_std"``) or MedSAM (``"min_max"``).
    """

    image_size: tuple[int, int]
    long_side: int = 1024
    pad: Literal["square"] | int = "square"
    resize: Literal["longest_side", "stretch"] = "longest_side"
    normalisation: Literal["mean_std", "min_max"] = "mean_std"

    def __post_init__(self) -> None:
        height, width = self.image_size
        if not (
            1 <= height <= MAX_IMAGE_SIDE
            and 1 <= width <= MAX_IMAGE_SIDE
            and height * width <= MAX_IMAGE_PIXELS
        ):
            raise InputError(f"a frame needs an image size within the limits, got {width} x {height}")
        if not 1 <= self.long_side <= MAX_NETWORK_SIDE:
            raise InputError(
                f"a frame's long side must be from 1 to {MAX_NETWORK_SIDE}, got {self.long_side}"
            )
        if self.pad != "square" and not (isinstance(self.pad, int) and 1 <= self.pad <= MAX_NETWORK_SIDE):
            raise InputError(f"a frame's pad must be 'square' or a whole number, got {self.pad!r}")
        if self.resize not in ("longest_side", "stretch"):
            raise InputError(f"a frame's resize must be 'longest_side' or 'stretch', got {self.resize!r:.40}")
        if self.normalisation not in ("mean_std", "min_max"):
            raise InputError(
                f"a frame's normalisation must be 'mean_std' or 'min_max', got {self.normalisation!r:.40}"
            )
        if self.resize == "stretch" and self.pad != "square":
            raise InputError(f"a stretched frame is square, its pad cannot be {self.pad!r}")

    @property
    def resized_size(self) -> tuple[int, int]:
        """(height, width) of the scaled image before padding.

        As ``ResizeLongestSide.get_preprocess_shape``, except that a side never shrinks to 0: a 1 x 5000 image
        has one row where the published rule gives none.
        """
        if self.resize == "stretch":
            return (self.long_side, self.long_side)
        height, width = self.image_size
        scale = self.long_side * 1.0 / max(height, width)
        return (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))

    @property
    def network_size(self) -> tuple[int, int]:
        """(height, width) of the padded network frame."""
        if self.pad == "square":
            return (self.long_side, self.long_side)
        multiple = self.pad
        height, width = self.resized_size
        return (-(-height // multiple) * multiple, -(-width // multiple) * multiple)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Network pixels per image pixel, (x, y); they differ a little where ``resized_size`` was rounded."""
        return (self.resized_size[1] / self.image_size[1], self.resized_size[0] / self.image_size[0])

    def points_to_network(self, points_image: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) from image to network pixels; published ``apply_coords``, no half-pixel
        shift.
        """
        points_network: NDArray[np.float64] = _pairs(points_image) * np.array(self.scale_xy)
        return points_network

    def points_to_image(self, points_network: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) from network to image pixels: the inverse of ``points_to_network``."""
        points_image: NDArray[np.float64] = _pairs(points_network) / np.array(self.scale_xy)
        return points_image

    def boxes_to_network(self, boxes_image: ArrayLike) -> NDArray[np.float64]:
        """Boxes (..., 4) xyxy from image to network pixels; as ``ResizeLongestSide.apply_boxes``."""
        corners = np.asarray(boxes_image, dtype=np.float64)
        return self.points_to_network(_split(corners)).reshape(corners.shape)

    def boxes_to_image(self, boxes_network: ArrayLike) -> NDArray[np.float64]:
        """Boxes (..., 4) xyxy from network to image pixels."""
        corners = np.asarray(boxes_network, dtype=np.float64)
        return self.points_to_image(_split(corners)).reshape(corners.shape)

    def resize_image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) uint8 at ``resized_size``: Pillow's bilinear with antialiasing.

        The published code calls torchvision's ``resize`` on a Pillow image, which is this very function.
        """
        from PIL import Image as PillowImage

        self._check_size(pixels.shape[:2])
        height, width = self.resized_size
        if (height, width) == self.image_size:
            return pixels
        resized = PillowImage.fromarray(pixels).resize((width, height), PillowImage.Resampling.BILINEAR)
        return np.asarray(resized)

    def to_network(self, pixels: NDArray[np.uint8], mean: ArrayLike, std: ArrayLike) -> NDArray[np.float32]:
        """Image pixels (H, W, 3) uint8 as the network's input (1, 3, height, width) float32.

        Scaled, normalised, then padded with zeros, in the published order. ``"mean_std"``: (value - mean) / std with
        ``mean`` and ``std`` (3,) on the 0..255 scale. ``"min_max"``: the scaled picture's darkest value, over all
        channels, becomes 0 and its brightest 1; ``mean`` and ``std`` are not used.

        Stretched bilinearly in floating point without antialiasing (``EfficientSam.preprocess``), or for ``"min_max"``
        by a cubic spline after a Gaussian against aliasing, cut to whole grey levels (``MedSAM_Inference.py``, which
        calls scikit-image's ``resize``).
        """
        self._check_size(pixels.shape[:2])
        frame = np.zeros((1, 3, *self.network_size), dtype=np.float32)
        height, width = self.resized_size
        inside = frame[0, :, :height, :width]
        if self.resize == "longest_side":
            inside[:] = self.resize_image(pixels).transpose(2, 0, 1)
        else:
            for channel in range(3):
                plane = pixels[..., channel]
                if self.normalisation == "min_max":
                    # Cut as published; the tiny step keeps the rounding noise of flat areas from costing a level.
                    smooth = np.clip(cubic_spline(plane, (height, width)), pixels.min(), pixels.max())
                    inside[channel] = np.floor(smooth + 1e-9)
                else:
                    inside[channel] = _bilinear(plane.astype(np.float32), (height, width))
        if self.normalisation == "min_max":
            darkest = inside.min()
            inside -= darkest
            inside /= max(float(inside.max()), 1e-8)
        else:
            inside -= np.asarray(mean, dtype=np.float32).reshape(3, 1, 1)
            inside /= np.asarray(std, dtype=np.float32).reshape(3, 1, 1)
        return frame

    def mask_to_low_res(self, mask: NDArray[np.bool_], low_res_size: tuple[int, int]) -> NDArray[np.float32]:
        """A user's bool mask (H, W) as prompt logits of ``low_res_size`` (height, width) float32.

        Each cell's logit is linear in how much of it the mask covers: ``-MASK_PROMPT_LOGIT`` for none (and in
        the padding), 0 for half, ``+MASK_PROMPT_LOGIT`` for all.  Ours; the published code takes only logits
        here.
        """
        import cv2

        self._check_size(mask.shape)
        height, width = self.resized_size
        network = np.zeros(self.network_size, dtype=np.float32)
        network[:height, :width] = cv2.resize(
            mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        ).reshape(height, width)
        cover = cv2.resize(network, (low_res_size[1], low_res_size[0]), interpolation=cv2.INTER_AREA)
        logits: NDArray[np.float32] = (cover.reshape(low_res_size) * 2.0 - 1.0) * np.float32(
            MASK_PROMPT_LOGIT
        )
        return logits.astype(np.float32)

    def logits_to_low_res(
        self, logits_image: NDArray[np.float32], low_res_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (H, W) over the image -> prompt logits of ``low_res_size`` (height, width) float32.

        The way back of ``logits_to_image``: bilinear where a side grows, mean over the area where it shrinks;
        ``-MASK_PROMPT_LOGIT`` in the padding.
        """
        self._check_size(logits_image.shape)
        height, width = self.resized_size
        network = np.full(self.network_size, -MASK_PROMPT_LOGIT, dtype=np.float32)
        network[:height, :width] = _fitted(np.asarray(logits_image, dtype=np.float32), (height, width))
        return _fitted(network, low_res_size)

    def logits_to_image(self, low_res_logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (..., h, w) over the padded network frame -> (..., H, W) float32 over the image.

        As ``Sam.postprocess_masks``: bilinear with half-pixel centres (torch's ``align_corners=False``, no
        antialiasing) to the padded network size, crop the padding, bilinear again to the image size.

        From a stretched frame in one step: bicubic with a = -0.75, as ``EfficientSam.predict_masks``, or for
        ``"min_max"`` bilinear between probabilities, as ``medsam_inference``, and back to logits.
        """
        logits = np.asarray(low_res_logits, dtype=np.float32)
        planes = logits.reshape(-1, *logits.shape[-2:])
        image = np.empty((len(planes), *self.image_size), dtype=np.float32)
        upsampler = Upsampler(self)
        for plane, out in zip(planes, image, strict=True):
            answer = upsampler(plane, out)
            if answer is not out:
                out[...] = answer
        return image.reshape(*logits.shape[:-2], *self.image_size)

    def logits_to_masks(
        self, low_res_logits: NDArray[np.float32], threshold: float = 0.0
    ) -> NDArray[np.bool_]:
        """``logits_to_image(...) > threshold`` as bool (..., H, W), holding one float plane at a time."""
        logits = np.asarray(low_res_logits, dtype=np.float32)
        planes = logits.reshape(-1, *logits.shape[-2:])
        masks = np.empty((len(planes), *self.image_size), dtype=np.bool_)
        upsampler = Upsampler(self)
        for plane, mask in zip(planes, masks, strict=True):
            np.greater(upsampler(plane), threshold, out=mask)
        return masks.reshape(*logits.shape[:-2], *self.image_size)

    def _check_size(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.image_size:
            raise InputError(
                f"this frame is for an image of (height, width) {self.image_size}, got {tuple(shape)}"
            )


class Upsampler:
    """`Frame.logits_to_image` of one plane after another, in memory that is used again; belongs to one thread.

    Fresh memory of an image's size costs more than the arithmetic. Cells of which only padding is made are left out.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._network = np.empty(0, dtype=np.float32)
        self._image = np.empty((0, 0), dtype=np.float32)

    def __call__(
        self, low_res_logits: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Logits (h, w) float32 over the padded network frame -> (H, W) float32 over the image.

        The answer is good until the next call. It lies in ``out``, (H, W), where that is given, unless nothing had to
        be resized.
        """
        frame = self._frame
        if frame.resize == "stretch":
            if frame.normalisation == "mean_std":
                return _resampled(low_res_logits, frame.image_size, cubic=True)
            return _logit(_bilinear(_sigmoid(low_res_logits), frame.image_size))
        if out is None:
            if self._image.shape != frame.image_size:
                self._image = np.empty(frame.image_size, dtype=np.float32)
            out = self._image
        return bilinear(self._to_network(low_res_logits), out)

    def _to_network(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of the network frame without its padding."""
        frame = self._frame
        (height, width), size = frame.resized_size, frame.network_size
        if stride := whole_stride(frame, (logits.shape[0], logits.shape[1])):
            logits = logits[: -(-height // stride) + 1, : -(-width // stride) + 1]
            size = (logits.shape[0] * stride, logits.shape[1] * stride)
        area = size[0] * size[1]
        if self._network.size < area:
            self._network = np.empty(area, dtype=np.float32)
        return bilinear(logits, self._network[:area].reshape(size))[:height, :width]


def whole_stride(frame: Frame, low_res_size: tuple[int, int]) -> int:
    """Network pixels per cell of logits (height, width); 0 if that is no whole number."""
    strides = {divmod(side, cells) for side, cells in zip(frame.network_size, low_res_size, strict=True)}
    stride, rest = strides.pop()
    return stride if not strides and rest == 0 else 0


def crop_boxes(
    image_size: tuple[int, int], n_layers: int, overlap_ratio: float = 512 / 1500
) -> tuple[list[CropBox], list[int]]:
    """Boxes (x0, y0, x1, y1) of the whole image and of ``4 ** layer`` crops for each layer, and each one's
    layer.

    As ``generate_crop_boxes`` of ``segment_anything/utils/amg.py``, except that crops left empty by a tiny
    image are dropped.
    """
    if not 0 <= n_layers <= MAX_CROP_LAYERS:
        raise InputError(f"crop layers must be from 0 to {MAX_CROP_LAYERS}, got {n_layers}")
    if not 0 <= overlap_ratio < 1:
        raise InputError(f"the crop overlap must be at least 0 and below 1, got {overlap_ratio}")
    height, width = image_size
    boxes: list[CropBox] = [(0, 0, width, height)]
    layers = [0]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_width = math.ceil((overlap * (per_side - 1) + width) / per_side)
        crop_height = math.ceil((overlap * (per_side - 1) + height) / per_side)
        lefts = [(crop_width - overlap) * index for index in range(per_side)]
        tops = [(crop_height - overlap) * index for index in range(per_side)]
        for x0, y0 in product(lefts, tops):
            if x0 < width and y0 < height:
                boxes.append((x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)))
                layers.append(layer)
    return boxes, layers


def crop_to_image(coordinates_crop: ArrayLike, crop_box: CropBox) -> NDArray[np.float64]:
    """Points (..., 2) or boxes (..., 4) from pixels of the crop to pixels of the image."""
    coordinates = np.asarray(coordinates_crop, dtype=np.float64)
    return coordinates + _corner(coordinates, crop_box)


def image_to_crop(coordinates_image: ArrayLike, crop_box: CropBox) -> NDArray[np.float64]:
    """Points (..., 2) or boxes (..., 4) from pixels of the image to pixels of the crop."""
    coordinates = np.asarray(coordinates_image, dtype=np.float64)
    return coordinates - _corner(coordinates, crop_box)


def uncrop_masks(
    masks_crop: NDArray[np.bool_], crop_box: CropBox, image_size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Bool masks (..., h, w) of a crop placed in the image, (..., H, W), False elsewhere; as published."""
    x0, y0, x1, y1 = crop_box
    if masks_crop.shape[-2:] != (y1 - y0, x1 - x0):
        raise InputError(f"masks of {masks_crop.shape[-2:]} do not fit the crop box {crop_box}")
    masks = np.zeros((*masks_crop.shape[:-2], *image_size), dtype=np.bool_)
    masks[..., y0:y1, x0:x1] = masks_crop
    return masks


def _bilinear(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return _resampled(plane, size, cubic=False)


def _resampled(plane: NDArray[np.float32], size: tuple[int, int], cubic: bool) -> NDArray[np.float32]:
    """One plane (h, w) at ``size`` (height, width): bilinear or bicubic, half-pixel centres, edges repeated, no
    antialiasing.
    """
    import cv2

    if plane.shape == size:
        return plane
    how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    resized = cv2.resize(plane, (size[1], size[0]), interpolation=how)
    return np.asarray(resized, dtype=np.float32).reshape(size)


def _fitted(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """One plane (h, w) at ``size`` (height, width): each axis bilinear where it grows, mean over area where it
    shrinks.
    """
    import cv2

    for target in ((size[0], plane.shape[1]), size):
        how = cv2.INTER_AREA if target[0] * target[1] < plane.size else cv2.INTER_LINEAR
        if plane.shape != target:
            resized = cv2.resize(plane, (target[1], target[0]), interpolation=how)
            plane = np.asarray(resized, dtype=np.float32).reshape(target)
    return plane


def _sigmoid(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(plane, -LARGEST_LOGIT, LARGEST_LOGIT))), dtype=np.float32)


def _logit(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.log(plane / (1 - plane)), dtype=np.float32)


def _pairs(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.shape[-1:] != (2,):
        raise InputError(f"points must be (x, y) pairs, got an array of shape {array.shape}")
    return array


def _split(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    if boxes.shape[-1:] != (4,):
        raise InputError(f"boxes must be (x0, y0, x1, y1), got an array of shape {boxes.shape}")
    return boxes.reshape(*boxes.shape[:-1], 2, 2)


def _corner(coordinates: NDArray[np.float64], crop_box: CropBox) -> NDArray[np.float64]:
    if coordinates.shape[-1:] not in ((2,), (4,)):
        raise InputError(f"expected points (..., 2) or boxes (..., 4), got shape {coordinates.shape}")
    return np.tile(np.array(crop_box[:2], dtype=np.float64), coordinates.shape[-1] // 2)
