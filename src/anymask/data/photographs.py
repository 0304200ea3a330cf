"""Photographs without masks: the pictures of a folder, subfolders included, or of a plain tar file, in place."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Final

from anymask.errors import DatasetError
from anymask.limits import MAX_IMAGE_BYTES

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")


class Photographs:
    """Encoded image files by position, in the order of their names.

    Attributes:
        path: the folder or tar file.
        source: its name without extension, blanks replaced by underscores.

    Raises:
        DatasetError: there is nothing at the path, it is neither a folder nor a tar file, or it holds no picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.source = "_".join((self.path.stem if self.path.is_file() else self.path.resolve().name).split())
        self._files: list[Path] = []
        self._members: list[tuple[str, int, int]] = []
        if self.path.is_dir():
            self._files = sorted(
                p for p in self.path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
            )
        else:
            self._members = _members(self.path)
        if not len(self):
            raise DatasetError(f"{self.path} holds no picture ({', '.join(SUFFIXES)}).")

    def __len__(self) -> int:
        return len(self._files) or len(self._members)

    def keys(self) -> list[str]:
        """Paths below the folder or in the tar file."""
        return [str(p.relative_to(self.path)) for p in self._files] or [name for name, _, _ in self._members]

    def __getitem__(self, index: int) -> bytes:
        """The bytes of one file; raises `DatasetError` when it cannot be read or is too long."""
        try:
            if self._files:
                with open(self._files[index], "rb") as file:
                    data = file.read(MAX_IMAGE_BYTES + 1)
            else:
                _, offset, size = self._members[index]
                with open(self.path, "rb") as file:
                    data = os.pread(file.fileno(), min(size, MAX_IMAGE_BYTES + 1), offset)
        except OSError as error:
            raise DatasetError(f"A picture of {self.path} cannot be read: {error.strerror}.") from None
        if len(data) > MAX_IMAGE_BYTES:
            raise DatasetError(
                f"A picture of {self.path} is longer than the limit of {MAX_IMAGE_BYTES} bytes."
            )
        return data


def _members(path: Path) -> list[tuple[str, int, int]]:
    """Name, offset and size of every picture in a tar file."""
    try:
        with tarfile.open(path, "r:") as archive:
            return sorted(
                (info.name, info.offset_data, info.size)
                for info in archive
                if info.isfile() and Path(info.name).suffix.lower() in SUFFIXES
            )
    except FileNotFoundError:
        raise DatasetError(f"There are no photographs at {path}.") from None
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(
            f"{path} is neither a folder nor a plain tar file of photographs: {error}."
        ) from None
