"""A backend is two methods: encode an image, decode prompts.

Everything else (resizing, padding, thresholds, upsampling, filters) is shared and lives above, so that all
backends answer alike and a new one is a page of code. `tests/runtime/test_conformance.py` holds for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Features = Mapping[str, FloatArray]
"""Named outputs of an encoder, each with a leading axis of 1; always one called ``embedding``."""

NUM_MASKS = 4
"""Masks per prompt: 0 for unambiguous prompts, 1 to 3 the nested answers to an ambiguous one."""


@dataclass(frozen=True)
class ModelSpec:
    """What the layers above must know about a model.

    Attributes:
        name: as the registry knows it.
        digest: SHA-256 text over the model's files; embeddings carry it.
        long_side: the image's longer side in the network frame, in pixels.
        pad: "square", or the multiple that both sides of the frame are padded to.
        pixel_mean, pixel_std: RGB, on the 0..255 scale.
        low_res_stride: network pixels per cell of the low-resolution logits.
        mask_threshold: logit above which a pixel belongs to the mask.
        resize: "longest_side", or "stretch" when both sides become ``long_side``; ``pad`` is "square" then.
        normalisation: "mean_std", or "min_max" when the picture's own extremes become 0 and 1 and neither
            ``pixel_mean`` nor ``pixel_std`` is used.
        ranking: what scores masks and so orders candidates, "predicted_iou" or "stability"; see
            `anymask.runtime.ranking`. The single answer is mask 0 whatever it says.
    """

    name: str
    digest: str
    long_side: int
    pad: Literal["square"] | int
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    low_res_stride: int = 4
    mask_threshold: float = 0.0
    resize: Literal["longest_side", "stretch"] = "longest_side"
    normalisation: Literal["mean_std", "min_max"] = "mean_std"
    ranking: Literal["predicted_iou", "stability"] = "predicted_iou"

    @property
    def preprocessing(self) -> str:
        """Name and version of the way from image to network frame; embeddings carry it."""
        return f"{self._placing}/{self._scaling}/v1"

    @property
    def _placing(self) -> str:
        if self.resize == "stretch":
            return f"stretch-{self.long_side}"
        return f"longest-side-{self.long_side}/pad-{self.pad}"

    @property
    def _scaling(self) -> str:
        if self.normalisation == "min_max":
            return "min-max"
        mean = ",".join(f"{value:g}" for value in self.pixel_mean)
        std = ",".join(f"{value:g}" for value in self.pixel_std)
        return f"mean-{mean}/std-{std}"


@dataclass(frozen=True)
class PromptArrays:
    """B prompts of one image in the published decoder's convention.

    Attributes:
        points: (B, N, 2) float32, x and y in pixels of the padded network frame, N >= 1.
        labels: (B, N) float32: 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
        mask_input: (B, 1, h, w) float32 logits of a previous answer.
        has_mask: (B,) float32, 1 where ``mask_input`` counts.
    """

    points: FloatArray
    labels: FloatArray
    mask_input: FloatArray
    has_mask: FloatArray

    def __len__(self) -> int:
        return len(self.points)

    def some(self, which: slice) -> PromptArrays:
        """Those of a range."""
        return PromptArrays(
            self.points[which], self.labels[which], self.mask_input[which], self.has_mask[which]
        )


class Backend(Protocol):
    """One loaded model on one engine. Safe to call from several threads."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        ...

    def encode(self, pixels: FloatArray) -> Features:
        """Normalised, padded pixels (1, 3, H, W) -> features, float32."""
        ...

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """Features of one image and B prompts -> logits (B, 4, h, w) and predicted IoU (B, 4), float32."""
        ...


@dataclass(frozen=True)
class Needed:
    """What of the answers to prompts somebody will look at.

    Attributes:
        least_iou: prompts of whose masks 1 to 3 one may have a predicted IoU above it; of others no mask.
        picture: its (height, width) in the network frame: logits may be anything finite where no pixel of it is made of
            them bilinearly. All of them where it is None.
    """

    least_iou: float = -math.inf
    picture: tuple[int, int] | None = None


@dataclass(frozen=True)
class Promising:
    """Answers to B prompts of which only some have masks.

    Attributes:
        logits: (K, 4, h, w) float32.
        scores: (B, 4) float32, predicted IoU of all.
        drawn: (K,) int64, the prompts that the logits belong to, rising.
    """

    logits: FloatArray
    scores: FloatArray
    drawn: NDArray[np.int64]


@runtime_checkable
class Screens(Protocol):
    """A `Backend` that knows how good masks will be before it draws them."""

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """`Backend.decode` of what is needed.

        More prompts may be drawn than that: scores are rounded by the engine's precision, and some are drawn whatever
        they promise.
        """
        ...


def decode_promising(
    backend: Backend, features: Features, prompts: PromptArrays, needed: Needed
) -> Promising:
    """`Screens.decode_promising` of any backend: all prompts are drawn by one that cannot do better."""
    if isinstance(backend, Screens):
        return backend.decode_promising(features, prompts, needed)
    logits, scores = backend.decode(features, prompts)
    return Promising(logits, scores, np.arange(len(prompts)))
