"""Pictures of a study: its failures, two models side by side, and both laid out for blind rating.

Records hold no masks, so the few that are shown are asked for again; the same prompt gives the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from anymask.errors import InputError
from anymask.evaluation.clicks import deepest_point
from anymask.evaluation.metrics import iou
from anymask.evaluation.pictures.gallery import Case, gallery, side_by_side, worst_cases
from anymask.evaluation.plan import MaskRecord
from anymask.evaluation.rating.export import RatedObject, export_rating
from anymask.evaluation.runner import SetResult, sample_keys
from anymask.evaluation.study import ModelResult, StudyResult
from anymask.masks.boxes import mask_to_box
from anymask.masks.rle import decode

__all__ = ["comparison_pictures", "failure_pictures", "lay_out_rating"]

Shown = Literal["box", "point"]

SIDE_BY_SIDE: Final = 8
"""Rows of two models: half where the first gains most, half where it loses most."""
RATED: Final = 40
"""Objects laid out for rating, spread over the sets."""
PAPER: Final = 150
"""Grey that masks are drawn on where photographs may not be shown."""
_CAPTION: Final = {"box": "box", "point": "one click"}


@dataclass(frozen=True)
class _Row:
    """One mask's record and where it lies; a `gallery.CaseRow`."""

    set_name: str
    image_id: str
    mask_id: str
    iou: float
    position: int
    prompt: Shown


def failure_pictures(
    result: StudyResult, model: ModelResult, per_set: int, photographs: bool = True
) -> dict[str, bytes]:
    """Sheets of a model's worst answers, a JPEG for the box and one for the click, by file name.

    Without ``photographs`` the masks are drawn on grey.
    """
    pictures = {}
    for prompt in _prompts(model):
        rows = [row for one in model.sets for row in _rows(one, prompt)]
        cases = [_case(result, model, row, photographs) for row in worst_cases(rows, per_set)]
        pictures[f"failures_{prompt}.jpg"] = gallery(cases, columns=3, width=2100, picture_format="jpeg")
    return pictures


def comparison_pictures(
    result: StudyResult,
    first: ModelResult,
    other: ModelResult,
    per_set: int,
    photographs: bool = True,
) -> dict[str, bytes]:
    """Human, first and other model side by side where they differ most, gains above losses."""
    pictures = {}
    for prompt in _prompts(first):
        if prompt not in _prompts(other):
            continue
        ours = [row for one in first.sets for row in _rows(one, prompt)]
        theirs = {_key(row): row for one in other.sets for row in _rows(one, prompt)}
        ranked = sorted(
            (row for row in ours if _key(row) in theirs),
            key=lambda row: (theirs[_key(row)].iou - row.iou, row.set_name, row.image_id, row.position),
        )
        if not ranked:
            continue
        half = min(SIDE_BY_SIDE, 2 * per_set * len(first.sets)) // 2
        chosen = list(dict.fromkeys([*ranked[:half], *ranked[-half:]]))
        pictures[f"side_by_side_{prompt}.jpg"] = side_by_side(
            [_case(result, first, row, photographs) for row in chosen],
            [_case(result, other, theirs[_key(row)], photographs) for row in chosen],
            picture_format="jpeg",
        )
    return pictures


def lay_out_rating(result: StudyResult, first: ModelResult, other: ModelResult, folder: Path) -> Path:
    """Masks of both models and of the people who drew the truth, for blind rating from 1 to 10.

    Objects are taken in turn from every set, box prompts where the study has them.

    Raises:
        InputError: no prompt that both answered.
        OutputError: the folder exists, or cannot be made.
    """
    shared: list[Shown] = [prompt for prompt in _prompts(first) if prompt in _prompts(other)]
    if not shared:
        raise InputError("for rating both models must have answered boxes or single clicks")
    by_set = [_rows(one, shared[0]) for one in first.sets]
    chosen: list[_Row] = []
    for turn in range(max(len(rows) for rows in by_set)):
        chosen += [rows[turn] for rows in by_set if turn < len(rows)]
    objects = []
    for row in chosen[:RATED]:
        ours, theirs = _case(result, first, row), _case(result, other, row)
        objects.append(
            RatedObject(
                f"{row.set_name}/{row.image_id}/{row.mask_id}/{row.position}",
                ours.image,
                {"human": ours.truth, ours.model: ours.answer, theirs.model: theirs.answer},
                points=ours.points,
                labels=ours.labels,
                box=ours.box,
                set_name=row.set_name,
                image_id=row.image_id,
            )
        )
    return export_rating(objects, folder, result.study.seed)


def _prompts(model: ModelResult) -> list[Shown]:
    """Kinds of prompt that the model's records have a single answer for."""
    mean: Any = model.summary.mean if model.summary else {}
    kinds: tuple[Shown, ...] = ("box", "point")
    return [kind for kind in kinds if kind in mean]


def _rows(result: SetResult, prompt: Shown) -> list[_Row]:
    rows = []
    for image in result.images:
        for position, record in enumerate(image.records):
            answer = record.box if prompt == "box" else record.point
            if answer is not None:
                rows.append(_Row(result.name, image.key, record.mask_id, answer.iou, position, prompt))
    return rows


def _key(row: _Row) -> tuple[str, str, int]:
    return row.set_name, row.image_id, row.position


def _case(result: StudyResult, model: ModelResult, row: _Row, photographs: bool = True) -> Case:
    """Ask again for what is to be shown."""
    dataset = result.datasets[row.set_name]
    sample = dataset[_index(sample_keys(dataset), row.image_id)]
    annotation = _annotation(sample.annotations, _record(model, row))
    truth = decode(annotation["segmentation"])
    embedding = model.subject.model.embed(sample.image)
    if row.prompt == "box":
        x0, y0, x1, y1 = (float(side) for side in mask_to_box(truth))
        masks = model.subject.model.segment(embedding, box=(x0, y0, x1, y1), multimask=False)
        points, box = [], (x0, y0, x1, y1)
    else:
        x, y, _ = deepest_point(truth)
        masks = model.subject.model.segment(embedding, points=[(x, y)], labels=[1], multimask=True)
        points, box = [(x, y)], None
    answer = masks[0]
    return Case(
        image=sample.image if photographs else np.full((*truth.shape, 3), PAPER, dtype=np.uint8),
        truth=truth,
        answer=answer.array,
        iou=iou(answer.array, truth),
        predicted_iou=answer.score,
        set_name=row.set_name,
        mask_id=row.mask_id,
        model=f"{model.subject.name}, {_CAPTION[row.prompt]}",
        points=points,
        labels=[1] * len(points),
        box=box,
    )


def _index(keys: Sequence[str], key: str) -> int:
    """Position of an image by name; datasets without names are keyed by position."""
    return keys.index(key) if key in keys else int(key)


def _record(model: ModelResult, row: _Row) -> MaskRecord:
    images = next(one.images for one in model.sets if one.name == row.set_name)
    return next(image.records[row.position] for image in images if image.key == row.image_id)


def _annotation(annotations: Sequence[Any], record: MaskRecord) -> Any:
    """The annotation a record is of: by id, and by area where ids repeat."""
    named = [a for i, a in enumerate(annotations) if str(a.get("id", i)) == record.mask_id]
    same = [a for a in named if int(decode(a["segmentation"]).sum()) == record.area]
    return (same or named)[0]
