"""One process at a time: a lock beside a file, which the system frees when its holder ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anymask.errors import FetchError, OutputError

__all__ = ["only_one"]


@contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Hold the lock for ``target``; raises `FetchError` at once when another one has it.

    The empty lock file stays: taking it away would let two hold a lock each.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"could not write {str(path)!r}: {error.strerror or error}") from error
    try:
        if not _take(handle):
            raise FetchError(f"{str(target)!r} is being fetched already; wait for it or end the other one")
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
