"""Anything that holds a picture -> upright RGB pixels.

Rules, in the order they are applied:

1. Only JPEG, PNG, WebP and TIFF are opened, whatever the file is called; Pillow's other decoders are never
reached. 2. The size is read from the header and checked against ``anymask.limits`` before a pixel is decoded.
3. A file of several frames or pages gives its first. 4. The EXIF orientation is applied once, for all four
formats. 5. Everything becomes 8-bit RGB: palette, grey, 1-bit and CMYK by Pillow's plain conversion (colour
profiles are not applied, as in the published code); 16-bit colour by its high byte; transparency is laid over
white. 6. Deep grey (16-bit, 32-bit integer, float) has no agreed white, so it is stretched: the 0.1 and 99.9
percentiles of the finite values become 0 and 255, values beyond are clipped, NaN becomes 0.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from anymask.errors import (
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    ImageTruncatedError,
    NotFoundError,
)
from anymask.limits import MAX_IMAGE_BYTES
from anymask.types.image import Image, check_image_size

__all__ = ["FORMATS", "ImageSource", "read_image"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF")
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | PillowImage.Image | NDArray[np.uint8] | Image

_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
_DEEP_GREY: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_STRETCH_SAMPLES: Final = 1_000_000
_warnings_lock = threading.Lock()


def read_image(source: ImageSource) -> Image:
    """Upright RGB pixels of a path, bytes, binary file, Pillow image or array.

    Arrays are taken as they are: (H, W, 3) RGB, (H, W) or (H, W, 1) grey, (H, W, 4) RGBA over white, all
    uint8.

    Raises:
        NotFoundError: the path does not exist.
        ImageFormatError: not one of ``FORMATS``, or an array of another shape or dtype.
        ImageTooLargeError: over a limit; nothing was decoded.
        ImageTruncatedError: cut short or damaged.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, np.ndarray):
        return Image(_array_to_rgb(source))
    if isinstance(source, PillowImage.Image):
        check_image_size(*source.size)
        return Image(_decode(source), format=source.format or "array")
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_file(io.BytesIO(source))
    if hasattr(source, "read"):
        data = source.read(MAX_IMAGE_BYTES + 1)
        if not isinstance(data, bytes):
            raise ImageFormatError(f"open the file in binary mode; reading it gave {type(data).__name__}")
        return _read_file(io.BytesIO(data))
    raise ImageFormatError(
        f"an image must be a path, bytes, binary file, Pillow image or array, got {type(source).__name__}"
    )


def _read_path(path: Path) -> Image:
    try:
        if not path.is_file():
            raise NotFoundError(f"there is no image file {str(path)!r}")
        with path.open("rb") as file:
            return _read_file(file)
    except ValueError as error:  # a zero byte in the path
        raise NotFoundError(f"there is no image file {str(path)!r}") from error
    except OSError as error:
        raise ImageError(f"could not read {str(path)!r}: {error.strerror or error}") from error


def _read_file(file: BinaryIO) -> Image:
    """Check the length, open, check the size, and only then decode."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if length > MAX_IMAGE_BYTES:
        raise ImageTooLargeError(f"the image file has {length} bytes, over the limit of {MAX_IMAGE_BYTES}")
    if length == 0:
        raise ImageFormatError("the image file is empty")
    picture = _open(file)
    with picture:
        check_image_size(*picture.size)
        return Image(_decode(picture), format=str(picture.format))


def _open(file: BinaryIO) -> PillowImage.Image:
    """The picture with its header read and nothing decoded."""
    start = file.read(16)
    file.seek(0)
    try:
        # Pillow warns above its own limit, which is lower than ours; ours decides.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            return PillowImage.open(file, formats=FORMATS)
    except PillowImage.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image is over the limits: {error}; scale it down first") from error
    except UnidentifiedImageError as error:
        if _starts_like_an_allowed_format(start):
            raise ImageTruncatedError("the image's header is cut short or damaged") from error
        raise ImageFormatError(
            f"the file is not one of {', '.join(FORMATS)}; it starts with {start[:8]!r}; convert it first"
        ) from error
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise ImageTruncatedError(f"the image's header is damaged: {error}") from error


def _starts_like_an_allowed_format(start: bytes) -> bool:
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return webp or start.startswith(
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    )


def _decode(picture: PillowImage.Image) -> NDArray[np.uint8]:
    """Upright (H, W, 3) uint8 pixels of an opened picture whose size is known to be fine."""
    try:
        if picture.width * picture.height > (PillowImage.MAX_IMAGE_PIXELS or 2**63):
            with _warnings_lock, warnings.catch_warnings():
                warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
                picture.load()
        else:
            picture.load()
        method = _UPRIGHT.get(
            _orientation(picture)
        )  # after load: Pillow turns a TIFF itself and drops the tag
        upright = picture.transpose(method) if method is not None else picture
        if upright.mode in _DEEP_GREY:
            grey = _stretch(np.asarray(upright))
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(_to_rgb(upright))
    except MemoryError as error:
        raise ImageTooLargeError(
            f"not enough memory for {picture.width} x {picture.height} pixels"
        ) from error
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise ImageTruncatedError(f"the image is cut short or damaged: {error}") from error


def _orientation(picture: PillowImage.Image) -> int:
    """EXIF orientation 1 to 8; 1 when there is none or the EXIF data is damaged."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
        return int(value)
    except Exception:  # a photo with broken EXIF is still a photo
        return 1


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    """Any 8-bit mode as RGB, transparency over white."""
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        if picture.mode in ("1", "RGBa", "La"):
            picture = picture.convert({"1": "L", "RGBa": "RGBA", "La": "LA"}[picture.mode])
        layer = picture.convert("RGBA")
        white = PillowImage.new("RGBA", layer.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _stretch(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Deep grey (H, W) as uint8: percentiles 0.1 and 99.9 of the finite values to 0 and 255."""
    deep = values.astype(np.float32) if values.dtype.itemsize <= 2 else values.astype(np.float64)
    finite = np.isfinite(deep)
    sample = deep[finite]
    if sample.size == 0:
        return np.zeros(deep.shape, dtype=np.uint8)
    step = max(1, sample.size // _STRETCH_SAMPLES)
    low, high = np.percentile(sample[::step], (0.1, 99.9), method="nearest")
    if not low < high:  # nearly everything is one value: keep what little differs
        low, high = sample.min(), sample.max()
    if not low < high:
        return np.zeros(deep.shape, dtype=np.uint8)
    # halves, so that the difference of two huge numbers does not overflow
    share = (np.clip(np.where(finite, deep, low), low, high) / 2 - low / 2) / (high / 2 - low / 2)
    stretched: NDArray[np.uint8] = np.rint(share * 255).astype(np.uint8)
    return stretched


def _array_to_rgb(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """An array as (H, W, 3) uint8; raises ``ImageFormatError`` naming shape and dtype."""
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4):
        raise ImageFormatError(
            f"an image array must be uint8 of shape (H, W, 3), (H, W), (H, W, 1) or (H, W, 4), "
            f"got {array.dtype} {array.shape}; scale it to 0..255 and order it height, width, channel"
        )
    pixels = np.asarray(array, dtype=np.uint8)
    check_image_size(pixels.shape[1], pixels.shape[0])
    if channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if channels == 4:
        return np.asarray(_to_rgb(PillowImage.fromarray(np.ascontiguousarray(pixels), mode="RGBA")))
    return pixels
