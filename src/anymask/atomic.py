"""Whole files or none: write beside the target, flush to disk, then rename over it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from anymask.errors import OutputError

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    The parent folder must exist.  Returns the path written.  Raises ``OutputError`` when the folder is
    missing, read-only or full; no temporary file is left behind and an older file at ``path`` is unchanged.
    """
    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:64]}.", suffix=".part", dir=target.parent
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        reason = error.strerror or str(error)
        raise OutputError(
            f"could not write {str(target)!r}: {reason}; choose another place or free space"
        ) from error
    return target


def _umask() -> int:
    """The process's file creation mask, so that results get the rights an ordinary ``open`` would give."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
