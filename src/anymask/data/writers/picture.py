"""The picture that masks belong to, as the writers name it, and its file as other programs can read it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image as PillowImage

from anymask.data.files import read_bytes
from anymask.image import FORMATS, read_image

__all__ = ["Picture", "picture_file"]

_ORIENTATION_TAG: Final = 0x0112
_KEPT: Final = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class Picture:
    """One picture of a set.

    Attributes:
        id: unique in the set, from 1.
        name: what its files are called, without an ending; unique in the set.
        file: its own file name, with ``/`` between folders, relative to the folder of all pictures.
        width, height: in pixels, upright.
    """

    id: int
    name: str
    file: str
    width: int
    height: int

    def as_sa1b(self, file_name: str | None = None) -> dict[str, Any]:
        """The ``image`` entry of an SA-1B record; ``file_name`` where the picture lies under another."""
        own = self.file.rsplit("/", 1)[-1]
        return {
            "image_id": self.id,
            "width": self.width,
            "height": self.height,
            "file_name": own if file_name is None else file_name,
        }


def picture_file(path: str | os.PathLike[str], name: str) -> tuple[str, bytes]:
    """File name and bytes of a picture for a dataset: upright for whoever reads it, JPEG or PNG.

    A JPEG or PNG that is upright as it is stays as it is, byte for byte; anything else becomes a PNG of its upright RGB
    pixels, since not every reader turns a photo by its EXIF orientation as the masks do.

    Raises:
        DatasetError: the file is gone or cannot be read.
        ImageError: it is no picture, or over a limit.
    """
    data = read_bytes(Path(path))
    suffix = _suffix_if_upright(data)
    if suffix is not None:
        return name + suffix, data
    buffer = io.BytesIO()
    PillowImage.fromarray(read_image(data).pixels).save(buffer, format="PNG", compress_level=6)
    return name + ".png", buffer.getvalue()


def _suffix_if_upright(data: bytes) -> str | None:
    """The ending for a file that needs no change; None for one that does, or whose header cannot be read."""
    try:
        with PillowImage.open(io.BytesIO(data), formats=FORMATS) as picture:
            upright = picture.getexif().get(_ORIENTATION_TAG, 1) not in range(2, 9)
            return _KEPT.get(picture.format or "") if upright else None
    except Exception:  # a decoder may raise anything; `read_image` says it in a sentence
        return None
