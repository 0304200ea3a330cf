"""Several images in flight: while one is decoded the next is read and encoded, on one thread more."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from anymask.errors import AnymaskError
from anymask.types import Image, Mask, MaskSet

__all__ = ["Run", "Streamed", "looked_ahead"]

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What one image gave.

    Attributes:
        masks: in the order of the published records: best first without crops and clean-up; with crops those of the
            smaller crop first; after a clean-up those that did not change first.
        image_size: (height, width).
        clicks: clicks decoded, those decoded twice counted twice.
    """

    masks: list[Mask]
    image_size: tuple[int, int]
    clicks: int


@dataclass(frozen=True)
class Streamed:
    """What became of one of many images: a run, or the error of one that failed.

    Attributes:
        index: which it was, from 0.
        image: its pixels; None when it could not be read, or was given as an embedding.
        run: None for an image that failed.
        error: why it failed; None otherwise.
    """

    index: int
    image: Image | None
    run: Run | None
    error: AnymaskError | None = None

    @property
    def masks(self) -> MaskSet:
        """The masks, best predicted IoU first; raises the error of an image that failed."""
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return MaskSet(self.run.masks, self.run.image_size)


def looked_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items in their order; each is made on another thread while the one before is used.

    One is made ahead, no more. Nothing is made before the first is asked for. Closed early, this waits for the one that
    is being made. What ``items`` raises comes up in its place.
    """
    end = object()
    with ThreadPoolExecutor(1, "anymask-look-ahead") as pool:
        coming: Future[T | object] = pool.submit(next, items, end)
        while True:
            item = coming.result()
            if item is end:
                return
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]  # the end is dealt with
