"""Embedding: an image as the network sees it, ready for any number of prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.atomic import write_atomically
from anymask.errors import EmbeddingError, NotFoundError
from anymask.limits import (
    MAX_EMBEDDING_ARRAYS,
    MAX_EMBEDDING_BYTES,
    MAX_EMBEDDING_TEXT,
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_SIDE,
    MAX_NETWORK_SIDE,
)

__all__ = ["Embedding"]

_FORMAT: Final = "anymask-embedding"
_VERSION: Final = "1"
_SIZES: Final = ("image_height", "image_width", "network_height", "network_width")
_TEXTS: Final = ("image_digest", "model_digest", "preprocessing")


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """Features of one image, with what is needed to use them and to know where they came from.

    * ``features``: named float32 arrays, read-only, finite;
    * ``image_size``: (height, width) of the upright image; ``network_size``: (height, width) of the padded
      network frame;
    * ``image_digest``, ``model_digest``: SHA-256 texts; ``preprocessing``: name and version of the frame's
      rule.

    Raises ``EmbeddingError`` with one sentence on anything else.  Safe to share between threads.
    """

    features: Mapping[str, NDArray[np.float32]]
    image_size: tuple[int, int]
    network_size: tuple[int, int]
    image_digest: str
    model_digest: str
    preprocessing: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _size(self.image_size, "image_size", MAX_IMAGE_SIDE))
        object.__setattr__(self, "network_size", _size(self.network_size, "network_size", MAX_NETWORK_SIDE))
        if self.image_size[0] * self.image_size[1] > MAX_IMAGE_PIXELS:
            raise EmbeddingError(
                f"an embedding's image_size {self.image_size} is over {MAX_IMAGE_PIXELS} pixels"
            )
        for name in _TEXTS:
            text = getattr(self, name)
            if not isinstance(text, str) or not 0 < len(text) <= MAX_EMBEDDING_TEXT:
                raise EmbeddingError(
                    f"an embedding's {name} must be 1 to {MAX_EMBEDDING_TEXT} characters of text"
                )
        object.__setattr__(self, "features", _features(self.features))

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {array.shape}" for name, array in self.features.items())
        height, width = self.image_size
        origin = f"image {self.image_digest[:12]}, model {self.model_digest[:12]}"
        return f"Embedding({width} x {height}, {origin}: {arrays})"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all; returns its path.  Raises ``OutputError``."""
        from safetensors.numpy import save

        metadata = {"format": _FORMAT, "version": _VERSION}
        metadata |= dict(zip(_SIZES, map(str, (*self.image_size, *self.network_size)), strict=True))
        metadata |= {name: getattr(self, name) for name in _TEXTS}
        return write_atomically(path, save(dict(self.features), metadata=metadata))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Embedding:
        """Read a file written by ``save``.  Raises ``NotFoundError`` or ``EmbeddingError``."""
        source = Path(path)
        try:
            size = source.stat().st_size
        except (OSError, ValueError) as error:
            raise NotFoundError(f"there is no embedding file {str(source)!r}") from error
        if size > MAX_EMBEDDING_BYTES or not source.is_file():
            raise EmbeddingError(f"{str(source)!r} is not a file of at most {MAX_EMBEDDING_BYTES} bytes")
        metadata, features = _read(source)
        if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
            raise EmbeddingError(f"{str(source)!r} is not an {_FORMAT} file of version {_VERSION}")
        missing = [name for name in (*_SIZES, *_TEXTS) if name not in metadata]
        if missing:
            raise EmbeddingError(f"the embedding {str(source)!r} lacks {', '.join(missing)}")
        numbers = [metadata[name] for name in _SIZES]
        if not all(text.isascii() and text.isdigit() and len(text) <= 9 for text in numbers):
            raise EmbeddingError(
                f"the embedding {str(source)!r} has sizes {numbers!r:.120}, not whole numbers"
            )
        image_height, image_width, network_height, network_width = map(int, numbers)
        texts = {name: metadata[name] for name in _TEXTS}
        return Embedding(features, (image_height, image_width), (network_height, network_width), **texts)


def _read(source: Path) -> tuple[dict[str, str], dict[str, NDArray[np.float32]]]:
    """Metadata and float32 arrays of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, framework="numpy") as file:
            names = list(file.keys())
            if len(names) > MAX_EMBEDDING_ARRAYS:
                raise EmbeddingError(f"{str(source)!r} has {len(names)} arrays, over {MAX_EMBEDDING_ARRAYS}")
            for name in names:
                dtype = file.get_slice(name).get_dtype()
                if dtype != "F32":
                    raise EmbeddingError(f"the feature {name!r:.80} in {str(source)!r} is {dtype}, not F32")
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise EmbeddingError(f"{str(source)!r} is not a whole safetensors file: {error}") from error


def _features(raw: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
    if not isinstance(raw, Mapping) or not 1 <= len(raw) <= MAX_EMBEDDING_ARRAYS:
        raise EmbeddingError(f"an embedding needs 1 to {MAX_EMBEDDING_ARRAYS} named feature arrays")
    features: dict[str, NDArray[np.float32]] = {}
    total = 0
    for name, array in raw.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_EMBEDDING_TEXT:
            raise EmbeddingError(
                f"a feature's name must be 1 to {MAX_EMBEDDING_TEXT} characters, got {name!r:.80}"
            )
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.size == 0:
            seen = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise EmbeddingError(f"the feature {name!r} must be a non-empty float32 array, got {seen}")
        total += array.nbytes
        if total > MAX_EMBEDDING_BYTES:
            raise EmbeddingError(f"an embedding may hold {MAX_EMBEDDING_BYTES} bytes, got {total} or more")
        if not np.isfinite(array).all():
            raise EmbeddingError(f"the feature {name!r} holds NaN or infinity; embed the image again")
        copy = np.array(array, dtype=np.float32, order="C")
        copy.setflags(write=False)
        features[name] = copy
    return MappingProxyType(features)


def _size(value: object, name: str, largest: int) -> tuple[int, int]:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        height, width = value
        whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in value)
        if whole and 1 <= height <= largest and 1 <= width <= largest:
            return (int(height), int(width))
    raise EmbeddingError(
        f"an embedding's {name} must be (height, width) from 1 to {largest}, got {value!r:.80}"
    )
