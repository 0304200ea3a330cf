"""One member out of a zip archive, with bounds on everything the archive says about itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from anymask.errors import OutputError, WeightsError
from anymask.limits import MAX_CHECKPOINT_BYTES

__all__ = ["unpack_member"]

_HIGHEST_RATIO: Final = 20
"""Weights are close to noise: they pack to nine tenths, never to a twentieth."""
_CHUNK: Final = 1024 * 1024


def unpack_member(archive: Path, member: str, target: Path) -> Path:
    """Write the one member called ``member`` to ``target``, whole or not at all; other members are not looked at.

    Raises `WeightsError` for an archive that is damaged, encrypted or a bomb, and `OutputError` when the disk is full.
    """
    temporary = None
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [info for info in opened.infolist() if info.filename == member]
            if len(found) != 1:
                raise _refused(archive, f"{len(found)} members are called {member!r}")
            _check(found[0], archive)
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
            with os.fdopen(handle, "wb") as out, opened.open(found[0]) as packed:
                left = found[0].file_size
                while chunk := packed.read(min(_CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        raise _refused(archive, f"{member!r} is longer than it says")
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if left:
                raise _refused(archive, f"{member!r} is shorter than it says")
        os.replace(temporary, target)
        temporary = None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(archive, f"it is damaged or packed in an unknown way ({error!s:.80})") from error
    except OSError as error:
        raise OutputError(
            f"could not unpack to {str(target)!r}: {error.strerror or error}; free space"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
    return target


def _check(info: zipfile.ZipInfo, archive: Path) -> None:
    if info.flag_bits & 1:
        raise _refused(archive, f"{info.filename!r} is encrypted")
    if info.file_size > min(MAX_CHECKPOINT_BYTES, _HIGHEST_RATIO * max(info.compress_size, 1)):
        raise _refused(archive, f"{info.filename!r} would unpack to {info.file_size} bytes")
    if info.file_size > shutil.disk_usage(archive.parent).free:
        raise OutputError(
            f"{str(archive.parent)!r} has no room for the {info.file_size} bytes of {info.filename!r}"
        )


def _refused(archive: Path, why: str) -> WeightsError:
    return WeightsError(f"the archive {str(archive)!r:.200} was refused: {why}")
