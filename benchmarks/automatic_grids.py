"""What an adaptive grid saves and what it misses: each choice of its parameters against the full grid, on training
pictures that were held back from training.

The rule, stated before anything is measured: of the choices whose recall of annotated objects is at most `LOSS` below
the full grid's, at IoU 0.5 and at 0.75, the one with the fewest clicks. Recall is one to one, a picture's share of its
objects; the mean over pictures.

Every click of a picture is decoded once; the adaptive grids are given the same answers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rich.table import Table

from anymask.automatic.generator import Generator
from anymask.automatic.recall import found_again
from anymask.automatic.settings import AutomaticSettings
from anymask.data.dataset import Sample
from anymask.evaluation.plan import sample_digest
from anymask.evaluation.proposals import IOU_THRESHOLDS, count_proposals
from anymask.evaluation.subjects import Subject
from anymask.image import read_image
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import (
    Backend,
    Features,
    FloatArray,
    Needed,
    Promising,
    PromptArrays,
    decode_promising,
)
from anymask.types import Mask
from automatic_lists import digest_of, segmenter_of

__all__ = ["CHOICES", "LOSS", "GridsTask", "Remembered", "choose_grid", "grid_figures", "printed_grids"]

LOSS: Final = 0.01
"""Recall that the adaptive grid may lose."""
ENOUGH_CLICKS: Final = (1, 2, 3, 5, 8, 12, 16)
LEAST_PROMISE: Final = (0.0, 0.4, 0.5, 0.6, 0.7)
_VERSION: Final = 1
"""Raised when the same settings would give other numbers."""

Choice = tuple[int, float]
"""``enough_clicks`` and ``least_promise`` of `AutomaticSettings`."""
CHOICES: Final[tuple[Choice, ...]] = tuple(itertools.product(ENOUGH_CLICKS, LEAST_PROMISE))


class Remembered:
    """A backend that decodes no click twice, for pictures that are asked with one threshold."""

    def __init__(self, backend: Backend) -> None:
        self.spec, self._backend = backend.spec, backend
        self._known: dict[bytes, tuple[FloatArray, FloatArray | None]] = {}

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        return self._backend.encode(pixels)

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        return self._backend.decode(features, prompts)

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """See `Screens.decode_promising`."""
        keys = [point.tobytes() for point in prompts.points]
        if not all(key in self._known for key in keys):
            found = decode_promising(self._backend, features, prompts, needed)
            planes = dict(zip(found.drawn.tolist(), found.logits, strict=True))
            for place, (key, scores) in enumerate(zip(keys, found.scores, strict=True)):
                worth = scores[1:].max() > np.float32(needed.least_iou)
                self._known[key] = (scores, planes[place] if worth else None)
        answers = [self._known[key] for key in keys]
        drawn = [place for place, (_, plane) in enumerate(answers) if plane is not None]
        size = next((plane.shape for _, plane in answers if plane is not None), (4, 1, 1))
        logits = np.array([answers[place][1] for place in drawn], dtype=np.float32).reshape(-1, *size)
        scores = np.array([scores for scores, _ in answers], dtype=np.float32)
        return Promising(logits, scores, np.array(drawn, dtype=np.int64))


@dataclass(frozen=True)
class GridsTask:
    """A `Task` of the runner: the full grid and every choice of an adaptive one on one picture.

    Attributes:
        settings: of the full grid, and of the adaptive ones but for what `Choice` names.
        choices: these.
    """

    settings: AutomaticSettings
    choices: tuple[Choice, ...] = CHOICES

    @property
    def digest(self) -> str:
        """See `Task.digest`."""
        return digest_of("adaptive grids", _VERSION, dataclasses.asdict(self.settings), self.choices)

    def item_digest(self, item: Sample) -> str:
        """See `sample_digest`."""
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> dict[str, Any]:
        """``objects``, and for the full grid in ``full`` and each choice in ``choices`` five counts.

        Clicks, masks, masks of the full grid found again, and objects found at IoU 0.5 and 0.75, one to one.
        """
        own = Segmenter(Remembered(segmenter_of(subject).backend))
        segmenter = own.in_frame(self.settings.frame_side)
        embedding = segmenter.embed(read_image(item.image))
        plain = dataclasses.replace(self.settings, adaptive=False)
        full = Generator(segmenter, plain).run(embedding)
        rows = []
        for enough_clicks, least_promise in self.choices:
            grid = dataclasses.replace(
                plain, adaptive=True, enough_clicks=enough_clicks, least_promise=least_promise
            )
            run = Generator(segmenter, grid).run(embedding)
            again = found_again(full.masks, run.masks)
            rows.append([run.clicks, len(run.masks), again, *_objects_found(run.masks, item)])
        count = len(full.masks)
        return {
            "source": item.source,
            "objects": sum(not record.get("iscrowd") for record in item.annotations),
            "full": [full.clicks, count, count, *_objects_found(full.masks, item)],
            "choices": rows,
        }


def grid_figures(rows: Sequence[Mapping[str, Any]], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """The full grid's figures and those of each choice, from what `GridsTask.measure` gave.

    ``clicks`` and ``again`` (of the full grid's masks, at IoU 0.9) are shares of the full grid's over all pictures,
    ``masks_per_image``, ``recall_50`` and ``recall_75`` means over pictures with objects.
    """
    known = [row for row in rows if row["objects"]]
    objects = np.array([row["objects"] for row in known])[:, None]
    counts = np.array([[row["full"], *row["choices"]] for row in known])  # pictures, grids, counts
    sums, means = counts.sum(axis=0), counts.mean(axis=0)
    recalls = (counts[:, :, 3:] / objects[:, None]).mean(axis=0)
    return [
        {
            "enough_clicks": choice[0],
            "least_promise": choice[1],
            "clicks": float(sums[grid, 0] / sums[0, 0]),
            "masks_per_image": float(means[grid, 1]),
            "again": float(sums[grid, 2] / sums[0, 1]) if sums[0, 1] else 1.0,
            "recall_50": float(recalls[grid, 0]),
            "recall_75": float(recalls[grid, 1]),
        }
        for grid, choice in enumerate([(None, None), *choices])
    ]


def choose_grid(figures: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The choice that the rule of this module takes; None where none is good enough."""
    full, *choices = figures
    good = [
        row
        for row in choices
        if all(full[name] - row[name] <= LOSS + 1e-9 for name in ("recall_50", "recall_75"))
    ]
    return min(good, key=lambda row: row["clicks"], default=None)


def printed_grids(
    figures: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None, default: Choice
) -> Table:
    """All choices, the chosen and the default one marked."""
    table = Table(title="the adaptive grid against the full one")
    heads = ("enough clicks", "least promise", "clicks", "masks per image", "found again", "recall .5", ".75")
    for title in (*heads, ""):
        table.add_column(title, justify="right")
    for row in figures:
        choice = (row["enough_clicks"], row["least_promise"])
        marks = [name for name, is_it in (("chosen", row is chosen), ("default", choice == default)) if is_it]
        first = ("full", "") if choice[0] is None else (str(choice[0]), f"{choice[1]:g}")
        cells = [f"{row['clicks']:.1%}", f"{row['masks_per_image']:.1f}", f"{row['again']:.1%}"]
        cells += [f"{row[name]:.3f}" for name in ("recall_50", "recall_75")]
        table.add_row(*first, *cells, " and ".join(marks))
    return table


def _objects_found(masks: Sequence[Mask], item: Sample) -> list[int]:
    """At IoU 0.5 and at 0.75."""
    proposals = count_proposals(masks, item.annotations)
    places = [int(np.abs(np.array(IOU_THRESHOLDS) - threshold).argmin()) for threshold in (0.5, 0.75)]
    return [int(proposals.found["all"][-1, place]) for place in places]
