"""Reader for SA-1B style tar shards: ``NAME.jpg`` beside ``NAME.json``, nothing unpacked.

The shard is scanned once for the offsets of its members; afterwards any sample is two positioned reads, so
several processes can share one shard and a run can resume at any sample without replaying the ones before.

Source of the layout: the SA-1B download page and `facebookresearch/segment-anything`, README section "Dataset".
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anymask.errors import DatasetError

from .dataset import Sample

_MAX_RECORD_BYTES = 64 * 1024 * 1024
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class _Member:
    offset: int
    size: int


class TarShard:
    """One tar file of image and record pairs; a `Dataset`.

    Raises:
        DatasetError: the file is missing, is no tar archive, or holds an image without a record.
    """

    def __init__(self, path: str | Path, source: str | None = None) -> None:
        self.path = Path(path)
        self.source = source or self.path.stem
        self._pairs = _scan(self.path)

    def __len__(self) -> int:
        return len(self._pairs)

    def keys(self) -> list[str]:
        """Names of the samples in the order of the index."""
        return [key for key, _, _ in self._pairs]

    def __getitem__(self, index: int) -> Sample:
        key, image_member, record_member = self._pairs[index]
        with open(self.path, "rb") as file:
            image = _read(file.fileno(), image_member, self.path)
            record = _read(file.fileno(), record_member, self.path)
        return parse_sample(key, self.source, image, record)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def _scan(path: Path) -> list[tuple[str, _Member, _Member]]:
    images: dict[str, _Member] = {}
    records: dict[str, _Member] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                stem, suffix = os.path.splitext(info.name)
                member = _Member(info.offset_data, info.size)
                if suffix.lower() in _IMAGE_SUFFIXES:
                    images[stem] = member
                elif suffix.lower() == ".json":
                    records[stem] = member
    except FileNotFoundError:
        raise DatasetError(f"There is no shard at {path}.") from None
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}.") from None
    orphans = sorted(set(images) - set(records))
    if orphans:
        raise DatasetError(
            f"{path} holds {len(orphans)} images without a record, the first is {orphans[0]!r}."
        )
    return [(stem, images[stem], records[stem]) for stem in sorted(images)]


def _read(descriptor: int, member: _Member, path: Path) -> bytes:
    if member.size > _MAX_RECORD_BYTES:
        raise DatasetError(f"{path} holds a member of {member.size} bytes, the limit is {_MAX_RECORD_BYTES}.")
    data = os.pread(descriptor, member.size, member.offset)
    if len(data) != member.size:
        raise DatasetError(f"{path} is cut short: {len(data)} of {member.size} bytes of a member are there.")
    return data


def parse_sample(key: str, source: str, image: bytes, record: bytes) -> Sample:
    """Turn an image file and its SA-1B record into a `Sample`.

    Raises:
        DatasetError: the record is not SA-1B JSON.
    """
    try:
        document: dict[str, Any] = json.loads(record)
        info = document["image"]
        return Sample(key, source, image, int(info["width"]), int(info["height"]), document["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"The record of {key!r} is not SA-1B JSON ({error!r}).") from None


def open_shards(folder: str | Path, sources: Sequence[str] | None = None) -> list[TarShard]:
    """Open every ``*.tar`` of a folder, or the named ones, in the order of their names.

    Raises:
        DatasetError: the folder holds no shard, or a named one is missing.
    """
    root = Path(folder)
    paths = sorted(root.glob("*.tar")) if sources is None else [root / f"{name}.tar" for name in sources]
    if not paths:
        raise DatasetError(f"There is no .tar shard in {root}.")
    return [TarShard(path) for path in paths]
