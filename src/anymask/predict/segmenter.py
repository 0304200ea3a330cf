"""The front door: an image becomes an embedding once, then any number of prompts become masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from anymask.errors import EmbeddingMismatchError, LimitError, ModelError, PromptError
from anymask.frame import Frame, Upsampler
from anymask.image import ImageSource, read_image
from anymask.limits import MAX_OBJECTS_PER_CALL
from anymask.masks.scores import stability_score
from anymask.predict.cache import EmbeddingCache
from anymask.predict.prompts import prompt_arrays, prompt_slots
from anymask.runtime.backend import Backend, FloatArray, ModelSpec
from anymask.runtime.engine import engine_of
from anymask.runtime.ranking import mask_scores
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

PROMPTS_PER_DECODE: Final = 16
"""Prompts decoded together. Measured on one core with nano: 8 to 64 at a time cost the same 17 ms each, and every
one of them 5 MB while it lasts. With SAM's decoder, whose prompts take several times as much, no other number was
clearly faster on every engine."""
SLOTS_PER_DECODE: Final = 2_048
"""Points, corners and padding of the prompts decoded together, unless one prompt has more."""
ARRAY_BYTES: Final = 256 * 1024**2
"""Above this, the masks of one ``segment_many`` are kept as run lengths, not as arrays."""

_SINGLE: Final = slice(0, 1)
_CANDIDATES: Final = slice(1, None)


class Segmenter:
    """One model behind two verbs, ``embed`` and ``segment``; holds no state of any image.

    Safe to share between threads.
    """

    def __init__(
        self, backend: Backend, cache: EmbeddingCache | None = None, long_side: int | None = None
    ) -> None:
        """With a ``cache``, an image embedded before, by whatever process, is not encoded again.

        ``long_side`` is for `in_frame`.
        """
        self.backend = backend
        self.cache = cache
        self._long_side = long_side

    @property
    def spec(self) -> ModelSpec:
        """Name, digest and frame of the model."""
        spec = self.backend.spec
        return spec if self._long_side is None else replace(spec, long_side=self._long_side)

    def in_frame(self, long_side: int | None) -> Segmenter:
        """The same model on the same engine in a network frame whose longer side is at most ``long_side`` pixels.

        A smaller frame takes less time, for the image and for each prompt, and gives coarser masks. A model whose frame
        is fixed, one whose own is no larger, and None give this segmenter itself. Embeddings of one frame are not those
        of another.
        """
        spec = self.spec
        if long_side is None or spec.pad == "square" or long_side >= spec.long_side:
            return self
        return Segmenter(self.backend, self.cache, long_side)

    def __repr__(self) -> str:
        return f"Segmenter({self.spec.name!r}, digest {self.spec.digest[:12]}, {engine_of(self.backend)})"

    def embed(self, image: ImageSource) -> Embedding:
        """An image (path, bytes, binary file, Pillow image, or uint8 array) as the network sees it.

        Raises `ImageError` or `NotFoundError` for the image, `ModelError` for the network.
        """
        picture = read_image(image)
        if self.cache is None:
            return self._encode(picture)
        found = self.cache.get(picture.digest, self.spec.digest, self.spec.preprocessing)
        if found is not None and _mismatch(found, self.spec, picture) is None:
            return found
        embedding = self._encode(picture)
        self.cache.put(embedding)
        return embedding

    def segment(
        self,
        image: Embedding | ImageSource,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        """The masks of one object.

        Args:
            image: an embedding of this model, or an image, which is then embedded first.
            points: (N, 2), (x, y) in image pixels.
            labels: (N,), 1 foreground and 0 background; all foreground when not given.
            box: (x0, y0, x1, y1) in image pixels.
            mask: ``Mask.low_res_logits`` of an earlier answer, or a bool mask (H, W) of the image's size.
            multimask: three candidates, best first, for an ambiguous prompt such as one click; else one.

        Raises `PromptError` for a prompt that is malformed or does not fit, `EmbeddingMismatchError` for an
        embedding of another model.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask)
        return self.segment_many(image, [prompt], multimask)[0]

    def segment_many(
        self, image: Embedding | ImageSource, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]:
        """The masks of many objects, one set per prompt in their order; equal to asking one by one.

        The decoder takes them in batches of bounded size. Raises as `segment`, and `LimitError` for more than
        ``MAX_OBJECTS_PER_CALL`` prompts.
        """
        embedding = image if isinstance(image, Embedding) else self.embed(image)
        self.check(embedding)
        prompts = _checked(prompts, embedding.image_size)
        frame = self.frame(embedding.image_size)
        low_res_size = self.low_res_size(frame)
        height, width = embedding.image_size
        as_arrays = len(prompts) * height * width * (3 if multimask else 1) <= ARRAY_BYTES
        upsampler = Upsampler(frame)
        sets: list[MaskSet] = []
        for chunk in _chunks(prompts):
            logits, scores = self.backend.decode(
                embedding.features, prompt_arrays(chunk, frame, low_res_size)
            )
            if not (np.isfinite(logits).all() and np.isfinite(scores).all()):
                raise ModelError(
                    f"the model {self.spec.name!r} answered NaN or infinity; its weights may be damaged"
                )
            scores = mask_scores(self.spec, logits, scores)
            chosen = _CANDIDATES if multimask else _SINGLE
            for prompt, prompt_logits, prompt_scores in zip(chunk, logits, scores, strict=True):
                sets.append(
                    self._mask_set(upsampler, prompt, prompt_logits[chosen], prompt_scores[chosen], as_arrays)
                )
        return sets

    def check(self, embedding: Embedding, image: ImageSource | None = None) -> None:
        """Raise `EmbeddingMismatchError` unless the embedding is of this model, and of ``image`` if given."""
        reason = _mismatch(embedding, self.spec, None if image is None else read_image(image))
        if reason is not None:
            raise EmbeddingMismatchError(f"{reason}; embed the image again")

    def frame(self, image_size: tuple[int, int]) -> Frame:
        """How an image of this (height, width) sits in the model's network frame."""
        return _frame(image_size, self.spec)

    def low_res_size(self, frame: Frame) -> tuple[int, int]:
        """(height, width) of the model's logits in one of its frames."""
        height, width = frame.network_size
        return (height // self.spec.low_res_stride, width // self.spec.low_res_stride)

    def _encode(self, picture: Image) -> Embedding:
        spec, frame = self.spec, self.frame(picture.size)
        features = self.backend.encode(frame.to_network(picture.pixels, spec.pixel_mean, spec.pixel_std))
        if not all(np.isfinite(array).all() for array in features.values()):
            raise ModelError(
                f"the model {spec.name!r} made NaN or infinity of the image; its weights may be damaged"
            )
        return Embedding(
            features, picture.size, frame.network_size, picture.digest, spec.digest, spec.preprocessing
        )

    def _mask_set(
        self, upsampler: Upsampler, prompt: Prompt, logits: FloatArray, scores: FloatArray, as_arrays: bool
    ) -> MaskSet:
        """Masks of one prompt from logits (M, h, w) and scores (M,); one full-size plane lives at a time."""
        threshold = self.spec.mask_threshold
        masks = []
        for low_res, score in zip(logits, scores, strict=True):
            plane = upsampler(low_res)
            mask = Mask(
                plane > threshold,
                float(score),
                low_res_logits=low_res,
                stability_score=float(stability_score(plane, threshold)),
                point=_first_foreground(prompt),
            )
            masks.append(mask if as_arrays else as_run_lengths(mask))
        return MaskSet(masks)


def _frame(image_size: tuple[int, int], spec: ModelSpec) -> Frame:
    return Frame(image_size, spec.long_side, spec.pad, spec.resize, spec.normalisation)


def _mismatch(embedding: Embedding, spec: ModelSpec, picture: Image | None) -> str | None:
    """Why an embedding cannot be used, as the start of a sentence; None when it can."""
    if embedding.model_digest != spec.digest:
        made, ours = embedding.model_digest[:12], spec.digest[:12]
        return f"the embedding was made by another model ({made}) than {spec.name!r} ({ours})"
    if embedding.preprocessing != spec.preprocessing:
        return (
            f"the embedding was made with {embedding.preprocessing!r}, the model uses {spec.preprocessing!r}"
        )
    if embedding.network_size != _frame(embedding.image_size, spec).network_size:
        return f"the embedding's network frame {embedding.network_size} does not go with its image size"
    if picture is not None and embedding.image_digest != picture.digest:
        return "the embedding was made from another image"
    return None


def _checked(prompts: Sequence[Prompt], image_size: tuple[int, int]) -> list[Prompt]:
    """All prompts checked before any is decoded, so that a bad one costs nothing."""
    prompts = list(prompts)
    if len(prompts) > MAX_OBJECTS_PER_CALL:
        raise LimitError(f"one call may have {MAX_OBJECTS_PER_CALL} prompts, got {len(prompts)}; split them")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, Prompt):
            raise PromptError(f"prompt {index} must be an anymask.Prompt, got {type(prompt).__name__}")
        prompt.validate_for(image_size[1], image_size[0])
    return prompts


def _chunks(prompts: list[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts in their order, as many at a time as both bounds allow, at least one."""
    chunk: list[Prompt] = []
    longest = 0
    for prompt in prompts:
        longest = max(longest, prompt_slots(prompt))
        if chunk and (len(chunk) == PROMPTS_PER_DECODE or (len(chunk) + 1) * longest > SLOTS_PER_DECODE):
            yield chunk
            chunk, longest = [], prompt_slots(prompt)
        chunk.append(prompt)
    if chunk:
        yield chunk


def _first_foreground(prompt: Prompt) -> tuple[float, float] | None:
    if prompt.points is None or prompt.labels is None or not prompt.labels.any():
        return None
    x, y = prompt.points[int(np.argmax(prompt.labels))]
    return (float(x), float(y))


def as_run_lengths(mask: Mask) -> Mask:
    """The same mask, kept as run lengths."""
    return Mask.from_rle(
        mask.rle,
        mask.score,
        low_res_logits=mask.low_res_logits,
        stability_score=mask.stability_score,
        point=mask.point,
    )
