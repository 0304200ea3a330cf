"""Run a task on every image of a set: in parallel, resumable, in bounded memory, with the same digits always.

Every job is one image; a worker opens the model once and keeps one image in memory. Workers use one thread each, so
that digits do not depend on how many there are. Results come back in the order of the images.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from anymask.data.dataset import Dataset
from anymask.errors import AnymaskError, DatasetError, InputError
from anymask.evaluation.plan import MaskRecord, Plan, draw
from anymask.evaluation.store import ResultStore
from anymask.evaluation.subjects import Subject, open_subject

__all__ = ["ImageResult", "Indexed", "SetResult", "Task", "measure_set", "run_task"]

MAX_WORKERS: Final = 64
_AHEAD: Final = 3
"""Jobs given out per worker, so that none waits and finished results do not pile up."""

Progress = Callable[[int, int], None]


class Indexed(Protocol):
    """Items by position: a `Dataset`, or `Bsds500Test`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Task(Protocol):
    """What is done with one item of a set. Values cross processes, so both they and results are plain."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the result besides model and item."""
        ...

    def item_digest(self, item: Any) -> str:
        """SHA-256 of an item's bytes."""
        ...

    def measure(self, subject: Subject, item: Any) -> Any:
        """The result, as plain JSON values."""
        ...


@dataclass(frozen=True)
class ImageResult:
    """What was measured on one image."""

    key: str
    records: tuple[MaskRecord, ...]


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set.

    Attributes:
        name: of the set.
        images: measured ones, in the set's order; those without masks are left out.
        total_images: images of the set, measured or not.
        seen_images: images drawn, with masks or without.
        seen_masks: masks of the drawn images, measured or not.
    """

    name: str
    images: tuple[ImageResult, ...]
    total_images: int
    seen_images: int
    seen_masks: int

    @property
    def masks(self) -> int:
        """Masks measured."""
        return sum(len(image.records) for image in self.images)

    @property
    def records(self) -> list[MaskRecord]:
        """Every mask's record, image by image."""
        return [record for image in self.images for record in image.records]


def measure_set(
    subject: Subject,
    name: str,
    dataset: Dataset,
    plan: Plan,
    results: Path,
    images: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> SetResult:
    """Measure the masks of one set, or of ``images`` of its images; arguments otherwise as `run_task`."""
    chosen = draw(sample_keys(dataset), images, plan.seed, "image")
    found: list[ImageResult] = []
    seen_masks = 0
    for result in run_task(subject, name, dataset, chosen, plan, results, workers, progress):
        seen_masks += result["masks"]
        if result["records"]:
            records = tuple(MaskRecord.from_json(record) for record in result["records"])
            found.append(ImageResult(result["key"], records))
    return SetResult(name, tuple(found), len(dataset), len(chosen), seen_masks)


def sample_keys(dataset: Indexed) -> list[str]:
    """Names of the images without reading them, where the dataset can tell; else their positions."""
    keys = getattr(dataset, "keys", None)
    return [str(key) for key in keys()] if callable(keys) else [str(i) for i in range(len(dataset))]


def run_task(
    subject: Subject,
    name: str,
    dataset: Indexed,
    chosen: Sequence[int],
    task: Task,
    results: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> Iterator[Any]:
    """Results of the chosen items in their order, going on where an earlier run stopped.

    Args:
        subject: what is measured; with more than one worker each opens it anew by ``subject.spec``.
        name: of the set, for messages.
        dataset: the items; with more than one worker it must be picklable.
        chosen: positions.
        task: what to do with each.
        results: folder of results.
        workers: processes; 1 stays in this one.
        progress: called with items done and items in all.

    Raises:
        InputError: a number of workers out of range.
        DatasetError: an item is damaged or cannot be measured.
        OutputError: results cannot be written.
    """
    if not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"the number of workers must be from 1 to {MAX_WORKERS}, got {workers}")
    store = ResultStore(results, subject.digest, task.digest)
    workers = min(workers, max(1, len(chosen)))
    if workers == 1:
        job = _Job(subject, name, dataset, task)
        outcomes: Iterable[tuple[str, Any]] = (job.run(index, store.get) for index in chosen)
    else:
        outcomes = _in_processes(subject, name, dataset, chosen, task, store, workers)
    for done, (digest, outcome) in enumerate(outcomes, start=1):
        kept = store.get(digest)
        if kept is None:
            store.put(digest, outcome)
            kept = store.get(digest)
        if progress is not None:
            progress(done, len(chosen))
        yield kept


@dataclass(frozen=True)
class _Job:
    subject: Subject
    name: str
    dataset: Indexed
    task: Task

    def run(self, index: int, kept: Callable[[str], Any | None]) -> tuple[str, Any]:
        """The item's digest and its result, or what ``kept`` knows of it."""
        item = self.dataset[index]
        digest = self.task.item_digest(item)
        result = kept(digest)
        if result is not None:
            return digest, result
        try:
            return digest, self.task.measure(self.subject, item)
        except AnymaskError as error:
            which = getattr(item, "key", index)
            raise DatasetError(f"{which!r} of {self.name!r} cannot be measured: {error}") from error


def _in_processes(
    subject: Subject,
    name: str,
    dataset: Indexed,
    chosen: Sequence[int],
    task: Task,
    store: ResultStore,
    workers: int,
) -> Iterator[tuple[str, Any]]:
    context = multiprocessing.get_context("spawn")
    arguments = (subject.spec, name, dataset, task, store.digests())
    waiting: list[Future[tuple[str, Any]]] = []
    remaining = iter(chosen)
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=arguments) as pool:
        try:
            while True:
                while len(waiting) < workers * _AHEAD and (index := next(remaining, None)) is not None:
                    waiting.append(pool.submit(_work, index))
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


_worker: tuple[_Job, frozenset[str]] | None = None


def _start_worker(spec: str, name: str, dataset: Indexed, task: Task, known: frozenset[str]) -> None:
    import cv2

    global _worker
    cv2.setNumThreads(1)
    _worker = (_Job(open_subject(spec, threads=1), name, dataset, task), known)


def _work(index: int) -> tuple[str, Any]:
    assert _worker is not None
    job, known = _worker
    return job.run(index, lambda digest: True if digest in known else None)
