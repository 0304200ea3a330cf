"""Protocols on whole images behind one form: edges on BSDS500, object proposals, instances from given boxes.

Each is a `Task` of the runner, so it runs in parallel, resumes and is kept like everything else, and a result that
knows its own table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from anymask.data.bsds500 import BoundarySample, Bsds500Test
from anymask.data.dataset import Sample
from anymask.data.layouts import NamedDataset
from anymask.errors import InputError
from anymask.evaluation.boundaries.edges import EdgeCounts, EdgeScores, score_edges
from anymask.evaluation.boundaries.mask_edges import EDGE_POINTS_PER_SIDE, edge_counts_of_image
from anymask.evaluation.instances import (
    ImageInstances,
    InstanceScores,
    category_names,
    instances_of_image,
    score_instances,
)
from anymask.evaluation.plan import draw, sample_digest
from anymask.evaluation.proposals import (
    PROPOSAL_POINTS_PER_SIDE,
    PROPOSALS,
    ProposalCounts,
    ProposalScores,
    count_proposals,
    propose,
    score_proposals,
)
from anymask.evaluation.runner import run_task, sample_keys
from anymask.evaluation.subjects import Subject
from anymask.predict.segmenter import Segmenter

__all__ = ["EXTRAS", "EdgeResult", "ExtraResult", "InstanceResult", "ProposalResult", "measure_extra"]

EXTRAS: Final = ("edges", "proposals", "instances")
"""Names of the protocols."""

Progress = Callable[[int, int], None]


class ExtraResult(Protocol):
    """What a protocol gave, and how a report shows it."""

    @property
    def title(self) -> str:
        """Heading."""
        ...

    @property
    def description(self) -> str:
        """What the figures mean, and on how much they were measured."""
        ...

    def heads(self) -> list[str]:
        """Column titles after the model's name."""
        ...

    def cells(self) -> list[str]:
        """One model's row."""
        ...

    def as_record(self) -> dict[str, Any]:
        """Plain values under the protocol's name."""
        ...


@dataclass(frozen=True)
class EdgeResult:
    """Zero-shot edges on BSDS500."""

    scores: EdgeScores
    images: int
    images_in_all: int

    @property
    def title(self) -> str:
        """Heading."""
        return "Edges (BSDS500)"

    @property
    def description(self) -> str:
        """What the figures mean."""
        part = "" if self.images == self.images_in_all else ", a subset"
        return (
            f"Sobel on the probability maps of a 16 x 16 grid of clicks, measured with the boundary benchmark's "
            f"one-to-one matching on {self.images} of {self.images_in_all} test images{part}."
        )

    def heads(self) -> list[str]:
        """Column titles."""
        return ["ODS", "OIS", "AP", "R50"]

    def cells(self) -> list[str]:
        """One row."""
        return [f"{value:.3f}" for value in self._figures().values()]

    def as_record(self) -> dict[str, Any]:
        """Plain values."""
        return {**self._figures(), "images": self.images, "images_in_all": self.images_in_all}

    def _figures(self) -> dict[str, float]:
        return {
            "ods": self.scores.ods.f,
            "ois": self.scores.ois.f,
            "ap": self.scores.average_precision,
            "r50": self.scores.recall_at_half_precision,
        }


@dataclass(frozen=True)
class ProposalResult:
    """Average recall of automatic masks, set by set and over all images."""

    sets: Mapping[str, ProposalScores]
    images: int

    @property
    def title(self) -> str:
        """Heading."""
        return "Object proposals"

    @property
    def description(self) -> str:
        """What the figures mean."""
        return (
            "Mask average recall over IoU 0.5 to 0.95 of the first 10, 100 and 1000 automatic masks of a 64 x 64 "
            f"grid, without categories; mean over sets, {self.images} images. Small, medium and large by COCO's limits."
        )

    def heads(self) -> list[str]:
        """Column titles: those of groups that have objects."""
        return [name.upper().replace("_", " ") for name in self._means()]

    def cells(self) -> list[str]:
        """One row."""
        return [f"{value:.3f}" for value in self._means().values()]

    def as_record(self) -> dict[str, Any]:
        """Plain values."""
        sets = {name: scores.as_record() for name, scores in self.sets.items()}
        return {"mean": self._means(), "sets": sets, "images": self.images}

    def _means(self) -> dict[str, float]:
        wanted = [f"ar@{n}" for n in PROPOSALS] + [
            f"ar@{PROPOSALS[-1]}_{group}"
            for group in ("small", "medium", "large", "rare", "common", "frequent")
        ]
        found = {}
        for name in wanted:
            values = [scores.as_record()[name] for scores in self.sets.values()]
            known = [value for value in values if value is not None]
            if known:
                found[name] = sum(known) / len(known)
        return found


