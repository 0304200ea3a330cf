"""Reader for an unpacked SA-1B folder: ``NAME.jpg`` beside ``NAME.json``.

Source of the layout: as of `anymask.data.sa1b`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from anymask.errors import DatasetError

from .dataset import Sample
from .files import read_bytes
from .sa1b import parse_sample

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_MAX_RECORD_BYTES: Final = 64 * 1024 * 1024


class Sa1bFolder:
    """One folder of image and record pairs, its subfolders not entered; a `Dataset` in the order of the names.

    Records without an image are passed over, hidden files too.

    Raises:
        DatasetError: the folder is missing, holds no pair or an image without a record, or two images share a name.
    """

    def __init__(self, folder: str | Path, source: str | None = None) -> None:
        self.folder = Path(folder)
        self.source = source or self.folder.name
        self._images = _scan(self.folder)

    def __len__(self) -> int:
        return len(self._images)

    def keys(self) -> list[str]:
        """Names of the samples in the order of the index."""
        return [os.path.splitext(name)[0] for name in self._images]

    def __getitem__(self, index: int) -> Sample:
        """One image with its masks.

        Raises:
            DatasetError: a file is missing or too large, or the record is not SA-1B JSON.
        """
        name = self._images[index]
        key = os.path.splitext(name)[0]
        image = read_bytes(self.folder / name)
        return parse_sample(
            key, self.source, image, read_bytes(self.folder / f"{key}.json", _MAX_RECORD_BYTES)
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _scan(folder: Path) -> list[str]:
    images: dict[str, str] = {}
    records: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_file())
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read as a folder: {error.strerror}.") from None
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix == ".json":
            records.add(stem)
        elif suffix.lower() in IMAGE_SUFFIXES:
            if stem in images:
                raise DatasetError(f"{folder} holds both {images[stem]!r} and {name!r}; names must differ.")
            images[stem] = name
    orphans = sorted(set(images) - records)
    if orphans:
        raise DatasetError(
            f"{folder} holds {len(orphans)} images without a record, the first is {orphans[0]!r}."
        )
    if not images:
        raise DatasetError(f"{folder} holds no image with a record.")
    return sorted(images.values())
