"""The bytes of a large file as an array that the system may take out of memory again.

Engines that keep weights arranged for their kernels still hold on to the originals, of which they read little again:
350 MB for SAM's ViT-B, 2.5 GB for ViT-H. Bytes that are mapped from a file need not stay in memory for that. A model's
files are replaced, never written in place (`anymask.atomic`, `anymask.model.folders`); one that is changed in place
while it is mapped changes under its reader.
"""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FileBytes"]

_ALIGNMENT: Final = 4096
_CHUNK: Final = 1 << 24
_CAN_MAP: Final = sys.platform != "win32"
"""Windows does not let a file be replaced while it is mapped."""


@dataclass(frozen=True)
class FileBytes:
    """A file's bytes, mapped where that can be done, else read.

    Attributes:
        array: (N,) uint8, from a page's edge on, so that engines can use it where it is. Writing to it does not change
            the file.
        mapping: what the array is a view of, None where the file was read.
    """

    array: NDArray[np.uint8]
    mapping: mmap.mmap | None = None

    @classmethod
    def of(cls, file: Traversable, size: int) -> FileBytes | None:
        """The bytes of a file, None if there are not exactly ``size`` of them, 1 or more; raises `OSError`."""
        with file.open("rb") as stream:
            if _CAN_MAP and isinstance(file, Path):
                if file.stat().st_size != size:
                    return None
                mapping = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY)
                return cls(np.frombuffer(mapping, dtype=np.uint8), mapping)
            room = np.empty(size + _ALIGNMENT, dtype=np.uint8)
            shift = -room.ctypes.data % _ALIGNMENT
            array = room[shift : shift + size]
            complete = _fill(stream, array.data) == size and not stream.read(1)
        return cls(array) if complete else None

    def rest(self) -> None:
        """Give the memory back, where that can be done; who reads the bytes again reads them from the file."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def _fill(stream: IO[bytes], room: memoryview) -> int:
    """Bytes that a stream had for a room, at most its size."""
    filled = 0
    while part := stream.read(min(_CHUNK, len(room) - filled)):
        room[filled : filled + len(part)] = part
        filled += len(part)
    return filled