@dataclass(frozen=True)
class InstanceResult:
    """COCO mask AP from the ground truth's boxes, over all images of all sets that name categories."""

    sets: Mapping[str, InstanceScores]

    @property
    def title(self) -> str:
        """Heading."""
        return "Instances from given boxes"

    @property
    def description(self) -> str:
        """What the figures mean."""
        sizes = ", ".join(f"{name} {s.images} images, {s.objects} objects" for name, s in self.sets.items())
        return (
            "COCO mask AP with the ground truth's own boxes and the model's predicted IoU as score; mean over the sets "
            f"that name categories ({sizes})."
        )

    def heads(self) -> list[str]:
        """Column titles."""
        return ["AP", "AP50", "AP75", "AP small", "AP medium", "AP large"]

    def cells(self) -> list[str]:
        """One row."""
        return ["" if value is None else f"{value:.3f}" for value in self._means().values()]

    def as_record(self) -> dict[str, Any]:
        """Plain values."""
        sets = {name: scores.as_record() for name, scores in self.sets.items()}
        return {"mean": self._means(), "sets": sets}

    def _means(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"):
            known = [v for s in self.sets.values() if (v := s.as_record()[name]) is not None]
            found[name] = sum(known) / len(known) if known else None
        return found


@dataclass(frozen=True)
class _EdgeTask:
    thresholds: int = 99
    points_per_side: int = EDGE_POINTS_PER_SIDE

    @property
    def digest(self) -> str:
        return _digest("edges", 1, self.thresholds, self.points_per_side)

    def item_digest(self, item: BoundarySample) -> str:
        digest = hashlib.sha256(item.image)
        for boundary in item.truth.boundaries:
            digest.update(boundary.tobytes())
        return digest.hexdigest()

    def measure(self, subject: Subject, item: BoundarySample) -> Any:
        if not isinstance(subject.model, Segmenter):
            raise InputError(
                f"edges are measured from a model's probability maps; {subject.name!r} gives none"
            )
        return edge_counts_of_image(subject.model, item, self.thresholds, self.points_per_side).as_record()


@dataclass(frozen=True)
class _ProposalTask:
    points_per_side: int = PROPOSAL_POINTS_PER_SIDE

    @property
    def digest(self) -> str:
        return _digest("proposals", 1, self.points_per_side)

    def item_digest(self, item: Sample) -> str:
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> Any:
        embedding = subject.model.embed(item.image)
        detections = getattr(subject.model, "detections", None)
        masks = (
            list(detections(embedding))[: PROPOSALS[-1]]
            if callable(detections)
            else propose(subject.model, embedding, self.points_per_side)
        )
        return count_proposals(masks, item.annotations).as_record()


@dataclass(frozen=True)
class _InstanceTask:
    categories: tuple[tuple[str, int], ...]

    @property
    def digest(self) -> str:
        return _digest("instances", 1, self.categories)

    def item_digest(self, item: Sample) -> str:
        return sample_digest(item)

    def measure(self, subject: Subject, item: Sample) -> Any:
        return instances_of_image(subject.model, item, dict(self.categories)).as_record()


def measure_extra(
    name: str,
    subject: Subject,
    datasets: Sequence[NamedDataset],
    data: Path,
    results: Path,
    images: int | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> ExtraResult:
    """Run one protocol of `EXTRAS`; arguments as `run_task`, with ``data`` the folder of the suite.

    Raises:
        InputError: the protocol does not go with this model or data.
    """
    if name == "edges":
        return _edges(subject, data, results, images, seed, workers, progress)
    if name == "proposals":
        return _proposals(subject, datasets, results, images, seed, workers, progress)
    if name == "instances":
        return _instances(subject, datasets, results, images, seed, workers, progress)
    raise InputError(f"there is no protocol {name!r}; choose one of {', '.join(EXTRAS)}")


def _edges(
    subject: Subject,
    data: Path,
    results: Path,
    images: int | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> EdgeResult:
    if not isinstance(subject.model, Segmenter):
        raise InputError(f"edges are measured from a model's probability maps; {subject.name!r} gives none")
    dataset = Bsds500Test(data)
    chosen = draw(dataset.keys(), images, seed, "image")
    rows = run_task(subject, "BSDS500", dataset, chosen, _EdgeTask(), results, workers, progress)
    counts = [EdgeCounts.from_record(row) for row in rows]
    return EdgeResult(score_edges(counts), len(counts), len(dataset))


def _proposals(
    subject: Subject,
    datasets: Sequence[NamedDataset],
    results: Path,
    images: int | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> ProposalResult:
    sets: dict[str, ProposalScores] = {}
    total = 0
    for entry in datasets:
        chosen = draw(sample_keys(entry.dataset), images, seed, "image")
        task = _ProposalTask()
        rows = run_task(subject, entry.name, entry.dataset, chosen, task, results, workers, progress)
        counts = [ProposalCounts.from_record(row) for row in rows]
        total += len(counts)
        sets[entry.name] = score_proposals(counts)
    return ProposalResult(sets, total)


def _instances(
    subject: Subject,
    datasets: Sequence[NamedDataset],
    results: Path,
    images: int | None,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> InstanceResult:
    sets: dict[str, InstanceScores] = {}
    for entry in datasets:
        chosen = draw(sample_keys(entry.dataset), images, seed, "image")
        samples = (entry.dataset[index] for index in chosen)
        categories = category_names(samples)
        if not categories:
            continue
        task = _InstanceTask(tuple(categories.items()))
        rows = run_task(subject, entry.name, entry.dataset, chosen, task, results, workers, progress)
        sets[entry.name] = score_instances((ImageInstances.from_record(row) for row in rows), categories)
    if not sets:
        raise InputError("instances need data that names categories, and this names none")
    return InstanceResult(sets)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
