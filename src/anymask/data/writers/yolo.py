"""YOLO segmentation labels: ``labels/NAME.txt`` with one ring a line, and ``data.yaml``.

A line is ``class x1 y1 x2 y2 ...``, coordinates as shares of the picture's width and height. One ring holds neither
holes nor a second part, so what it cannot hold is either told or left out: see `yolo_labels`.

Source of the format: the Ultralytics page "Instance Segmentation Datasets Overview".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from anymask.errors import InputError
from anymask.types import Mask

from .outlines import Outline, single_outline

__all__ = ["YoloLabels", "data_yaml", "yolo_labels"]

_DIGITS: Final = 6
"""Put a vertex within 0.04 pixels of its place in the widest picture allowed."""


@dataclass(frozen=True)
class YoloLabels:
    """The labels of one picture.

    Attributes:
        text: the file, a line for each mask written.
        simplified: (number, outline) of the masks written whose ring is not the whole mask.
        left_out: (number, outline) of the masks that a ring holds too badly.
    """

    text: str
    simplified: tuple[tuple[int, Outline], ...]
    left_out: tuple[tuple[int, Outline], ...]


def yolo_labels(
    masks: Sequence[Mask], classes: Sequence[int] | None = None, tolerance: float = 0.0
) -> YoloLabels:
    """Each mask as the ring around its largest part.

    Where that overlaps the mask by `outlines.LEAST_IOU` or more it is written, small holes and islands lost; otherwise
    the mask is left out. Both are told.

    Args:
        masks: of one picture.
        classes: their class numbers; all 0 when not given.
        tolerance: pixels that outlines may be thinned by.

    Raises:
        InputError: classes that do not go with the masks.
    """
    numbers = [0] * len(masks) if classes is None else list(classes)
    if len(numbers) != len(masks) or any(number < 0 for number in numbers):
        raise InputError(f"{len(masks)} masks need as many class numbers, 0 or more, got {numbers!r:.60}")
    lines, simplified, left_out = [], [], []
    for index, (mask, number) in enumerate(zip(masks, numbers, strict=True)):
        outline = single_outline(mask, tolerance, _DIGITS)
        if not outline.is_close:
            left_out.append((index, outline))
            continue
        if not outline.is_whole:
            simplified.append((index, outline))
        lines.append(_line(number, outline, mask.size))
    return YoloLabels("".join(f"{line}\n" for line in lines), tuple(simplified), tuple(left_out))


def data_yaml(names: Sequence[str] = ("object",)) -> str:
    """The file that says where pictures lie (``images/`` beside it) and what the classes are called.

    All pictures are listed for training and for validation; split them before measuring.
    """
    rows = [f"  {number}: {json.dumps(name)}" for number, name in enumerate(names)]
    return "\n".join(["path: .", "train: images", "val: images", "names:", *rows]) + "\n"


def _line(number: int, outline: Outline, size: tuple[int, int]) -> str:
    shares = outline.ring / np.array([size[1], size[0]], dtype=np.float64)
    return " ".join(
        [str(number), *(f"{share:.{_DIGITS}f}".rstrip("0").rstrip(".") for share in shares.reshape(-1))]
    )
