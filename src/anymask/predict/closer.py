"""A closer look: each answer is asked for again on a window cut out around it, where its object has more pixels.

A network sees every image at one size, so a small object is a few cells of its map. The second look encodes only the
object's surroundings at that same size, and asks with the same prompt and the first answer. It costs an encode for
every object.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import EmbeddingMismatchError, InputError, MaskError
from anymask.frame import CropBox, image_to_crop
from anymask.image import ImageSource, read_image
from anymask.predict.segmenter import ARRAY_BYTES, Segmenter, as_run_lengths
from anymask.runtime.backend import Backend, ModelSpec
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

__all__ = ["CloserEmbedding", "CloserLook", "look_window"]

FACTOR: Final = 2.5
LARGEST_SHARE: Final = 0.5
SLIMMEST: Final = 0.5
"""Shorter side of a window by its longer one, at least."""
SMALLEST_SIDE: Final = 32
"""Pixels of a window's side, at least, where the image has them."""
SAME_WINDOW: Final = 0.8
"""IoU from which two candidates of one prompt share a window."""

_VERSION: Final = 1
"""Raised when the same pictures and prompts would get other answers."""

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False, repr=False)
class CloserEmbedding(Embedding):
    """An embedding with the picture it was made of, from which windows are cut.

    ``save`` writes the embedding alone. Raises `EmbeddingMismatchError` for another picture than that of the
    embedding.
    """

    picture: Image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.picture.digest != self.image_digest:
            raise EmbeddingMismatchError("the embedding was made from another image; embed the image again")

    @classmethod
    def of(cls, embedding: Embedding, picture: Image) -> CloserEmbedding:
        """An embedding, made or loaded, with its picture."""
        return cls(
            embedding.features,
            embedding.image_size,
            embedding.network_size,
            embedding.image_digest,
            embedding.model_digest,
            embedding.preprocessing,
            picture,
        )


