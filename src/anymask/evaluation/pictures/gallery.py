"""Sheets of pictures for reports: true mask and answer side by side, one case or many, one model or two.

The object's true mask is green and an answer blue; the prompt is drawn on both. A view shows the object with
context about it, and opens up where the answer spilled, so that a small object is seen large and a mistake whole.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anymask.errors import InputError, MaskError
from anymask.evaluation.metrics import BoolArray
from anymask.evaluation.pictures.views import (
    BACKDROP,
    Box,
    Colour,
    PictureFormat,
    Pixels,
    View,
    encode,
    view_of,
    write_text,
)
from anymask.image import read_image
from anymask.masks.boxes import mask_to_box
from anymask.masks.overlay import COLOURS, draw_overlay

__all__ = [
    "ANSWER",
    "MAX_WIDTH",
    "TRUTH",
    "Case",
    "CaseRow",
    "case_panel",
    "gallery",
    "side_by_side",
    "worst_cases",
]

TRUTH: Final[Colour] = (46, 200, 90)
"""Fill of the true mask."""
ANSWER: Final[Colour] = COLOURS[0]
"""Fill of an answer."""
MAX_WIDTH: Final = 2400
"""Pixels across a sheet at most."""
MIN_CELL: Final = 240
"""Pixels across a cell at least; below, its caption cannot be read."""

_GREY: Final[Colour] = (165, 165, 165)
_WHITE: Final[Colour] = (240, 240, 240)


@dataclass(frozen=True, eq=False)
class Case:
    """One object, what a model answered, and what is written under it.

    Attributes:
        image: the photograph, (H, W, 3) uint8 pixels or an encoded file's bytes.
        truth: (H, W) bool, not empty.
        answer: (H, W) bool.
        iou: of the two.
        predicted_iou: the model's own estimate.
        set_name, mask_id: where the object is from.
        model: who answered.
        points: clicks (x, y) in image pixels.
        labels: 1 or 0 for each click.
        box: the box given as a prompt, or None.

    Raises:
        MaskError: masks that are not bool or differ in size, or an empty true mask.
        InputError: points and labels of unequal number, or an IoU that is not finite.
    """

    image: NDArray[np.uint8] | bytes
    truth: BoolArray
    answer: BoolArray
    iou: float
    predicted_iou: float
    set_name: str
    mask_id: int | str
    model: str
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.truth.dtype != np.bool_ or self.answer.dtype != np.bool_ or self.truth.ndim != 2:
            raise MaskError(f"a case needs bool masks (H, W), got {self.truth.dtype} and {self.answer.dtype}")
        if self.truth.shape != self.answer.shape:
            raise MaskError(
                f"the true mask is {self.truth.shape} but the answer {self.answer.shape}; they must agree"
            )
        if not self.truth.any():
            raise MaskError(f"the true mask of {self.mask_id!r} is empty; there is nothing to show")
        if len(self.points) != len(self.labels):
            raise InputError(
                f"every click needs a label, got {len(self.points)} points and {len(self.labels)} labels"
            )
        if not (math.isfinite(self.iou) and math.isfinite(self.predicted_iou)):
            raise InputError(
                f"a case's IoU and predicted IoU must be finite, got {self.iou} and {self.predicted_iou}"
            )

    def pixels(self) -> Pixels:
        """The photograph, (H, W, 3) uint8.

        Raises:
            ImageError: it cannot be read.
            MaskError: it is of another size than the masks.
        """
        pixels = read_image(self.image).pixels
        if pixels.shape[:2] != self.truth.shape:
            raise MaskError(
                f"the masks of {self.mask_id!r} are {self.truth.shape} but the image {pixels.shape[:2]}; "
                "they must agree"
            )
        return pixels


class CaseRow(Protocol):
    """What `worst_cases` needs of a record."""

    @property
    def set_name(self) -> str: ...
    @property
    def image_id(self) -> Hashable: ...
    @property
    def mask_id(self) -> int | str: ...
    @property
    def iou(self) -> float: ...


Row = TypeVar("Row", bound=CaseRow)


def worst_cases(rows: Sequence[Row], per_set: int) -> list[Row]:
    """The rows of the lowest IoU, at most ``per_set`` of each set and one of each image, worst first.

    Sets come in the order in which they first come up. Among equals the smaller mask id (as text, shorter ones
    first) goes first, so the order of the rows does not matter.

    Raises:
        InputError: ``per_set`` below 1, or an IoU that is not finite.
    """
    if per_set < 1:
        raise InputError(f"at least one case per set must be asked for, got {per_set}")
    for row in rows:
        if not math.isfinite(row.iou):
            raise InputError(f"the IoU of mask {row.mask_id!r} is {row.iou}; count a failed mask as 0")
    picked: dict[str, list[Row]] = {row.set_name: [] for row in rows}
    seen: set[tuple[str, Hashable]] = set()
    for row in sorted(rows, key=lambda row: (row.iou, len(str(row.mask_id)), str(row.mask_id))):
        chosen = picked[row.set_name]
        if len(chosen) < per_set and (row.set_name, row.image_id) not in seen:
            chosen.append(row)
            seen.add((row.set_name, row.image_id))
    return [row for chosen in picked.values() for row in chosen]


def case_panel(case: Case, width: int = 800) -> Pixels:
    """True mask and answer side by side, a caption below: (H, W, 3) uint8 of ``width`` pixels across.

    The height follows from the width alone, so panels of one width make an even sheet.

    Raises:
        InputError: too small a width to be read, or over `MAX_WIDTH`.
        MaskError: the image and the masks differ in size.
    """
    _check_width(width, MIN_CELL)
    gap = max(2, width // 200)
    letters = _letters(width)
    side = (width - gap) // 2
    pixels = case.pixels()
    view = _view(case.truth, [case], side)
    panel = np.full((view.height + round(3.1 * letters), width, 3), BACKDROP, dtype=np.uint8)
    panel[: view.height, :side] = _draw(view, pixels, case.truth, TRUTH, case)
    panel[: view.height, -side:] = _draw(view, pixels, case.answer, ANSWER, case)
    first, second = view.height + round(0.95 * letters), view.height + round(2.2 * letters)
    for left, heading, detail in ((0, "truth", _source(case)), (width - side, case.model, _scores(case))):
        write_text(panel, heading, (left, first), letters, _WHITE, side)
        write_text(panel, detail, (left, second), 0.9 * letters, _GREY, side)
    return panel


def gallery(
    cases: Sequence[Case],
    columns: int = 3,
    width: int = MAX_WIDTH,
    picture_format: PictureFormat = "png",
) -> bytes:
    """A sheet of case panels in reading order, as PNG or JPEG bytes.

    Args:
        cases: what to show; the last row may stay short.
        columns: cases beside each other.
        width: of the sheet in pixels, at most `MAX_WIDTH`.
        picture_format: "png", or "jpeg" (quality 85) for documents.

    Raises:
        InputError: no cases, no columns, a width in which captions cannot be read or over the maximum.
        MaskError: an image and its masks differ in size.
    """
    if not cases or columns < 1:
        raise InputError(f"a gallery needs cases and columns, got {len(cases)} and {columns}")
    gap = max(4, width // 150)
    cell = (width - (columns + 1) * gap) // columns
    _check_width(width, columns * MIN_CELL + (columns + 1) * gap)
    sheet: Pixels | None = None
    for index, case in enumerate(cases):
        panel = case_panel(case, cell)
        if sheet is None:
            rows = math.ceil(len(cases) / columns)
            sheet = np.full((rows * (len(panel) + gap) + gap, width, 3), BACKDROP, dtype=np.uint8)
        top = gap + (index // columns) * (len(panel) + gap)
        left = gap + (index % columns) * (cell + gap)
        sheet[top : top + len(panel), left : left + cell] = panel
    assert sheet is not None
    return encode(sheet, picture_format)


def side_by_side(
    cases_a: Sequence[Case],
    cases_b: Sequence[Case],
    width: int = 1800,
    picture_format: PictureFormat = "png",
) -> bytes:
    """A row for each object, human | model A | model B, as PNG or JPEG bytes; all three in the same view.

    Raises:
        InputError: no cases, lists of unequal length, a pair that is not about the same object, models that change
            within a list, or a bad width.
        MaskError: an image and its masks differ in size.
    """
    _check_pairs(cases_a, cases_b)
    gap = max(4, width // 150)
    _check_width(width, 3 * MIN_CELL + 4 * gap)
    side = (width - 4 * gap) // 3
    letters = _letters(2 * side)
    heading = round(1.9 * letters)
    lefts = [gap + column * (side + gap) for column in range(3)]
    blocks = []
    for case_a, case_b in zip(cases_a, cases_b, strict=True):
        pixels = case_a.pixels()
        view = _view(case_a.truth, [case_a, case_b], side)
        block = np.full((view.height + round(1.7 * letters) + gap, width, 3), BACKDROP, dtype=np.uint8)
        line = view.height + round(0.95 * letters)
        for left, mask, colour, case, text in (
            (lefts[0], case_a.truth, TRUTH, None, _source(case_a)),
            (lefts[1], case_a.answer, ANSWER, case_a, _scores(case_a)),
            (lefts[2], case_b.answer, ANSWER, case_b, _scores(case_b)),
        ):
            block[: view.height, left : left + side] = _draw(view, pixels, mask, colour, case)
            write_text(block, text, (left, line), 0.9 * letters, _GREY if case is None else _WHITE, side)
        blocks.append(block)
    top = np.full((heading, width, 3), BACKDROP, dtype=np.uint8)
    for left, name in zip(lefts, ("human", cases_a[0].model, cases_b[0].model), strict=True):
        write_text(top, name, (left, heading // 2), 1.15 * letters, _WHITE, side)
    return encode(np.concatenate([top, *blocks]), picture_format)


def _check_pairs(cases_a: Sequence[Case], cases_b: Sequence[Case]) -> None:
    if not cases_a or len(cases_a) != len(cases_b):
        raise InputError(
            "a comparison of pictures needs the same cases of both models, "
            f"got {len(cases_a)} and {len(cases_b)}"
        )
    for case_a, case_b in zip(cases_a, cases_b, strict=True):
        same = (case_a.set_name, case_a.mask_id) == (case_b.set_name, case_b.mask_id)
        if not same or not np.array_equal(case_a.truth, case_b.truth):
            raise InputError(
                f"{_source(case_a)!r} stands beside {_source(case_b)!r}; both models must be shown on one object"
            )
    models = [sorted({case.model for case in cases}) for cases in (cases_a, cases_b)]
    if any(len(names) > 1 for names in models):
        raise InputError(f"each column shows one model, got {models[0]} and {models[1]}")


def _check_width(width: int, least: int) -> None:
    if not least <= width <= MAX_WIDTH:
        raise InputError(f"the width must be {least} to {MAX_WIDTH} pixels for these columns, got {width}")


def _view(truth: BoolArray, cases: Sequence[Case], width: int) -> View:
    """A window on the true mask and the box prompts that opens up for the answers and clicks."""
    boxes = [tuple(float(side) for side in mask_to_box(truth))]
    boxes += [tuple(float(side) for side in case.box) for case in cases if case.box is not None]
    array = np.array(boxes)
    x0, y0 = array[:, :2].min(axis=0).tolist()
    x1, y1 = array[:, 2:].max(axis=0).tolist()
    around: list[Box] = []
    for case in cases:
        left, top, right, bottom = mask_to_box(case.answer)
        if right > left:
            around.append((left, top, right, bottom))
        around += [(x - 4, y - 4, x + 4, y + 4) for x, y in case.points]
    height, across = truth.shape
    return view_of((x0, y0, x1, y1), around, (height, across), width)


def _draw(view: View, pixels: Pixels, mask: BoolArray, colour: Colour, case: Case | None) -> Pixels:
    part = draw_overlay(view.cut(pixels), view.cut_mask(mask), colour)
    if case is not None:
        view.draw_prompt(part, case.points, case.labels, case.box)
    return view.mount(part)


def _letters(width: int) -> int:
    """Height of letters that can still be read when a sheet of such panels is shown at a third of its size."""
    return max(13, width // 26)


def _scores(case: Case) -> str:
    return f"IoU {case.iou:.2f}, predicted {case.predicted_iou:.2f}"


def _source(case: Case) -> str:
    return f"{case.set_name}, {case.mask_id}"
