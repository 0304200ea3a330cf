"""What was asked of ``anymask auto``, checked before anything heavy is loaded, and the answer told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anymask.cli import console
from anymask.cli.arguments import check_output_folder, parse_numbers
from anymask.cli.auto.assembly import COCO_FILE
from anymask.cli.auto.files import FORMATS, Formats
from anymask.cli.auto.folder import Entry
from anymask.cli.auto.inputs import find_sources
from anymask.cli.auto.job import Job, Outcome
from anymask.errors import AnymaskError, InputError, LimitError
from anymask.limits import MAX_THREADS

__all__ = ["Request"]

_ON_TOP: Final = {"smaller": "smaller_on_top", "better": "better_on_top"}
_MEGABYTE: Final = 1_000_000


@dataclass(frozen=True)
class Request:
    """The options of the command line, as they were given."""

    images: Sequence[str]
    out: Path
    recursive: bool
    formats: Sequence[str]
    overlay: bool
    copy_images: bool
    shards: int | None
    polygons: bool
    tolerance: float
    on_top: str
    effort: str
    roi: str | None
    parameters: Mapping[str, Any]
    model: str | None
    backend: str | None
    device: str | None
    threads: int | None
    workers: int

    def run(self, as_json: bool) -> int:
        """Do it, tell it, and return the exit status."""
        job = self._job()
        outcome = job.run()
        if as_json:
            console.print_json(_document(job, outcome))
        else:
            _tell(job, outcome)
        failed = sum(entry.error is not None for entry in outcome.entries)
        if not failed:
            return 0
        if len(outcome.entries) > 1:
            console.complain(f"{failed} of {len(outcome.entries)} images failed")
        statuses = {failure.exit_status for failure in outcome.failures}
        return statuses.pop() if len(statuses) == 1 else AnymaskError.exit_status

    def tell_plan(self, as_json: bool) -> int:
        """Say what a run would do; writes nothing."""
        job = self._job()
        before, identity = job.done_before(), job.identity()
        if as_json:
            console.print_json(
                {
                    "out": str(self.out),
                    "images": len(job.sources),
                    "done_before": before,
                    "settings": identity,
                }
            )
            return 0
        console.say(
            f"{len(job.sources)} images into {self.out}, {before} of them done before; nothing was written"
        )
        for name, value in identity.items():
            if name != "images":
                console.say(f"  {name:32} {_shown(value)}")
        return 0

    def _job(self) -> Job:
        """Everything checked, the model loaded."""
        formats, roi = self._formats(), self._roi()
        if not 1 <= self.workers <= MAX_THREADS:
            raise LimitError(f"--workers must be from 1 to {MAX_THREADS}, got {self.workers}")
        check_output_folder(self.out)
        sources = find_sources(self.images, self.recursive, self.out)
        from anymask.automatic.generator import Generator
        from anymask.automatic.settings import AutomaticSettings
        from anymask.predict.loading import load
        from anymask.runtime.machine import cores
        from anymask.settings import load_settings

        AutomaticSettings.for_effort(self.effort, **self.parameters)  # before a model is loaded
        threads = self.threads
        if threads is None and self.workers > 1 and not load_settings().threads:
            threads = max(1, cores() // self.workers)
        segmenter = load(self.model, backend=self.backend, device=self.device, threads=threads)
        settings = AutomaticSettings.for_effort(self.effort, segmenter.spec.name, **self.parameters)
        console.explain(f"{len(sources)} images, model {segmenter.spec.name}, digest {segmenter.spec.digest}")
        generator = Generator(segmenter, settings)
        device = self.device or load_settings().device
        return Job(generator, sources, self.out, formats, roi, self.workers, device)

    def _formats(self) -> Formats:
        wanted = [name.strip() for text in self.formats for name in text.split(",")]
        unknown = next((name for name in wanted if name not in FORMATS), None)
        if unknown is not None:
            raise InputError(f"--format is one of {', '.join(FORMATS)}, not {unknown!r:.40}")
        if self.on_top not in _ON_TOP:
            raise InputError(f"--on-top is smaller or better, not {self.on_top!r:.40}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"--tolerance must be 0 or more pixels, got {self.tolerance}")
        if self.shards is not None and self.shards < 1:
            raise InputError(f"--shards must be 1 MB or more, got {self.shards}")
        return Formats(
            tuple(name for name in FORMATS if name in wanted),
            self.overlay,
            self.copy_images,
            self.polygons,
            self.tolerance,
            _ON_TOP[self.on_top],
            None if self.shards is None else self.shards * _MEGABYTE,
        )

    def _roi(self) -> tuple[float, ...] | None:
        if self.roi is None:
            return None
        x0, y0, x1, y1 = parse_numbers(self.roi, "--roi", "x0,y0,x1,y1")
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            raise InputError(f"--roi needs 0 <= x0 < x1 and 0 <= y0 < y1, got {self.roi!r:.60}")
        return x0, y0, x1, y1


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "no" if not value else "yes"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _places(job: Job) -> dict[str, str]:
    """Where each format is."""
    places = {name: str(job.out / (COCO_FILE if name == "coco" else name)) for name in job.formats.names}
    if job.formats.shard_bytes is not None:
        places["shards"] = str(job.out / "shards")
    if job.formats.overlay:
        places["overlays"] = str(job.out / "overlays")
    return places


def _tell(job: Job, outcome: Outcome) -> None:
    """A few lines for people."""
    done = [entry for entry in outcome.entries if entry.error is None]
    before = f", {outcome.resumed} of them done before" if outcome.resumed else ""
    masks = sum(entry.masks for entry in done)
    console.say(f"{_counted(len(done), 'image')}{before}, {_counted(masks, 'mask')}")
    for name, place in _places(job).items():
        console.say(f"  {name:9} {place}{_loss(name, outcome.told.get(name))}")


def _loss(name: str, told: Any) -> str:
    """What a format could not hold, as the end of a line."""
    if name == "yolo" and told and (told["simplified"] or told["left_out"]):
        return (
            f"   {_counted(told['left_out'], 'mask')} left out, {told['simplified']} without small holes or parts; "
            "see dropped.csv"
        )
    if name == "coco" and told and told["kept_as_rle"]:
        return f"   {_counted(told['kept_as_rle'], 'mask')} kept as run lengths: polygons cannot hold them"
    return ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _document(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The same for machines."""
    from anymask import __version__

    done = [entry for entry in outcome.entries if entry.error is None]
    spec = job.generator.segmenter.spec
    return {
        "anymask": __version__,
        "model": {"name": spec.name, "digest": spec.digest},
        "out": str(job.out),
        "images": len(outcome.entries),
        "done": len(done),
        "done_before": outcome.resumed,
        "masks": sum(entry.masks for entry in done),
        "formats": _places(job),
        "held": dict(outcome.told),
        "failed": len(outcome.entries) - len(done),
        "failures": [_failure(entry) for entry in outcome.entries if entry.error is not None],
    }


def _failure(entry: Entry) -> dict[str, Any]:
    return {"id": entry.id, "file": entry.file, **(entry.error or {})}
