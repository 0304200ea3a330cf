"""Mask and MaskSet: what comes out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from anymask.atomic import write_atomically
from anymask.errors import MaskError, OutputError
from anymask.masks import rle as rle_codec
from anymask.masks.boxes import half_open_to_published, mask_to_box
from anymask.masks.polygons import Polygon, mask_to_polygons
from anymask.masks.rle import Rle

__all__ = ["Mask", "MaskSet"]


class Mask:
    """One object's mask with its scores; immutable.

    Born from an array (``Mask(array, score)``) or from run lengths (``Mask.from_rle(rle, score)``); the other
    view is made when asked for.  A mask born from run lengths decodes at every access to ``array`` and so
    costs little memory while it waits: keep the array in a variable where it is used much.
    """

    __slots__ = ("__weakref__", "_array", "_counts", "crop_box", "low_res_logits", "point", "score", "size",
                 "stability_score")  # fmt: skip

    _array: NDArray[np.bool_] | None
    _counts: NDArray[np.int64] | None
    score: float
    """The network's own estimate of IoU (``predicted_iou``); finite."""
    size: tuple[int, int]
    """(height, width) of the image."""
    low_res_logits: NDArray[np.float32] | None
    """Logits (h, w) in the padded network frame, read-only; give them back as ``mask=`` to refine."""
    stability_score: float | None
    """IoU of the mask cut a little above and a little below the threshold."""
    point: tuple[float, float] | None
    """(x, y) of the grid point that found the mask, in image pixels."""
    crop_box: tuple[float, float, float, float] | None
    """(x0, y0, x1, y1) of the crop the mask was found in, in image pixels."""

    def __init__(
        self,
        array: NDArray[np.bool_],
        score: float,
        *,
        low_res_logits: NDArray[np.float32] | None = None,
        stability_score: float | None = None,
        point: tuple[float, float] | None = None,
        crop_box: tuple[float, float, float, float] | None = None,
    ) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_ or array.ndim != 2 or array.size == 0:
            seen = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise MaskError(
                f"a Mask holds a non-empty 2-D bool array, got {seen}; threshold the logits first"
            )
        if array.flags.writeable or not array.flags.c_contiguous:
            array = np.array(array, order="C")
            array.setflags(write=False)
        self._fill(array, None, (int(array.shape[0]), int(array.shape[1])), score)
        self._annotate(low_res_logits, stability_score, point, crop_box)

    @classmethod
    def from_rle(
        cls,
        rle: Rle,
        score: float,
        *,
        low_res_logits: NDArray[np.float32] | None = None,
        stability_score: float | None = None,
        point: tuple[float, float] | None = None,
        crop_box: tuple[float, float, float, float] | None = None,
    ) -> Mask:
        """A mask from a COCO record, compressed or not; raises ``RleError`` unless it is sound."""
        counts, size = rle_codec.parse(rle)
        mask = cls.__new__(cls)
        mask._fill(None, counts, size, score)
        mask._annotate(low_res_logits, stability_score, point, crop_box)
        return mask

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Mask is immutable; {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Mask is immutable; {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _rebuild,
            (self.rle, self.score, self.low_res_logits, self.stability_score, self.point, self.crop_box),
        )

    def __repr__(self) -> str:
        height, width = self.size
        return f"Mask({width} x {height}, score={self.score:.4f}, area={self.area}, box_xyxy={self.box_xyxy})"

    @property
    def array(self) -> NDArray[np.bool_]:
        """(H, W) bool, read-only."""
        if self._array is not None:
            return self._array
        array = rle_codec.decode_counts(self.counts, self.size)
        array.setflags(write=False)
        return array

    @property
    def counts(self) -> NDArray[np.int64]:
        """Column-major run lengths, background first, read-only; made once."""
        if self._counts is None:
            counts = rle_codec.encode_counts(self.array)
            counts.setflags(write=False)
            object.__setattr__(self, "_counts", counts)
        assert self._counts is not None
        return self._counts

    @property
    def rle(self) -> Rle:
        """COCO compressed record ``{"size": [height, width], "counts": text}``; fresh at each access."""
        return {"size": [self.size[0], self.size[1]], "counts": rle_codec.counts_to_string(self.counts)}

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Tight half-open box (x0, y0, x1, y1): x1 - x0 is the width in pixels; zeros for an empty mask."""
        return mask_to_box(self._array) if self._array is not None else rle_codec.box(self.counts, self.size)

    @property
    def area(self) -> int:
        """Pixels set."""
        return int(np.count_nonzero(self._array)) if self._array is not None else rle_codec.area(self.counts)

    def polygons(self, tolerance: float = 0.0) -> list[Polygon]:
        """The outline as polygons with holes, exact at tolerance 0; see ``anymask.masks.polygons``."""
        return mask_to_polygons(self.array, tolerance)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an 8-bit grey PNG, 0 outside and 255 inside, whole or not at all.  Raises ``OutputError``."""
        from PIL import Image as PillowImage

        target = Path(path)
        if target.suffix.lower() != ".png":
            raise OutputError(f"a mask is saved as PNG; give a name that ends in .png, not {target.name!r}")
        buffer = io.BytesIO()
        PillowImage.fromarray(self.array.view(np.uint8) * np.uint8(255)).save(buffer, format="PNG")
        return write_atomically(target, buffer.getvalue())

    def to_record(self, id: int) -> dict[str, Any]:
        """The SA-1B annotation dictionary, ready for JSON, keys in the published order.

        ``bbox`` and ``crop_box`` are XYWH; ``bbox`` keeps the published inclusive maxima, so a mask one pixel
        wide has width 0.  Without a grid point ``point_coords`` is ``[]``; without a crop ``crop_box`` is the
        whole image; without a stability score it is None.
        """
        x0, y0, x1, y1 = half_open_to_published(self.box_xyxy)
        crop = self.crop_box or (0, 0, self.size[1], self.size[0])
        return {
            "id": int(id),
            "segmentation": self.rle,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": self.area,
            "predicted_iou": self.score,
            "stability_score": self.stability_score,
            "crop_box": [crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1]],
            "point_coords": [] if self.point is None else [list(self.point)],
        }

    def _fill(
        self,
        array: NDArray[np.bool_] | None,
        counts: NDArray[np.int64] | None,
        size: tuple[int, int],
        score: float,
    ) -> None:
        if counts is not None and counts.flags.writeable:
            counts = counts.copy()
            counts.setflags(write=False)
        object.__setattr__(self, "_array", array)
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "score", _finite(score, "score"))

    def _annotate(
        self,
        low_res_logits: NDArray[np.float32] | None,
        stability_score: float | None,
        point: tuple[float, float] | None,
        crop_box: tuple[float, float, float, float] | None,
    ) -> None:
        if low_res_logits is not None:
            if low_res_logits.ndim != 2 or low_res_logits.dtype != np.float32:
                seen = f"{low_res_logits.dtype} {low_res_logits.shape}"
                raise MaskError(f"low_res_logits must be a 2-D float32 array, got {seen}")
            low_res_logits = np.array(low_res_logits, order="C")
            low_res_logits.setflags(write=False)
        object.__setattr__(self, "low_res_logits", low_res_logits)
        stability = None if stability_score is None else _finite(stability_score, "stability_score")
        object.__setattr__(self, "stability_score", stability)
        object.__setattr__(self, "point", None if point is None else _finite_tuple(point, 2, "point"))
        object.__setattr__(
            self, "crop_box", None if crop_box is None else _finite_tuple(crop_box, 4, "crop_box")
        )


