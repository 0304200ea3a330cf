"""Names and bytes from datasets, taken with distrust: safe joins, bounded reads, sizes from headers."""

from __future__ import annotations

import io
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from anymask.errors import DatasetError, ImageError
from anymask.image import FORMATS
from anymask.limits import MAX_IMAGE_BYTES
from anymask.types.image import check_image_size

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")

_MAX_NAME: Final = 1_024
_ORIENTATION_TAG: Final = 0x0112
_TURNED: Final = (5, 6, 7, 8)
_warnings_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """The values of a mask picture, not its colours.

    Attributes:
        values: (H, W) bool, uint8, uint16 or int32, or (H, W, 3) uint8 for a colour picture.
        is_palette: the values are indices into a palette.
    """

    values: NDArray[Any]
    is_palette: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.values.shape[0]), int(self.values.shape[1])


def safe_name(name: object, where: str) -> str:
    """A relative file name from a dataset, with ``/`` between folders, that stays below the folder it is joined to.

    Args:
        name: what the dataset says.
        where: the file that says it, for the message.

    Raises:
        DatasetError: not text, empty, too long, absolute, with a drive, a backslash, a zero byte or a ``..``.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not _is_unicode(name):
        raise DatasetError(
            f"{where} has the file name {name!r:.80}; text of 1 to {_MAX_NAME} signs is needed."
        )
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(sign in name for sign in "\\:\0"):
        raise DatasetError(
            f"{where} has the file name {name!r:.80}; only plain names below the dataset's folder are read "
            "(no leading '/', no '..', no backslash or colon)."
        )
    return name


def _is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can spell and no file name can hold."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def stem_of(name: str) -> str:
    """A relative name without the extension of its last part."""
    return str(PurePosixPath(name).with_suffix(""))


def read_bytes(path: Path, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """All bytes of a plain file.

    Raises:
        DatasetError: missing, not a plain file, unreadable, or larger than ``limit`` bytes (nothing is read then).
    """
    try:
        if not path.is_file():
            raise DatasetError(f"There is no file at {str(path)!r}.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise DatasetError(f"{str(path)!r} has {size} bytes, the limit is {limit}.")
            return file.read(limit)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error}.") from None


def picture_size(data: bytes, path: Path) -> tuple[int, int]:
    """(height, width) of an encoded picture as it will be decoded, after its EXIF orientation; from the header alone.

    Raises:
        DatasetError: not one of the formats read, damaged, or over a limit.
    """
    picture = _open(data, path, FORMATS)
    with picture:
        try:
            turned = picture.getexif().get(_ORIENTATION_TAG, 1) in _TURNED
        except Exception:  # a photo with broken EXIF is still a photo
            turned = False
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def read_labels(path: Path) -> LabelPicture:
    """The values of a mask picture: PNG in black and white, grey of 8 or 16 bits, palette, or RGB of 8 bits.

    Raises:
        DatasetError: missing, no PNG, of another kind, damaged, or over a limit.
    """
    picture = _open(read_bytes(path), path, ("PNG",))
    with picture:
        if picture.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
            raise DatasetError(
                f"The mask picture {str(path)!r} has the mode {picture.mode}; black and white, grey, palette or RGB "
                "without transparency is needed."
            )
        try:
            with _warnings_lock, warnings.catch_warnings():
                warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
                return LabelPicture(np.asarray(picture), picture.mode == "P")
        except Exception as error:  # a decoder may raise anything on hostile bytes
            raise DatasetError(f"The mask picture {str(path)!r} is cut short or damaged: {error}.") from None


def _open(data: bytes, path: Path, formats: tuple[str, ...]) -> PillowImage.Image:
    """The picture with its header read, its size checked and nothing decoded."""
    try:
        # Pillow warns above its own limit, which is lower than ours; ours decides.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            picture = PillowImage.open(io.BytesIO(data), formats=formats)
    except Exception as error:  # a decoder may raise anything on hostile bytes
        known = " or ".join(formats)
        raise DatasetError(
            f"{str(path)!r} cannot be read as {known}: {str(error) or type(error).__name__}."
        ) from None
    try:
        check_image_size(*picture.size)
    except ImageError as error:
        picture.close()
        raise DatasetError(f"{str(path)!r} cannot be used: {error}.") from None
    return picture
