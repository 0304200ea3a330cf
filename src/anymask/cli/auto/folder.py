"""The folder of a run that may be killed at any moment and goes on where it was.

Below the run's folder, ``.anymask-auto`` holds what that takes:

* ``run.json``: what the run is, written first; a run goes on only when it is the same;
* ``journal.jsonl``: a line for each picture done or failed, in their order, flushed to disk before the next begins;
* ``stage/``: files being written; they take their places by renaming, so that there is never half a file;
* ``.run.lock``: held while a process works here; the system frees it however that ends.

A picture's files are in their places before its line is in the journal: a picture without a line is made again, over
what may be there of it, and since the same picture gives the same bytes the folder ends up as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from anymask.atomic import write_atomically
from anymask.errors import FetchError, OutputError
from anymask.runtime.locks import only_one

__all__ = ["STATE", "Entry", "RunFolder", "read_entries"]

STATE: Final = ".anymask-auto"
_JOURNAL: Final = "journal.jsonl"
_MAX_RUN_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """What became of one picture.

    Attributes:
        id, name, file: as of its `Source`.
        width, height, masks: of a picture done.
        notes: what its formats could not hold, by format.
        error: code and message of a picture that failed.
    """

    id: int
    name: str
    file: str
    width: int = 0
    height: int = 0
    masks: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] | None = None


class RunFolder:
    """An open run; see the head of this file.

    Attributes:
        root: the run's folder.
        entries: by id, the last line of the journal about each picture.
        finished: what `finish` was told, when nothing came after it.
    """

    def __init__(self, root: Path, journal: int, stage: Path) -> None:
        self.root = root
        self.entries: dict[int, Entry] = {}
        self.finished: Mapping[str, Any] | None = None
        self._journal, self._stage = journal, stage

    @classmethod
    @contextmanager
    def opened(cls, root: Path, identity: Mapping[str, Any], outputs: Sequence[str]) -> Iterator[RunFolder]:
        """Take the folder for the run of this ``identity``, new or begun before.

        Args:
            root: made when missing.
            identity: whatever decides the results, ready for JSON.
            outputs: names below ``root`` that the run will write; a new run wants none of them there.

        Raises:
            OutputError: another process works there, it holds another run or other files, or it cannot be written.
        """
        state = root / STATE
        with ExitStack() as stack:
            with _reported(root):
                _check(root, identity, outputs)
                state.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(only_one(state / "run"))
            except FetchError:
                raise OutputError(
                    f"another anymask auto is at work in {str(root)!r}; wait for it, or give another --out"
                ) from None
            with _reported(root):
                stage = state / "stage"
                shutil.rmtree(stage, ignore_errors=True)
                stage.mkdir()
                stack.callback(shutil.rmtree, stage, ignore_errors=True)
                if not _check(root, identity, outputs):
                    _place(write_atomically(stage / "run.json", _document(identity)), state / "run.json")
                journal = os.open(state / _JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                stack.callback(os.close, journal)
                folder = cls(root, journal, stage)
                folder._read()
            yield folder

    def commit(self, entry: Entry, files: Mapping[str, bytes], folders: Sequence[str] = ()) -> None:
        """Put a picture's files in their places, then note that it is done.

        Args:
            entry: of the picture.
            files: by their names below the root.
            folders: names of folders that hold some of these files and nothing else.

        Raises:
            OutputError: they could not be written; then the picture is not done, and every file there is whole.
        """
        with _reported(self.root):
            for folder in folders:
                shutil.rmtree(self.root / folder, ignore_errors=True)
            staged = [
                write_atomically(self._stage / str(number), data)
                for number, data in enumerate(files.values())
            ]
            places = [self.root / name for name in files]
            for place in {place.parent for place in places}:
                place.mkdir(parents=True, exist_ok=True)
            for path, place in zip(staged, places, strict=True):
                os.replace(path, place)
            for place in {place.parent for place in places}:
                _sync(place)
            self._append(_line(entry))
        self.entries[entry.id] = entry
        self.finished = None

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to be written as a stream; it takes its place when the block ends well."""
        with _reported(self.root):
            handle, path = tempfile.mkstemp(dir=self._stage)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _as_ordinary(path)
                _place(Path(path), self.root / name)
            finally:
                with suppress(OSError):
                    os.unlink(path)

    def write(self, name: str, data: bytes) -> None:
        """A whole file in its place. Raises `OutputError`."""
        with self.writing(name) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        """Take a file or folder away, if there is one."""
        with _reported(self.root):
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Note that everything is written, and leave one line a picture in the journal, in their order."""
        lines = [_line(self.entries[id]) for id in sorted(self.entries)]
        last = json.dumps({"finished": summary}) + "\n"
        self.write(f"{STATE}/{_JOURNAL}", b"".join([*lines, last.encode("ascii")]))
        self.finished = summary

    def _append(self, line: bytes) -> None:
        length = os.fstat(self._journal).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._journal, line[written:])
            os.fsync(self._journal)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._journal, length)
            raise

    def _read(self) -> None:
        """Take in the journal, and cut off a last line that was not finished."""
        path = self.root / STATE / _JOURNAL
        self.entries, self.finished, length = read_entries(path)
        if length < os.fstat(self._journal).st_size:
            os.ftruncate(self._journal, length)
            os.fsync(self._journal)


def read_entries(journal: Path) -> tuple[dict[int, Entry], Mapping[str, Any] | None, int]:
    """Entries by id, what `RunFolder.finish` was told if that comes last, and the bytes of all whole lines.

    Raises:
        OutputError: a whole line is not what this program writes.
    """
    entries: dict[int, Entry] = {}
    finished: Mapping[str, Any] | None = None
    length = 0
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                finished = record.get("finished")
                if finished is None:
                    entry = Entry(**record)
                    entries[entry.id] = entry
            except (ValueError, TypeError, AttributeError):
                raise OutputError(
                    f"line {number} of {str(journal)!r} is damaged; give another --out to begin again"
                ) from None
            length += len(line)
    return entries, finished, length


def _line(entry: Entry) -> bytes:
    return (json.dumps(asdict(entry)) + "\n").encode("ascii")


def _document(identity: Mapping[str, Any]) -> bytes:
    return (json.dumps(identity, indent=1) + "\n").encode("ascii")


def _check(root: Path, identity: Mapping[str, Any], outputs: Sequence[str]) -> bool:
    """Whether the run was begun before; raises `OutputError` unless it is this one, or the places are free."""
    path = root / STATE / "run.json"
    if not path.is_file():
        taken = next((name for name in outputs if os.path.lexists(root / name)), None)
        if taken is not None:
            raise OutputError(
                f"{str(root)!r} already holds {taken!r}, which no run of anymask auto here accounts for; give another "
                "--out, or move it away"
            )
        return False
    try:
        with path.open("rb") as file:
            begun = json.loads(file.read(_MAX_RUN_BYTES))
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise OutputError(f"{str(path)!r} is damaged; give another --out to begin again")
    wanted = json.loads(_document(identity))
    for name in [*wanted, *(name for name in begun if name not in wanted)]:
        if begun.get(name) != wanted.get(name):
            raise OutputError(_difference(root, name, begun.get(name), wanted.get(name)))
    return True


def _difference(root: Path, name: str, begun: Any, wanted: Any) -> str:
    what = "other images" if name == "images" else f"{name} {_told(begun)}, not {_told(wanted)}"
    return (
        f"the run in {str(root)!r} was begun with {what}; give the same to go on, or another --out to begin a new "
        "one"
    )


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _reported(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"could not write to {str(root)!r}: {error.strerror or error}; free space or give another --out, then run "
            "again to go on"
        ) from error


def _place(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)
    _sync(place.parent)


def _sync(folder: Path) -> None:
    """Flush a folder's names to disk, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_ordinary(path: str) -> None:
    """Give a temporary file the rights that an ordinary ``open`` would."""
    mask = os.umask(0o077)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)
