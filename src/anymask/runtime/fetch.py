"""Downloads that end in the file that was asked for, or in one sentence and the old file.

What comes is written beside the target, hashed as it comes, and renamed over it only when its SHA-256 is the one
that was asked for. A cut download goes on where it stopped, also in a later run: a note beside the part says which
version of the file it belongs to (`ETag` or `Last-Modified`), and the server is asked to go on only with that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from anymask.atomic import write_atomically
from anymask.errors import ChecksumError, FetchError, InputError, OfflineError, OutputError
from anymask.limits import MAX_CHECKPOINT_BYTES
from anymask.runtime.http_client import CutError, HttpReply, StaleError, open_url
from anymask.runtime.locks import only_one

__all__ = ["Patience", "Request", "fetch", "normal_sha256"]

Progress = Callable[[int, int | None], None]
"""Told the bytes that are here and the bytes that there will be, if that is known."""

_CHUNK: Final = 1024 * 1024
_SPARE_BYTES: Final = 64 * 1024 * 1024
_LONGEST_NOTE: Final = 16 * 1024
_LEAST_PROGRESS: Final = 64 * 1024
_MOST_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try.

    Attributes:
        timeout_s: seconds without a byte after which a connection counts as cut.
        tries: attempts in a row that bring next to nothing before giving up.
        backoff_s: seconds before the second attempt; each further one waits twice as long.
    """

    timeout_s: float = 30.0
    tries: int = 4
    backoff_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch: an http or https address, the SHA-256 it must have, and its size where that is known."""

    url: str
    sha256: str
    size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", normal_sha256(self.sha256))


def normal_sha256(text: str) -> str:
    """A SHA-256 as 64 hexadecimal digits in lower case, from what people paste; raises `InputError`."""
    digits = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise InputError(f"a SHA-256 has 64 hexadecimal digits, got {text!r:.100}")
    return digits


def fetch(
    request: Request,
    target: Path,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Bring ``request`` to ``target``, whose folder is made; a good file that is there is kept.

    Raises `OfflineError` when downloads are off, `ChecksumError` when something else came, `OutputError` when the
    disk is full or cannot be written, and `FetchError` for everything the network does. The file that was at
    ``target`` before is then unchanged.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error
    with only_one(target):
        if target.is_file() and _sha256_of(target) == request.sha256:
            return target
        if offline:
            raise OfflineError(
                f"{request.url} is not here and downloads are off (the setting 'offline', ANYMASK_OFFLINE=1); "
                "turn them on or bring the file yourself"
            )
        return _Download(request, target, progress, patience or Patience()).run()


class _Download:
    """One file on its way: the part beside the target, the note about it, and the attempts."""

    def __init__(self, request: Request, target: Path, progress: Progress | None, patience: Patience) -> None:
        self.request, self.target, self.patience = request, target, patience
        self.part = target.with_name(f".{target.name}.part")
        self.note = target.with_name(f".{target.name}.part.json")
        self.progress = progress or (lambda done, total: None)
        self.limit = MAX_CHECKPOINT_BYTES if request.size is None else request.size
        self.digest, self.hashed = hashlib.sha256(), 0

    def run(self) -> Path:
        failures = 0
        for _ in range(_MOST_ATTEMPTS):
            before = self._have()
            try:
                self._attempt()
                return self._finish()
            except CutError as cut:
                if isinstance(cut, StaleError):
                    self._forget()
                last, failures = cut, 0 if self._have() - before >= _LEAST_PROGRESS else failures + 1
            if failures >= self.patience.tries:
                break
            time.sleep(self.patience.backoff_s * 2 ** max(failures - 1, 0))
        kept = "; what came is kept and the next try goes on there" if self._read_note() else ""
        raise FetchError(f"could not fetch {self.request.url}: {last}{kept}") from last

    def _attempt(self) -> None:
        """Ask once and write what comes; raises `CutError` when it is worth asking again."""
        note = self._read_note()
        have = self._have() if note else 0
        if have and have == note["total"]:
            self._hash_up_to(have)
            return
        with open_url(self.request.url, self.patience.timeout_s, have, note.get("validator")) as reply:
            start = self._check(reply, have)
            self._hash_up_to(start)
            self._check_space((reply.total or self.request.size or 0) - start)
            if start == 0:
                self._write_note(reply)
            self._write(reply, start)

    def _check(self, reply: HttpReply, have: int) -> int:
        """Where in the file the answer starts, 0 or what we have; refuses one that is too long or for another file."""
        if reply.start not in (0, have):
            raise StaleError(f"the server went on at byte {reply.start} and not at {have}")
        total = reply.total
        if total is not None and total > self.limit:
            self._forget()
            what = "is expected" if self.request.size is not None else "is the limit"
            raise FetchError(f"{self.request.url} is said to have {total} bytes; {self.limit} {what}")
        if total is not None and self.request.size is not None and total != self.request.size:
            self._forget()
            raise FetchError(
                f"{self.request.url} is said to have {total} bytes, not the {self.request.size} that are expected"
            )
        return reply.start

    def _write(self, reply: HttpReply, start: int) -> None:
        done, window_start, window_done = start, time.monotonic(), start
        try:
            with self.part.open("r+b" if start else "wb") as file:
                if start:
                    file.seek(start)
                    file.truncate()
                while chunk := reply.read(_CHUNK):
                    if done + len(chunk) > self.limit:
                        self._forget()
                        raise FetchError(
                            f"{self.request.url} sends more than {self.limit} bytes, which is too much"
                        )
                    _write_all(file, chunk)
                    self.digest.update(chunk)
                    done = self.hashed = done + len(chunk)
                    self.progress(done, reply.total)
                    if time.monotonic() - window_start > self.patience.timeout_s:
                        if done - window_done < 1024:
                            raise CutError("the server sends next to nothing")
                        window_start, window_done = time.monotonic(), done
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._forget()
            raise _unwritable(self.target, error) from error
        total = self.request.size if reply.total is None else reply.total
        if total is not None and done < total:
            raise CutError(f"the connection was cut after {done} of {total} bytes")

    def _finish(self) -> Path:
        seen = self.digest.hexdigest()
        if seen != self.request.sha256:
            self._forget()
            raise ChecksumError(
                f"what came from {self.request.url} has SHA-256 {seen} and should have {self.request.sha256}; "
                "it was not kept"
            )
        try:
            os.replace(self.part, self.target)
        except OSError as error:
            raise _unwritable(self.target, error) from error
        self._forget()
        return self.target

    def _hash_up_to(self, size: int) -> None:
        """Make the running digest that of the part's first ``size`` bytes, which an earlier run may have written."""
        if self.hashed == size:
            return
        self.digest, self.hashed = hashlib.sha256(), 0
        try:
            with self.part.open("rb") as file:
                while self.hashed < size and (chunk := file.read(min(_CHUNK, size - self.hashed))):
                    self.digest.update(chunk)
                    self.hashed += len(chunk)
        except OSError as error:
            if size:
                self._forget()
                raise StaleError(f"the part that was here cannot be read ({error.strerror})") from error

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if needed + _SPARE_BYTES > free:
            raise OutputError(
                f"{str(self.target.parent)!r} has {free // 10**6} MB free and the download needs "
                f"{(needed + _SPARE_BYTES) // 10**6} MB; free space or set ANYMASK_CACHE_DIR to another place"
            )

    def _have(self) -> int:
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def _read_note(self) -> dict[str, Any]:
        """The note about the part, if both are there and of this request; otherwise nothing."""
        try:
            with self.note.open("rb") as file:
                note = json.loads(file.read(_LONGEST_NOTE))
            same = note["url"] == self.request.url and note["sha256"] == self.request.sha256
            fits = isinstance(note["validator"], str) and isinstance(note["total"], int | None)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return note if same and fits else {}

    def _write_note(self, reply: HttpReply) -> None:
        """Only a file with a version of its own can be gone on with."""
        if reply.validator is None:
            self._forget()
            return
        facts = {"url": self.request.url, "sha256": self.request.sha256}
        text = json.dumps({**facts, "validator": reply.validator, "total": reply.total})
        write_atomically(self.note, text.encode())

    def _forget(self) -> None:
        for path in (self.part, self.note):
            with contextlib.suppress(OSError):
                path.unlink()


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    """A seam of its own, so that a full disk can be played."""
    file.write(chunk)


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"could not read {str(path)!r} back: {error.strerror or error}") from error


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"could not write {str(target)!r}: {error.strerror or error}; free space or choose another place "
        "(ANYMASK_CACHE_DIR)"
    )
