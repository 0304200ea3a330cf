"""Several pictures of one size through the encoder at once, for backends that gain by it.

On a GPU batches fill the device. On a CPU they bring nothing: one picture keeps its threads busy, and four at a time
take torch no less than four in turn. Exported graphs take one picture, so there is nothing to batch for onnxruntime and
OpenVINO. Hence a backend says itself how many it wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from anymask.errors import EmbeddingMismatchError, ModelError
from anymask.image import ImageSource, read_image
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, FloatArray, ModelSpec
from anymask.types import Embedding, Image

__all__ = ["EncodesMany", "embed_many", "images_per_encode"]


@runtime_checkable
class EncodesMany(Protocol):
    """A `Backend` that encodes pictures of one network size together."""

    @property
    def spec(self) -> ModelSpec:
        """See `Backend.spec`."""
        ...

    @property
    def images_per_encode(self) -> int:
        """How many at a time are fastest, 1 or more; memory grows with them."""
        ...

    def encode_many(self, pixels: FloatArray) -> list[Features]:
        """Normalised, padded pixels (N, 3, H, W) -> the features of each, as `Backend.encode` gives them."""
        ...


def images_per_encode(segmenter: Segmenter) -> int:
    """How many pictures of one size `embed_many` encodes at a time."""
    backend = segmenter.backend
    return backend.images_per_encode if isinstance(backend, EncodesMany) else 1


def embed_many(segmenter: Segmenter, pictures: Sequence[ImageSource]) -> list[Embedding]:
    """What ``segmenter.embed`` gives for each, within the rounding of the engine.

    Memory: the network frames and the features of all pictures at once, so give few. Pictures of other network sizes
    than the first are encoded on their own. Raises as `Segmenter.embed`.
    """
    images = [read_image(picture) for picture in pictures]
    backend = segmenter.backend
    sizes = {segmenter.frame(image.size).network_size for image in images}
    if not isinstance(backend, EncodesMany) or backend.images_per_encode == 1 or len(sizes) != 1:
        return [segmenter.embed(image) for image in images]
    embeddings = [_cached(segmenter, image) for image in images]
    missing = [index for index, embedding in enumerate(embeddings) if embedding is None]
    for start in range(0, len(missing), backend.images_per_encode):
        some = missing[start : start + backend.images_per_encode]
        for index, embedding in zip(
            some, _encoded(segmenter, backend, [images[index] for index in some]), strict=True
        ):
            if segmenter.cache is not None:
                segmenter.cache.put(embedding)
            embeddings[index] = embedding
    return [embedding for embedding in embeddings if embedding is not None]


def _cached(segmenter: Segmenter, image: Image) -> Embedding | None:
    if segmenter.cache is None:
        return None
    found = segmenter.cache.get(image.digest, segmenter.spec.digest, segmenter.spec.preprocessing)
    try:
        if found is not None:
            segmenter.check(found, image)
    except EmbeddingMismatchError:
        return None
    return found


def _encoded(segmenter: Segmenter, backend: EncodesMany, images: Sequence[Image]) -> list[Embedding]:
    spec = segmenter.spec
    frames = [segmenter.frame(image.size) for image in images]
    pixels = np.concatenate(
        [
            frame.to_network(image.pixels, spec.pixel_mean, spec.pixel_std)
            for frame, image in zip(frames, images, strict=True)
        ]
    )
    embeddings = []
    for features, frame, image in zip(backend.encode_many(pixels), frames, images, strict=True):
        if not all(np.isfinite(array).all() for array in features.values()):
            raise ModelError(
                f"the model {spec.name!r} made NaN or infinity of the image; its weights may be damaged"
            )
        embeddings.append(
            Embedding(features, image.size, frame.network_size, image.digest, spec.digest, spec.preprocessing)
        )
    return embeddings
