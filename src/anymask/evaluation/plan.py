"""What is measured on every mask, how masks are drawn, and the record that comes out.

A plan is data with a digest, so that results can be kept and found again. Which images and masks are drawn depends
on the seed and on their names alone, never on order or on how many others there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from anymask.data.dataset import Sample
from anymask.errors import InputError, MaskError
from anymask.evaluation.metrics import BoolArray, complexity
from anymask.evaluation.protocols import (
    JITTERS,
    MAX_CLICKS,
    Answer,
    centre_point,
    click_series,
    ground_truth_box,
    jittered_box,
    random_point,
)
from anymask.evaluation.subjects import Subject
from anymask.masks.rle import decode
from anymask.predict.promptable import Promptable
from anymask.types import Embedding

__all__ = ["PROTOCOLS", "MaskRecord", "Plan", "draw", "measure_mask", "measure_sample", "sample_digest"]

PROTOCOLS: Final = ("point", "random-point", "box", "jitter", "clicks")
"""What can be asked of one mask; see `anymask.evaluation.protocols`."""
_VERSION: Final = 1
"""Raised when the same plan would give other numbers."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        protocols: of `PROTOCOLS`, in their order.
        masks: masks drawn from each image; None takes all.
        max_clicks: clicks after which an object counts as failed.
        seed: of the draws.

    Raises:
        InputError: an unknown protocol, none at all, or counts below 1.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    masks: int | None = None
    max_clicks: int = MAX_CLICKS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols:
            raise InputError(
                f"protocols must be some of {', '.join(PROTOCOLS)}, got {', '.join(unknown) or 'none'}"
            )
        if self.masks is not None and self.masks < 1:
            raise InputError(f"masks per image must be at least 1, got {self.masks}")
        if not 1 <= self.max_clicks <= 100:
            raise InputError(f"the number of clicks must be from 1 to 100, got {self.max_clicks}")
        object.__setattr__(self, "protocols", tuple(name for name in PROTOCOLS if name in self.protocols))

    @property
    def digest(self) -> str:
        """SHA-256 of the plan and of the version of these protocols."""
        text = json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def item_digest(self, item: Sample) -> str:
        """See `sample_digest`."""
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> dict[str, Any]:
        """The drawn masks of one image as plain values: ``key``, ``masks`` (how many there are), ``records``."""
        records = measure_sample(subject.model, item, self)
        return {
            "key": item.key,
            "masks": len(item.annotations),
            "records": [record.to_json() for record in records],
        }


@dataclass(frozen=True)
class MaskRecord:
    """Everything measured on one mask; what the plan left out is None or empty.

    Attributes:
        mask_id: the annotation's id, as text.
        area: pixels of the true mask.
        complexity: of the true mask, see `anymask.evaluation.metrics.complexity`.
        category: as the data names it.
        point, point_oracle: one click in the middle: the top-scored answer, and the best candidate.
        random_point, random_point_oracle: one click anywhere on the object, likewise.
        box: the tight box.
        jitter: IoU for each share of `JITTERS`.
        clicks: IoU after each click of a series.
    """

    mask_id: str
    area: int
    complexity: float
    category: str | None = None
    point: Answer | None = None
    point_oracle: Answer | None = None
    random_point: Answer | None = None
    random_point_oracle: Answer | None = None
    box: Answer | None = None
    jitter: tuple[float, ...] = ()
    clicks: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MaskRecord:
        """The record that `to_json` wrote; KeyError or TypeError for anything else."""
        values = dict(data)
        for name in ("point", "point_oracle", "random_point", "random_point_oracle", "box"):
            if values.get(name) is not None:
                values[name] = Answer(**values[name])
        for name in ("jitter", "clicks"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def sample_digest(sample: Sample) -> str:
    """SHA-256 of an image's name, bytes and annotation records."""
    digest = hashlib.sha256(sample.image)
    records = [dict(annotation) for annotation in sample.annotations]
    digest.update(json.dumps([sample.key, records], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def draw(keys: Sequence[str], count: int | None, seed: int, purpose: str) -> list[int]:
    """Positions of ``count`` of the keys, in rising order; all when None or when there are no more.

    Each key has a rank by hash of seed, purpose and key, so that a larger draw contains the smaller ones.
    """
    if count is None or count >= len(keys):
        return list(range(len(keys)))
    ranked = sorted(range(len(keys)), key=lambda i: _rank(keys[i], seed, purpose))
    return sorted(ranked[:count])


def measure_sample(
    model: Promptable, sample: Sample, plan: Plan, embedding: Embedding | None = None
) -> list[MaskRecord]:
    """All drawn masks of one image, in the order of the image's annotations.

    Raises:
        MaskError: a mask is of another size than its image.
    """
    annotations = list(sample.annotations)
    names = [str(annotation.get("id", index)) for index, annotation in enumerate(annotations)]
    keys = [f"{sample.key}/{name}/{index}" for index, name in enumerate(names)]
    if embedding is None:
        embedding = model.embed(sample.image)
    records = []
    for index in draw(keys, plan.masks, plan.seed, "mask"):
        truth = decode(annotations[index]["segmentation"])
        if truth.shape != embedding.image_size:
            raise MaskError(
                f"mask {names[index]!r} of {sample.key!r} is {truth.shape}, its image {embedding.image_size}"
            )
        if truth.any():
            category = annotations[index].get("category")
            records.append(measure_mask(model, embedding, truth, plan, keys[index], names[index], category))
    return records


def measure_mask(
    model: Promptable,
    embedding: Embedding,
    truth: BoolArray,
    plan: Plan,
    key: str,
    mask_id: str,
    category: str | None = None,
) -> MaskRecord:
    """Run the plan's protocols on one true mask (H, W) that is not empty; ``key`` seeds what is drawn by chance."""
    asked = set(plan.protocols)
    values: dict[str, Any] = {}
    if "point" in asked:
        record = centre_point(model, embedding, truth, outlines=True)
        values |= {"point": record.top, "point_oracle": record.oracle}
    if "random-point" in asked:
        record = random_point(model, embedding, truth, key, plan.seed)
        values |= {"random_point": record.top, "random_point_oracle": record.oracle}
    if "box" in asked:
        values["box"] = ground_truth_box(model, embedding, truth, outlines=True).top
    if "jitter" in asked:
        values["jitter"] = tuple(
            jittered_box(model, embedding, truth, key, share, plan.seed).top.iou for share in JITTERS
        )
    if "clicks" in asked:
        series = click_series(
            model, embedding, truth, at_least=min(9, plan.max_clicks), max_clicks=plan.max_clicks
        )
        values["clicks"] = tuple(answer.iou for answer in series.answers)
    area = int(np.count_nonzero(truth))
    return MaskRecord(mask_id, area, complexity(truth), category, **values)


def _rank(key: str, seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed} {purpose} {key}".encode()).digest()
