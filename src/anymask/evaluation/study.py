"""A study: one or more models on one or more sets, measured under one plan, and all that a report is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from anymask.data.dataset import Dataset
from anymask.data.layouts import NamedDataset, open_labelled
from anymask.errors import DatasetError, InputError
from anymask.evaluation.peers.baselines import Baseline
from anymask.evaluation.plan import Plan
from anymask.evaluation.runner import SetResult, measure_set
from anymask.evaluation.speed import Speed, measure_speed
from anymask.evaluation.subjects import Subject, open_subject
from anymask.evaluation.suites import SUITES, SetFacts, Suite, facts_of, find_suite
from anymask.evaluation.summary import Summary, summarise
from anymask.evaluation.whole_image import EXTRAS, ExtraResult, measure_extra

__all__ = ["ModelResult", "Study", "StudyResult", "run_study"]

SPEED_IMAGES: Final = 4
"""Images that speed is measured on: the first of the first sets."""

Report = Callable[[str, int, int], None]
"""Called with what is going on, items done and items in all."""


@dataclass(frozen=True)
class Study:
    """What to measure on what.

    Attributes:
        models: as `open_subject` takes them; the first is the one the report is about.
        suite: name of a suite, or path of data in a known layout.
        data: where a named suite's data lies.
        images_folder: where the pictures of an annotation file lie, if not beside it.
        plan: what to measure on each mask; None leaves masks alone.
        extras: of `whole_image.EXTRAS`: protocols on whole images.
        images: images drawn from each set; None takes all.
        seed: of that draw.
        workers: processes.
        results: folder where results are kept.
        speed: whether to time the models too.

    Raises:
        InputError: no model, or one named twice, or unknown extras.
    """

    models: tuple[str, ...]
    suite: str
    data: Path | None = None
    images_folder: Path | None = None
    plan: Plan | None = field(default_factory=Plan)
    extras: tuple[str, ...] = ()
    images: int | None = None
    seed: int = 0
    workers: int = 1
    results: Path = Path("~/.cache/anymask/eval")
    speed: bool = True

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise InputError(
                f"give one or more different models to measure, got {', '.join(self.models) or 'none'}"
            )
        unknown = sorted(set(self.extras) - set(EXTRAS))
        if unknown:
            raise InputError(
                f"unknown protocols {', '.join(unknown)}; those of whole images are {', '.join(EXTRAS)}"
            )
        if self.plan is None and not self.extras:
            raise InputError("there is nothing to measure; name a protocol")
        if self.images is not None and self.images < 1:
            raise InputError(f"the number of images must be at least 1, got {self.images}")


@dataclass(frozen=True)
class ModelResult:
    """All figures of one model.

    Attributes:
        subject: what was measured.
        sets: results by set.
        summary: their figures; None where masks were left alone.
        speed: None where it was not asked for.
        extras: name of the protocol -> its result.
    """

    subject: Subject
    sets: tuple[SetResult, ...]
    summary: Summary | None
    speed: Speed | None
    extras: Mapping[str, ExtraResult]


@dataclass(frozen=True)
class StudyResult:
    """A study and what came out.

    Attributes:
        study: as asked for.
        suite: the named suite, or one made for the path.
        facts: of each set by name.
        datasets: the sets, to read pictures from.
        models: in the order asked for.
    """

    study: Study
    suite: Suite
    facts: Mapping[str, SetFacts]
    datasets: Mapping[str, Dataset]
    models: tuple[ModelResult, ...]

    @property
    def title(self) -> str:
        """What was measured on what, and that it was a part when it was."""
        first = self.models[0]
        name = f"{first.subject.name} on {self.suite.title}"
        parts = []
        if self.suite.sets and len(self.datasets) < len(self.suite.sets):
            parts.append(f"{len(self.datasets)} of {len(self.suite.sets)} sets")
        sizes = [len(dataset) for dataset in self.datasets.values()]
        drawn = [size if self.study.images is None else min(size, self.study.images) for size in sizes]
        if sum(drawn) < sum(sizes):
            parts.append(f"{sum(drawn):,} of {sum(sizes):,} images")
        masks, seen = sum(r.masks for r in first.sets), sum(r.seen_masks for r in first.sets)
        if masks < seen:
            parts.append(f"{masks:,} of their {seen:,} masks")
        return f"{name}; a subset: {', '.join(parts)}" if parts else name


def run_study(study: Study, report: Report | None = None) -> StudyResult:
    """Measure everything; what was measured before is read from the results folder.

    Raises:
        NotFoundError: an unknown model or suite.
        DatasetError: no data, or damaged data.
    """
    suite, datasets = open_suite(study)
    subjects = distinct_names([open_subject(spec) for spec in study.models])
    facts = {entry.name: facts_of(entry.name, suite) for entry in datasets}
    models = tuple(_measure_model(study, subject, datasets, facts, report) for subject in subjects)
    return StudyResult(study, suite, facts, {d.name: d.dataset for d in datasets}, models)


def distinct_names(subjects: Sequence[Subject]) -> list[Subject]:
    """The same subjects; where names meet, the word that opened each stands in its place."""
    names = [subject.name for subject in subjects]
    return [
        subject if names.count(subject.name) == 1 else replace(subject, name=subject.spec)
        for subject in subjects
    ]


def open_suite(study: Study) -> tuple[Suite, list[NamedDataset]]:
    """The suite and its sets, in the suite's order where it lists them, else by name.

    Raises:
        NotFoundError: no suite or data of this name.
        DatasetError: the data is in no known layout, holds no image, or none of the suite's sets.
    """
    known = {suite.name for suite in SUITES}
    if study.suite in known and study.data is not None:
        suite = find_suite(study.suite)
        path: Path | str = study.data
    elif study.suite in known and not Path(study.suite).exists():
        raise InputError(
            f"the suite {study.suite!r} needs its data: give --data FOLDER, see anymask eval --help"
        )
    elif study.data is None and Path(study.suite).expanduser().exists():
        path = Path(study.suite).expanduser()
        suite = Suite("folder", path.name or str(path), "Labelled images given by path.")
    else:
        suite, path = find_suite(study.suite), study.suite  # says which are known
    found = open_labelled(path, study.images_folder)
    order = [facts.name for facts in suite.sets]
    listed = [entry for name in order for entry in found if entry.name == name]
    datasets = listed or sorted(found, key=lambda entry: entry.name)
    if suite.name == "pack" and not listed:
        raise DatasetError(f"none of the sets {', '.join(order)} is in {str(path)!r}")
    if not datasets or not any(len(entry.dataset) for entry in datasets):
        raise DatasetError(f"there is no labelled image in {str(path)!r}")
    return suite, [entry for entry in datasets if len(entry.dataset)]


def _measure_model(
    study: Study,
    subject: Subject,
    datasets: Sequence[NamedDataset],
    facts: Mapping[str, SetFacts],
    report: Report | None,
) -> ModelResult:
    folder = study.results.expanduser()
    sets: list[SetResult] = []
    summary = None
    if study.plan is not None:
        for entry in datasets:
            progress = _labelled(report, f"{subject.name} on {entry.name}")
            sets.append(
                measure_set(
                    subject,
                    entry.name,
                    entry.dataset,
                    study.plan,
                    folder,
                    study.images,
                    study.workers,
                    progress,
                )
            )
        sets = [result for result in sets if result.masks]
        learned = not isinstance(subject.model, Baseline)
        summary = summarise(sets, facts, study.plan.max_clicks, calibrated=learned)
    extras = {
        name: measure_extra(
            name,
            subject,
            datasets,
            Path(study.suite) if study.data is None else study.data,
            folder,
            study.images,
            study.seed,
            study.workers,
            _labelled(report, f"{subject.name}, {name}"),
        )
        for name in study.extras
    }
    images = [entry.dataset[0].image for entry in datasets[:SPEED_IMAGES]]
    speed = measure_speed(subject.spec, images) if study.speed else None
    return ModelResult(subject, tuple(sets), summary, speed, extras)


def _labelled(report: Report | None, what: str) -> Callable[[int, int], None] | None:
    if report is None:
        return None
    return lambda done, total: report(what, done, total)
