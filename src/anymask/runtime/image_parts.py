"""What a decoder computes of an image alone, kept from one call to the next.

A decoder that is cut in two (`anymask.model.sam.fast_decoder`) has a part that depends on the embedding only. A person
clicks many times on one image, and everything mode sends many batches of prompts to one: the parts of the last images
are kept, a few tens of megabytes each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from anymask.runtime.backend import Features, FloatArray

__all__ = ["IMAGES_KEPT", "ImageParts"]

IMAGES_KEPT: Final = 2
PartsT = TypeVar("PartsT")


class ImageParts(Generic[PartsT]):
    """Parts by embedding, in whatever form the engine has them.

    Safe to share between threads: two that ask for one image at once compute it once.
    """

    def __init__(self, compute: Callable[[Features], PartsT]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._kept: list[tuple[FloatArray, PartsT]] = []

    def of(self, features: Features) -> PartsT:
        """The parts of an image's features.

        An image is known again by its very array, not by its values; an array that can be written to is not
        remembered, since it may hold another image at the next call.
        """
        embedding = features["embedding"]
        if embedding.flags.writeable:
            return self._compute(features)
        with self._lock:
            for place, (known, parts) in enumerate(self._kept):
                if known is embedding:
                    self._kept.append(self._kept.pop(place))
                    return parts
            parts = self._compute(features)
            self._kept = [*self._kept, (embedding, parts)][-IMAGES_KEPT:]
            return parts
