"""SA-1B tar shards: ``NAME.jpg`` beside ``NAME.json`` in archives of bounded size; the same input, the same bytes.

Source of the layout: as of `anymask.data.sa1b`, whose `TarShard` reads them.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

__all__ = ["shard_name", "write_shards"]

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_END: Final = 2 * _BLOCK

Pair = tuple[str, bytes, str, bytes]
"""File name and bytes of a picture, and of its record."""


def shard_name(number: int) -> str:
    """``sa_000000.tar`` and so on, as published."""
    return f"sa_{number:06d}.tar"


def write_shards(
    pairs: Iterable[Pair], open_shard: Callable[[str], AbstractContextManager[BinaryIO]], limit: int
) -> list[str]:
    """Pairs in their order into as many shards as needed; returns the shards' names.

    Owner, group and times are left out, so that only pictures and records decide the bytes.

    Args:
        pairs: read one at a time.
        open_shard: a file to write to, by name; it is left before the next is opened.
        limit: bytes that a shard may have, unless a single pair has more.
    """
    names: list[str] = []
    waiting = iter(pairs)
    pair = next(waiting, None)
    while pair is not None:
        names.append(shard_name(len(names)))
        with open_shard(names[-1]) as file, tarfile.open(fileobj=file, mode="w") as archive:
            size = _END
            while pair is not None and (size == _END or _whole(size + _size(pair), _RECORD) <= limit):
                size += _size(pair)
                for name, data in (pair[:2], pair[2:]):
                    archive.addfile(_member(name, data), io.BytesIO(data))
                pair = next(waiting, None)
    return names


def _size(pair: Pair) -> int:
    """Bytes of two members: their headers and whole blocks."""
    return sum(
        len(_member(name, data).tobuf(tarfile.DEFAULT_FORMAT)) + _whole(len(data), _BLOCK)
        for name, data in (pair[:2], pair[2:])
    )


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _member(name: str, data: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member
