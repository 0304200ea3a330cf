"""Run-length encoding of masks: the COCO format, read with distrust.

A mask is read down its columns (column-major order) as runs of 0 and 1 in turn, starting with a run of 0 that
may be empty.  COCO's compressed form writes run ``i`` (from the fourth on, minus run ``i - 2``) as little
groups of five bits, low group first, in characters ``chr(48 + group)``; bit 5 of a group says that more
follow, and bit 4 of the last group is the sign.  Source: ``common/maskApi.c`` of the COCO API
(``rleToString``, ``rleFrString``).

Everything is checked before it is used: whole non-negative counts, adding up to height x width, within
``limits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from anymask.errors import RleError
from anymask.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, MAX_RLE_CHARACTERS, MAX_RLE_COUNTS

__all__ = [
    "Rle",
    "area",
    "box",
    "counts_from_string",
    "counts_to_string",
    "decode",
    "decode_counts",
    "encode",
    "encode_counts",
    "intersection",
    "iou",
    "parse",
]

_GROUPS: Final = 6  # six groups of five bits hold every difference of two counts within MAX_IMAGE_PIXELS


class Rle(TypedDict):
    """COCO's compressed record: ``size`` is ``[height, width]``, ``counts`` is text (never bytes, so JSON
    takes it).
    """

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> Rle:
    """The compressed record of a bool mask (H, W)."""
    counts = encode_counts(mask)
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": counts_to_string(counts)}


def decode(rle: Mapping[str, object]) -> NDArray[np.bool_]:
    """The bool mask (H, W), C-contiguous, of a compressed or uncompressed record; raises ``RleError``."""
    counts, size = parse(rle)
    return decode_counts(counts, size)


def encode_counts(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The runs of a bool mask (H, W), first the background's; ``RleError`` on another shape or dtype."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise RleError(
            f"a mask must be a non-empty 2-D bool array, got shape {mask.shape} dtype {mask.dtype}"
        )
    _check_size(mask.shape[0], mask.shape[1])
    flat = np.ascontiguousarray(mask.T).reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if changes.size + 2 > MAX_RLE_COUNTS:
        raise RleError(f"the mask has {changes.size + 1} runs, over the limit of {MAX_RLE_COUNTS}")
    first = [0, 0] if flat[0] else [0]
    return np.diff(np.concatenate([first, changes, [flat.size]])).astype(np.int64)


def decode_counts(counts: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The bool mask (H, W) of runs for ``size`` = (height, width); ``RleError`` unless they add up."""
    height, width = size
    counts = _checked(counts, height, width)
    values = np.zeros(counts.size, dtype=np.bool_)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def parse(rle: Mapping[str, object]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Checked counts and (height, width) of a record whose counts are text, bytes or whole numbers."""
    if not isinstance(rle, Mapping):
        raise RleError(f"an RLE must be a mapping with 'size' and 'counts', got {type(rle).__name__}")
    if "size" not in rle or "counts" not in rle:
        raise RleError(f"an RLE needs the keys 'size' and 'counts', got {sorted(map(str, rle))[:8]}")
    height, width = _parse_size(rle["size"])
    raw = rle["counts"]
    if isinstance(raw, (str, bytes)):
        counts = counts_from_string(raw)
    elif isinstance(raw, (list, tuple, np.ndarray)):
        counts = _counts_from_list(raw)
    else:
        raise RleError(f"RLE counts must be text or a list of whole numbers, got {type(raw).__name__}")
    return _checked(counts, height, width), (height, width)


def counts_to_string(counts: NDArray[np.int64]) -> str:
    """COCO's compressed text of non-negative counts."""
    values = np.array(counts, dtype=np.int64)
    values[3:] -= np.asarray(counts, dtype=np.int64)[1:-2]
    lengths = np.ones(values.size, dtype=np.int64)
    for group in range(1, _GROUPS + 1):
        bound = 1 << (5 * group - 1)
        lengths[(values < -bound) | (values >= bound)] = group + 1
    if lengths.size and lengths.max() > _GROUPS:
        raise RleError(f"a run is over the limit of {MAX_IMAGE_PIXELS} pixels")
    starts = np.cumsum(lengths) - lengths
    text = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for group in range(_GROUPS):
        here = lengths > group
        if not here.any():
            break
        bits = (values[here] >> (5 * group)) & 0x1F
        more = np.where(lengths[here] > group + 1, 0x20, 0)
        text[starts[here] + group] = bits + more + 48
    return text.tobytes().decode("ascii")


def counts_from_string(text: str | bytes) -> NDArray[np.int64]:
    """Counts of COCO's compressed text; raises ``RleError`` on bad characters, truncation or a negative
    count.
    """
    if len(text) > MAX_RLE_CHARACTERS:
        raise RleError(f"the RLE text has {len(text)} characters, over the limit of {MAX_RLE_CHARACTERS}")
    try:
        raw = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise RleError("the RLE text holds characters outside ASCII") from error
    if not raw:
        raise RleError("the RLE text is empty")
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if groups.min() < 0 or groups.max() > 63:
        where = int(np.flatnonzero((groups < 0) | (groups > 63))[0])
        raise RleError(f"the RLE text holds the character {chr(raw[where])!r} at position {where}")
    last = np.flatnonzero(groups & 0x20 == 0)
    if last.size == 0 or last[-1] != groups.size - 1:
        raise RleError("the RLE text is cut short in the middle of a count")
    if last.size > MAX_RLE_COUNTS:
        raise RleError(f"the RLE has {last.size} runs, over the limit of {MAX_RLE_COUNTS}")
    starts = np.concatenate([[0], last[:-1] + 1])
    lengths = last - starts + 1
    if lengths.max() > _GROUPS:
        raise RleError(
            f"the RLE text holds a count of {int(lengths.max())} groups, over the limit of {_GROUPS}"
        )
    position = np.arange(groups.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 0x1F) << (5 * position), starts)
    values -= np.where(groups[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise RleError(f"the RLE text holds the negative count {int(values.min())}")
    return values


def area(counts: NDArray[np.int64]) -> int:
    """Foreground pixels of checked counts."""
    return int(np.asarray(counts)[1::2].sum())


def box(counts: NDArray[np.int64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Tight half-open box (x0, y0, x1, y1) of checked counts, without decoding; (0, 0, 0, 0) for an empty
    mask.
    """
    height = size[0]
    ends = np.cumsum(counts)[1::2]
    runs = np.asarray(counts)[1::2]
    ends, runs = ends[runs > 0], runs[runs > 0]
    if runs.size == 0:
        return (0, 0, 0, 0)
    starts, lasts = ends - runs, ends - 1
    first_column, last_column = starts // height, lasts // height
    if np.any(first_column != last_column):
        y0, y1 = _rows_of_long_runs(starts, lasts, height)
    else:
        y0, y1 = int((starts % height).min()), int((lasts % height).max()) + 1
    return (int(first_column.min()), y0, int(last_column.max()) + 1, y1)


def intersection(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Pixels in both masks, from checked counts of two masks of the same size."""
    ends_first, ends_second = np.cumsum(first), np.cumsum(second)
    if ends_first[-1] != ends_second[-1]:
        raise RleError(f"two masks of {ends_first[-1]} and {ends_second[-1]} pixels cannot be compared")
    ends = np.union1d(ends_first, ends_second)
    starts = np.concatenate([[0], ends[:-1]])
    in_first = np.searchsorted(ends_first, starts, side="right") % 2 == 1
    in_second = np.searchsorted(ends_second, starts, side="right") % 2 == 1
    return int((ends - starts)[in_first & in_second].sum())


def iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Intersection over union of two masks of the same size; 1.0 when both are empty."""
    common = intersection(first, second)
    union = area(first) + area(second) - common
    return common / union if union else 1.0


def _rows_of_long_runs(starts: NDArray[np.int64], lasts: NDArray[np.int64], height: int) -> tuple[int, int]:
    """First row and past-the-last row when some runs cross from one column into the next."""
    crosses = starts // height != lasts // height
    tops = np.where(crosses, 0, starts % height)
    bottoms = np.where(crosses, height - 1, lasts % height)
    return int(tops.min()), int(bottoms.max()) + 1


def _counts_from_list(raw: object) -> NDArray[np.int64]:
    if len(raw) > MAX_RLE_COUNTS:  # type: ignore[arg-type]
        raise RleError(f"the RLE has {len(raw)} runs, over the limit of {MAX_RLE_COUNTS}")  # type: ignore[arg-type]
    try:
        counts = np.asarray(raw)
    except (ValueError, TypeError, OverflowError) as error:
        raise RleError("RLE counts must be a flat list of whole numbers") from error
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.size == 0:
        raise RleError(
            f"RLE counts must be a flat list of whole numbers, got {counts.dtype} of shape {counts.shape}"
        )
    if int(counts.max()) > MAX_IMAGE_PIXELS:
        raise RleError(f"RLE counts hold {int(counts.max())}, over the limit of {MAX_IMAGE_PIXELS} pixels")
    return counts.astype(np.int64)


def _parse_size(raw: object) -> tuple[int, int]:
    if not isinstance(raw, (list, tuple, np.ndarray)) or len(raw) != 2:
        raise RleError(f"an RLE's size must be [height, width], got {raw!r:.80}")
    for side in raw:
        if not isinstance(side, (int, np.integer)) or isinstance(side, bool):
            raise RleError(f"an RLE's size must be two whole numbers, got {raw!r:.80}")
    height, width = int(raw[0]), int(raw[1])
    _check_size(height, width)
    return height, width


def _check_size(height: int, width: int) -> None:
    if not (1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE):
        raise RleError(
            f"an RLE's height and width must be from 1 to {MAX_IMAGE_SIDE}, got {height} x {width}"
        )
    if height * width > MAX_IMAGE_PIXELS:
        raise RleError(f"a mask of {height} x {width} pixels is over the limit of {MAX_IMAGE_PIXELS}")


def _checked(counts: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    _check_size(height, width)
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.size == 0:
        raise RleError(f"RLE counts must be a flat array of whole numbers, got {counts.dtype} {counts.shape}")
    smallest, largest, total = int(counts.min()), int(counts.max()), height * width
    if smallest < 0 or largest > total:
        raise RleError(f"RLE counts hold {smallest if smallest < 0 else largest}, outside 0 to {total}")
    if int(counts.sum(dtype=np.int64)) != total:
        raise RleError(
            f"RLE counts add up to {int(counts.sum(dtype=np.int64))}, not {height} x {width} = {total}"
        )
    return counts.astype(np.int64, copy=False)