class MaskSet(Sequence[Mask]):
    """Masks of one image, best score first; equal scores keep the order they came in.

    ``image_size`` (height, width) is needed only for an empty set.  Raises ``MaskError`` on masks of
    different sizes.
    """

    __slots__ = ("_masks", "image_size")

    def __init__(self, masks: Iterable[Mask], image_size: tuple[int, int] | None = None) -> None:
        ordered = sorted(masks, key=lambda mask: -mask.score)
        if image_size is None:
            if not ordered:
                raise MaskError("an empty MaskSet needs image_size=(height, width)")
            image_size = ordered[0].size
        self.image_size: tuple[int, int] = (int(image_size[0]), int(image_size[1]))
        for mask in ordered:
            if mask.size != self.image_size:
                raise MaskError(
                    f"a MaskSet of image size {self.image_size} cannot hold a mask of {mask.size}"
                )
        self._masks = tuple(ordered)

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[Mask]:
        return iter(self._masks)

    @overload
    def __getitem__(self, index: int) -> Mask: ...
    @overload
    def __getitem__(self, index: slice) -> MaskSet: ...
    def __getitem__(self, index: int | slice) -> Mask | MaskSet:
        if isinstance(index, slice):
            return MaskSet(self._masks[index], self.image_size)
        return self._masks[index]

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"MaskSet({len(self)} masks of {width} x {height})"

    @property
    def scores(self) -> NDArray[np.float64]:
        """(N,) float64, best first."""
        return np.array([mask.score for mask in self._masks], dtype=np.float64)

    def to_records(self) -> list[dict[str, Any]]:
        """SA-1B annotation dictionaries, ids from 0 in this order."""
        return [mask.to_record(index) for index, mask in enumerate(self._masks)]


def _finite(value: float, name: str) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise MaskError(f"a mask's {name} must be finite, got {number}")
    return number


def _finite_tuple(values: Iterable[float], count: int, name: str) -> Any:
    numbers = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    if len(numbers) != count or not all(np.isfinite(number) for number in numbers):
        raise MaskError(f"a mask's {name} must be {count} finite numbers, got {numbers!r:.80}")
    return numbers


def _rebuild(
    rle: Rle,
    score: float,
    low_res_logits: NDArray[np.float32] | None,
    stability_score: float | None,
    point: tuple[float, float] | None,
    crop_box: tuple[float, float, float, float] | None,
) -> Mask:
    """Undo ``Mask.__reduce__``."""
    return Mask.from_rle(
        rle,
        score,
        low_res_logits=low_res_logits,
        stability_score=stability_score,
        point=point,
        crop_box=crop_box,
    )
