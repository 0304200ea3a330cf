"""A run over many pictures: what is still to be done, done in order, several at a time, and told."""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anymask.cli import console
from anymask.cli.auto.assembly import assemble
from anymask.cli.auto.files import Formats, Made
from anymask.cli.auto.folder import STATE, Entry, RunFolder, read_entries
from anymask.cli.auto.inputs import Source
from anymask.errors import AnymaskError

if TYPE_CHECKING:
    from anymask.automatic.generator import Generator, Streamed
    from anymask.types import Image, MaskSet

__all__ = ["Job", "Outcome"]

_CHANGES_NOTHING: Final = ("points_per_batch",)
_TOLD_AS: Final = {"names": "formats"}
Progress = Callable[[int, int], object]
Make = Callable[[Source], tuple[Entry, Made]]
Making = collections.abc.Generator[tuple[Entry, Made], None, None]


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        entries: of all pictures, in order.
        resumed: how many of them were done before.
        told: what formats hold, as `assemble` says.
        failures: errors of this process's own failures, in order.
    """

    entries: Sequence[Entry]
    resumed: int
    told: Mapping[str, Any]
    failures: Sequence[AnymaskError]


@dataclass
class Job:
    """Everything of every picture into one folder.

    Attributes:
        generator: with its settings.
        sources: the pictures.
        out: the folder.
        formats: what to write.
        roi: (x0, y0, x1, y1) that masks are looked for in, in pixels of each picture.
        workers: pictures at a time.
        device: what the model runs on.
    """

    generator: Generator
    sources: Sequence[Source]
    out: Path
    formats: Formats
    roi: tuple[float, ...] | None = None
    workers: int = 1
    device: str = "cpu"
    _failures: dict[int, AnymaskError] = field(default_factory=dict, init=False)

    def identity(self) -> dict[str, Any]:
        """Whatever decides the bytes of the results; threads, workers and batches do not."""
        from anymask import __version__

        segmenter = self.generator.segmenter
        settings = dataclasses.asdict(self.generator.settings)
        files = json.dumps([source.file for source in self.sources])
        return {
            "anymask": __version__,
            "model": segmenter.spec.name,
            "model digest": segmenter.spec.digest,
            "backend": type(segmenter.backend).__name__,
            "device": self.device,
            **{name: value for name, value in settings.items() if name not in _CHANGES_NOTHING},
            "roi": self.roi,
            **{_TOLD_AS.get(name, name): value for name, value in dataclasses.asdict(self.formats).items()},
            "images": {"count": len(self.sources), "sha256": hashlib.sha256(files.encode()).hexdigest()},
        }

    def done_before(self) -> int:
        """How many pictures a run begun in the folder has done; looks only."""
        journal = self.out / STATE / "journal.jsonl"
        if not journal.is_file():
            return 0
        entries, _, _ = read_entries(journal)
        return len(self.sources) - len(self._pending(entries))

    def run(self) -> Outcome:
        """Do what is not done yet. Pictures that fail are told and noted, and the others go on.

        Raises:
            OutputError: the folder cannot be used, or a result not be written; run again to go on.
            And what `assemble` raises.
        """
        with RunFolder.opened(self.out, self.identity(), self.formats.outputs) as folder:
            pending = self._pending(folder.entries)
            with closing(self._made(pending)) as made:
                for source in console.with_progress(pending, "finding masks"):
                    entry, files = next(made)
                    if entry.error is None or entry != folder.entries.get(source.id):
                        folder.commit(entry, files.files, files.folders)
                    if entry.error is not None:
                        console.complain(f"{source.path}: {entry.error['message']}")
            if folder.finished is None:
                folder.finish(assemble(folder, self.formats, self.sources))
            entries = [folder.entries[source.id] for source in self.sources]
            told = folder.finished or {}
        return Outcome(
            entries,
            len(self.sources) - len(pending),
            told,
            [self._failures[id] for id in sorted(self._failures)],
        )

    def _pending(self, entries: Mapping[int, Entry]) -> list[Source]:
        """Pictures that are not done, failed, or whose files someone took away."""
        return [source for source in self.sources if not self._is_done(entries.get(source.id))]

    def _is_done(self, entry: Entry | None) -> bool:
        if entry is None or entry.error is not None:
            return False
        return all((self.out / name).is_file() for name in self.formats.expected(entry.name))

    def _made(self, pending: Sequence[Source]) -> Making:
        """What becomes of each picture, in order; at most ``workers`` and one are made at a time.

        One worker has the next picture read and encoded while one is decoded and its files are made.
        """
        if len(pending) == 1:
            with console.progress_of_many() as report:
                progress = None if report is None else partial(report, "clicks")
                made = self._tried(pending[0], partial(self._alone, progress=progress))
            yield made
            return
        if self.workers == 1:
            found = self.generator.stream((source.path for source in pending), region=self.roi)
            with closing(found):
                for source, streamed in zip(pending, found, strict=True):
                    yield self._tried(source, partial(self._streamed, found=streamed))
            return
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[Future[tuple[Entry, Made]]] = deque()
            try:
                for source in pending:
                    waiting.append(pool.submit(self._tried, source, self._alone))
                    if len(waiting) > self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _tried(self, source: Source, make: Make) -> tuple[Entry, Made]:
        """What is made of a picture, or an entry that says why nothing is."""
        try:
            return make(source)
        except AnymaskError as error:
            self._failures[source.id] = error
            told = {"code": error.code, "message": str(error)}
            return Entry(source.id, source.name, source.file, error=told), Made()

    def _alone(self, source: Source, progress: Progress | None = None) -> tuple[Entry, Made]:
        """Read a picture, find its masks, and make its files."""
        from anymask.image import read_image

        image = read_image(source.path)
        return self._files(source, image, self.generator.generate(image, region=self.roi, progress=progress))

    def _files(self, source: Source, image: Image, masks: MaskSet) -> tuple[Entry, Made]:
        from anymask.data.writers.picture import Picture

        picture = Picture(source.id, source.name, source.file, image.width, image.height)
        made = self.formats.make(picture, source.path, image, masks)
        entry = Entry(source.id, source.name, source.file, image.width, image.height, len(masks), made.notes)
        return entry, made

    def _streamed(self, source: Source, found: Streamed) -> tuple[Entry, Made]:
        """Make the files of a picture whose masks were found, or raise why they were not."""
        masks = found.masks
        assert found.image is not None
        return self._files(source, found.image, masks)
