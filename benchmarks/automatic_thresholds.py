"""Which thresholds suit a model: what each pair of them keeps of the answers to a grid of clicks, on training pictures
that were held back from training.

The rule, stated before anything is measured: the pair with the highest F, the harmonic mean of

- recall: the share of a picture's objects that the masks kept overlap by 0.5 or more, one to one; mean over pictures;
- use: the share of the masks kept that are the first of an object they overlap by 0.5 or more, over all masks of
  pictures of `EXHAUSTIVE` sources. Only there is a mask of no object a mistake; duplicates count as mistakes too.

Of pairs whose F is equal to three decimals the one with more recall is chosen, then the one with higher thresholds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rich.table import Table

from anymask.automatic.settings import AutomaticSettings
from anymask.data.dataset import Sample
from anymask.evaluation.plan import draw, sample_digest
from anymask.evaluation.proposals import IOU_THRESHOLDS, count_proposals
from anymask.evaluation.subjects import Subject
from anymask.image import read_image
from automatic_lists import all_answers, digest_of, matched, object_overlaps, segmenter_of

__all__ = ["EXHAUSTIVE", "ThresholdsTask", "choose", "held_back", "pairs_of", "pooled", "printed_pairs"]

EXHAUSTIVE: Final = ("bsds500", "bsds500_test")
"""Sources whose pictures are outlined from edge to edge."""
_VERSION: Final = 1
"""Raised when the same settings would give other numbers."""

Pair = tuple[float, float]
"""Thresholds of predicted IoU and of stability."""


def pairs_of(step: float) -> tuple[Pair, ...]:
    """All pairs of 0, step, 2 step ... below 1.

    Raises:
        ValueError: a step that is not from 0.01 to 1.
    """
    if not 0.01 <= step <= 1:
        raise ValueError(f"the step of thresholds must be from 0.01 to 1, got {step}")
    values = [round(value, 6) for value in np.arange(0, 1 - 1e-9, step).tolist()]
    return tuple(itertools.product(values, values))


def held_back(keys: Sequence[str], every: int, images: int | None, seed: int) -> list[int]:
    """Positions of a source's pictures that training never draws, at most ``images`` of them, drawn by seed.

    The last of every ``every`` pictures in the order of the shard, as `is_held_back` of `anymask.training.samples`
    has it.
    """
    positions = range(every - 1, len(keys), every)
    return [positions[place] for place in draw([keys[p] for p in positions], images, seed, "image")]


@dataclass(frozen=True)
class ThresholdsTask:
    """A `Task` of the runner: what every pair of thresholds keeps on one picture.

    Attributes:
        settings: of the grid and of the suppression of boxes; their thresholds do not count.
        pairs: the thresholds.
    """

    settings: AutomaticSettings
    pairs: tuple[Pair, ...]

    @property
    def digest(self) -> str:
        """See `Task.digest`."""
        return digest_of("automatic thresholds", _VERSION, dataclasses.asdict(self.settings), self.pairs)

    def item_digest(self, item: Sample) -> str:
        """See `sample_digest`."""
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> dict[str, Any]:
        """``source``, ``objects`` and for each pair in ``pairs`` five counts.

        The masks kept; objects they find at IoU 0.5 and 0.75, one to one; masks of an object, and the objects these
        are of, see `matched`.
        """
        segmenter = segmenter_of(subject).in_frame(self.settings.frame_side)
        answers = all_answers(segmenter, segmenter.embed(read_image(item.image)), self.settings)
        overlaps = object_overlaps(answers.masks, item.annotations)
        counts: dict[bytes, list[int]] = {}  # many pairs keep the same masks
        rows = []
        for thresholds in self.pairs:
            kept = answers.kept(*thresholds, self.settings.box_nms_thresh)
            key = kept.tobytes()
            if key not in counts:
                proposals = count_proposals([answers.masks[index] for index in kept], item.annotations)
                found = [int(proposals.found["all"][-1, place]) for place in (_place(0.5), _place(0.75))]
                counts[key] = [len(kept), *found, *matched(overlaps[kept])]
            rows.append(counts[key])
        return {"source": item.source, "objects": overlaps.shape[1], "pairs": rows}


def pooled(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]) -> list[dict[str, float | None]]:
    """The figures of each pair over all pictures with objects, from what `ThresholdsTask.measure` gave.

    ``recall_50``, ``recall_75`` and ``masks_per_image`` are means over pictures; ``duplicates_per_object`` is as in
    `automatic_quality`; ``precision`` is the share of masks that are masks of an object and ``use`` that of the first
    ones of an object, both over the masks of exhaustive pictures; ``f`` is that of recall_50 and use. None where
    nothing is to be divided by.
    """
    known = [row for row in rows if row["objects"]]
    return [_pair_figures(known, place, pair) for place, pair in enumerate(pairs)]


def choose(figures: Iterable[Mapping[str, float | None]]) -> Mapping[str, float | None] | None:
    """The pair that the rule of this module takes; None where no pair has an F."""
    known = [row for row in figures if row["f"] is not None]
    return max(known, key=_standing, default=None)


def printed_pairs(figures: Iterable[Mapping[str, float | None]], chosen: Any, default: Pair) -> Table:
    """All pairs, the chosen and the default one marked."""
    table = Table(title="what thresholds of predicted IoU and stability keep")
    heads = ("predicted IoU", "stability", "recall .5", ".75", "masks per image", "duplicates per object")
    for title in (*heads, "precision", "use", "F", ""):
        table.add_column(title, justify="right")
    for row in figures:
        cells = ["-" if value is None else f"{value:.3f}" for value in row.values()]
        pair = (row["pred_iou_thresh"], row["stability_score_thresh"])
        marks = [name for name, is_it in (("chosen", row == chosen), ("default", pair == default)) if is_it]
        table.add_row(*cells, " and ".join(marks))
    return table


def _pair_figures(rows: Sequence[Mapping[str, Any]], place: int, pair: Pair) -> dict[str, float | None]:
    table = np.array([row["pairs"][place] for row in rows], dtype=np.int64).reshape(-1, 5)
    objects = np.array([row["objects"] for row in rows], dtype=np.int64)
    exhaustive = table[[row["source"] in EXHAUSTIVE for row in rows]].sum(axis=0)
    masks, found_50, found_75, of_objects, owners = table.T
    recall = _mean(found_50 / objects)
    use = _share(exhaustive[4], exhaustive[0])
    return {
        "pred_iou_thresh": pair[0],
        "stability_score_thresh": pair[1],
        "recall_50": recall,
        "recall_75": _mean(found_75 / objects),
        "masks_per_image": _mean(masks),
        "duplicates_per_object": _share(of_objects.sum() - owners.sum(), owners.sum()),
        "precision": _share(exhaustive[3], exhaustive[0]),
        "use": use,
        "f": None if recall is None or use is None else _harmonic(recall, use),
    }


def _standing(row: Mapping[str, float | None]) -> tuple[float, ...]:
    """The rule's order."""
    f, recall = row["f"] or 0.0, row["recall_50"] or 0.0
    return round(f, 3), recall, (row["pred_iou_thresh"] or 0.0) + (row["stability_score_thresh"] or 0.0)


def _place(threshold: float) -> int:
    return int(np.abs(np.array(IOU_THRESHOLDS) - threshold).argmin())


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
