"""Embeddings on disk: the same picture and model are encoded once, whichever process asks.

An entry is one safetensors file, named by the key (SHA-256 of image digest, model digest and preprocessing) and
the SHA-256 of the file itself, so that damage is seen. Files appear whole (rename) and are never changed; a hit
moves the file's time forward, and the entries not used for longest are removed first when the cache is full.
Several processes may share one folder: whoever loses a race finds the file there, or gone and makes it again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from anymask.errors import AnymaskError, EmbeddingError, NotFoundError
from anymask.limits import MAX_EMBEDDING_BYTES
from anymask.types import Embedding

_SUFFIX: Final = ".safetensors"
_UNFINISHED: Final = ".part"
_UNFINISHED_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)


class EmbeddingCache:
    """A folder of embeddings of at most ``max_bytes``; a convenience that never makes ``embed`` fail."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def get(self, image_digest: str, model_digest: str, preprocessing: str) -> Embedding | None:
        """The entry, or None; a damaged one is removed."""
        wanted = (image_digest, model_digest, preprocessing)
        for path in self._files(_key(*wanted)):
            with suppress(NotFoundError):  # removed by another process meanwhile
                try:
                    embedding = _load(path)
                except EmbeddingError as error:
                    _log.warning("dropped a damaged entry of the embedding cache: %s", error)
                    _remove(path)
                    continue
                if (embedding.image_digest, embedding.model_digest, embedding.preprocessing) == wanted:
                    with suppress(OSError):
                        os.utime(path)
                    return embedding
        return None

    def put(self, embedding: Embedding) -> None:
        """Keep an embedding, then remove the entries not used for longest until the rest fits.

        A full or read-only disk costs the entry, not the caller.
        """
        if sum(array.nbytes for array in embedding.features.values()) > self.max_bytes:
            return
        key = _key(embedding.image_digest, embedding.model_digest, embedding.preprocessing)
        temporary = self.folder / f"{key}.{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            embedding.save(temporary)
            path = self.folder / f"{key}-{_file_digest(temporary)}{_SUFFIX}"
            os.replace(temporary, path)
            for other in self._files(key):
                if other != path:  # equal values in another order of the header, from a race
                    _remove(other)
        except (OSError, AnymaskError) as error:
            _log.warning("could not keep an embedding in %s: %s", self.folder, error)
            _remove(temporary)
        self._trim()

    def clear(self) -> None:
        """Remove every entry."""
        for path in [*self._files(""), *self._unfinished()]:
            _remove(path)

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._by_age())

    def _trim(self) -> None:
        entries = self._by_age()
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            _remove(path)
            total -= size
        for path in self._unfinished():
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _UNFINISHED_SECONDS:
                    _remove(path)

    def _by_age(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path), oldest first."""
        entries = []
        for path in self._files(""):
            with suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        return sorted(entries)

    def _files(self, key: str) -> Iterator[Path]:
        yield from self._named(key, _SUFFIX)

    def _unfinished(self) -> Iterator[Path]:
        yield from self._named("", _UNFINISHED)

    def _named(self, prefix: str, suffix: str) -> list[Path]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [self.folder / name for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _key(image_digest: str, model_digest: str, preprocessing: str) -> str:
    text = "\n".join((image_digest, model_digest, preprocessing))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _load(path: Path) -> Embedding:
    """The embedding of a file whose bytes are those it is named after."""
    try:
        if path.stat().st_size > MAX_EMBEDDING_BYTES or not path.stem.endswith(_file_digest(path)):
            raise EmbeddingError(f"{str(path)!r} is not what was written")
    except FileNotFoundError as error:
        raise NotFoundError(f"{str(path)!r} is gone") from error
    except OSError as error:
        raise EmbeddingError(f"{str(path)!r} could not be read: {error.strerror}") from error
    return Embedding.load(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