class CloserLook:
    """A `Segmenter` that looks twice; has the same verbs.

    A candidate's window is `look_window` of its mask. It is cut from the image, encoded, and asked for one mask with
    the prompt and the candidate's own logits; that answer takes the candidate's place: its mask is the window's
    answer, with nothing outside of the window, and ``crop_box`` is the window. ``score`` stays that of the first look,
    by which candidates are ranked. So do ``low_res_logits``, to be given back with a further click: the second look's,
    averaged to the whole image's cells, served the next click no better (measured on held-back training images).

    A candidate stays as it was when it is empty, when its window is more than ``largest_share`` of the image, or when
    the second look finds nothing.

    Safe to share between threads.
    """

    def __init__(
        self, segmenter: Segmenter, factor: float = FACTOR, largest_share: float = LARGEST_SHARE
    ) -> None:
        """Look closer with ``segmenter``.

        Args:
            segmenter: answers both times.
            factor: sides of a window by those of what it surrounds, 1 or more.
            largest_share: of the image's area; over 0, at most 1.

        Raises `InputError` for a number out of range.
        """
        if not 1.0 <= factor < math.inf:
            raise InputError(f"the closer look's factor must be a number from 1, got {factor}")
        if not 0.0 < largest_share <= 1.0:
            raise InputError(
                f"the closer look's largest share must be over 0 and at most 1, got {largest_share}"
            )
        self.segmenter = segmenter
        self.factor = float(factor)
        self.largest_share = float(largest_share)
        # Windows are not worth a place in the cache on disk.
        self._windows = Segmenter(segmenter.backend).in_frame(segmenter.spec.long_side)

    @property
    def backend(self) -> Backend:
        """What runs the model."""
        return self.segmenter.backend

    @property
    def spec(self) -> ModelSpec:
        """Name, digest and frame of the model."""
        return self.segmenter.spec

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all that decides the answers: the model, the two numbers, the rule's version."""
        text = f"closer look {_VERSION} {self.factor!r} {self.largest_share!r} {self.spec.digest}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"CloserLook({self.segmenter!r}, factor={self.factor:g}, largest_share={self.largest_share:g})"

    def embed(self, image: ImageSource) -> CloserEmbedding:
        """As `Segmenter.embed`; the pixels stay with the embedding."""
        picture = read_image(image)
        return CloserEmbedding.of(self.segmenter.embed(picture), picture)

    def segment(
        self,
        image: Embedding | ImageSource,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        """The masks of one object, each looked at closer; arguments and errors as `Segmenter.segment`.

        Raises `EmbeddingMismatchError` also for an embedding without its picture.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask)
        return self.segment_many(image, [prompt], multimask)[0]

    def segment_many(
        self, image: Embedding | ImageSource, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]:
        """The masks of many objects, one set per prompt in their order; equal to asking one by one."""
        embedding = image if isinstance(image, Embedding) else self.embed(image)
        if not isinstance(embedding, CloserEmbedding):
            raise EmbeddingMismatchError(
                "a closer look needs the picture: embed it with CloserLook.embed, or give CloserEmbedding.of("
                "embedding, picture)"
            )
        prompts = list(prompts)
        first = self.segmenter.segment_many(embedding, prompts, multimask)
        height, width = embedding.image_size
        as_arrays = sum(map(len, first)) * height * width <= ARRAY_BYTES
        looked = []
        for prompt, masks in zip(prompts, first, strict=True):
            closer = self.look_closer(embedding.picture, prompt, masks)
            looked.append(closer if as_arrays else MaskSet(map(as_run_lengths, closer), masks.image_size))
        return looked

    def look_closer(self, picture: Image, prompt: Prompt, masks: MaskSet) -> MaskSet:
        """The second look alone, at answers that ``segmenter`` gave to ``prompt`` on ``picture``, all or some.

        Those of about the same window share one encode. Raises `MaskError` for masks of another size.
        """
        if masks.image_size != picture.size:
            raise MaskError(f"the masks are of an image of {masks.image_size}, the picture is {picture.size}")
        encoded: dict[CropBox, Embedding] = {}
        closer = []
        for mask in masks:
            window = self._window(mask, prompt)
            if window is not None:
                window = next((other for other in encoded if _serves(other, window, mask)), window)
                if window not in encoded:
                    encoded[window] = self._windows.embed(_cut(picture.pixels, window))
                mask = self._look(encoded[window], window, prompt, mask)
            closer.append(mask)
        return MaskSet(closer, masks.image_size)

    def _window(self, mask: Mask, prompt: Prompt) -> CropBox | None:
        """Where to look closer at a candidate; None where not to."""
        if not mask.area or mask.low_res_logits is None:
            return None
        height, width = mask.size
        window = look_window(mask.box_xyxy, mask.size, self.factor, prompt.points, prompt.box)
        return window if _area(window) <= self.largest_share * height * width else None

    def _look(self, encoded: Embedding, window: CropBox, prompt: Prompt, mask: Mask) -> Mask:
        """What the window's embedding answers, in the place of a candidate."""
        assert mask.low_res_logits is not None
        frame, window_frame = self._windows.frame(mask.size), self._windows.frame(encoded.image_size)
        given = _cut(frame.logits_to_image(mask.low_res_logits), window)
        (answer,) = self._windows.segment(
            encoded,
            points=None if prompt.points is None else image_to_crop(prompt.points, window),
            labels=prompt.labels,
            box=None if prompt.box is None else image_to_crop(prompt.box, window),
            mask=window_frame.logits_to_low_res(given, self._windows.low_res_size(window_frame)),
            multimask=False,
        )
        if not answer.area:
            return mask
        array = np.zeros(mask.size, dtype=np.bool_)
        _cut(array, window)[:] = answer.array
        return Mask(
            array,
            mask.score,
            low_res_logits=mask.low_res_logits,
            stability_score=answer.stability_score,
            point=mask.point,
            crop_box=window,
        )


def look_window(
    box_xyxy: tuple[int, int, int, int],
    image_size: tuple[int, int],
    factor: float = FACTOR,
    points: NDArray[np.float64] | None = None,
    box: NDArray[np.float64] | None = None,
) -> CropBox:
    """The window (x0, y0, x1, y1), whole pixels, in which an object is looked at closer.

    ``factor`` times the object's box about its middle, the shorter side at least half the longer, widened to hold the
    clicks and the prompt's box, clipped to the image; then at least 32 pixels a side where the image has them.

    Args:
        box_xyxy: of the object, half-open.
        image_size: (height, width).
        factor: sides of the window by those of the object.
        points: (N, 2), clicks (x, y).
        box: (4,), the prompt's box.
    """
    height, width = image_size
    x0, y0, x1, y1 = box_xyxy
    sides = np.array([x1 - x0, y1 - y0]) * factor
    half = np.maximum(sides, SLIMMEST * sides.max()) / 2
    middle = np.array([x0 + x1, y0 + y1]) / 2
    corners = [middle - half, middle + half]
    if points is not None:
        corners.extend(points)
    if box is not None:
        corners.extend(box.reshape(2, 2))
    left, top = np.min(corners, axis=0).tolist()
    right, bottom = np.max(corners, axis=0).tolist()
    x0, x1 = _span(left, right, width)
    y0, y1 = _span(top, bottom, height)
    return (x0, y0, x1, y1)


def _span(low: float, high: float, side: int) -> tuple[int, int]:
    """Whole pixels from ``low`` to ``high`` within 0 to ``side``, grown about their middle where too few."""
    first, last = max(0, math.floor(low)), min(side, math.ceil(high))
    length = min(side, SMALLEST_SIDE)
    if last - first < length:
        first = min(max(0, (first + last - length) // 2), side - length)
        last = first + length
    return first, last


def _area(window: CropBox) -> int:
    x0, y0, x1, y1 = window
    return max(0, x1 - x0) * max(0, y1 - y0)


def _cut(array: NDArray[Scalar], window: CropBox) -> NDArray[Scalar]:
    """The window of an array (H, W, ...), as a view."""
    x0, y0, x1, y1 = window
    return array[y0:y1, x0:x1]


def _serves(encoded: CropBox, wanted: CropBox, mask: Mask) -> bool:
    """Whether a window that is encoded already is as good as the wanted one: about the same, and holds the mask."""
    x0, y0, x1, y1 = mask.box_xyxy
    if not (encoded[0] <= x0 and encoded[1] <= y0 and x1 <= encoded[2] and y1 <= encoded[3]):
        return False
    low, high = np.maximum(encoded[:2], wanted[:2]), np.minimum(encoded[2:], wanted[2:])
    common = _area((*low.tolist(), *high.tolist()))
    return common >= SAME_WINDOW * (_area(encoded) + _area(wanted) - common)
