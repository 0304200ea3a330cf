"""What a model answers to a batch of clicks: scores of all masks, and planes of those that are worth looking at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anymask.frame import Frame
from anymask.predict.prompts import PADDING
from anymask.runtime.backend import (
    NUM_MASKS,
    Backend,
    Features,
    FloatArray,
    Needed,
    PromptArrays,
    decode_promising,
)
from anymask.runtime.ranking import mask_scores

__all__ = ["MASKS_PER_CLICK", "Answers", "ask", "click_arrays"]

MASKS_PER_CLICK = NUM_MASKS - 1
"""A click has three masks, one within the other; the decoder's first is for prompts without ambiguity."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Answers to N clicks.

    Attributes:
        scores: (N, 3) float32.
        planes: (K, 3, h, w) float32, low-resolution logits of K of the clicks.
        places: (N,) which of the planes are a click's; -1 for one without.
    """

    scores: FloatArray
    planes: FloatArray
    places: IntArray

    def of(self, clicks: IntArray, masks: IntArray) -> FloatArray:
        """The planes (M, h, w) of masks (M,) of clicks (M,); raises `IndexError` for a click without."""
        places = self.places[clicks]
        if (places < 0).any():
            raise IndexError("a mask was asked for that the model did not draw")
        return self.planes[places, masks]


def ask(backend: Backend, features: Features, prompts: PromptArrays, needed: Needed) -> Answers:
    """Decode clicks; those that need not be drawn may come without planes.

    A model whose masks are scored by their stability has to draw all of them, whole.
    """
    if backend.spec.ranking != "predicted_iou":
        needed = Needed()
    found = decode_promising(backend, features, prompts, needed)
    places = np.full(len(prompts), -1, dtype=np.int64)
    places[found.drawn] = np.arange(len(found.drawn))
    planes, scores = found.logits[:, 1:], found.scores[:, 1:]
    return Answers(mask_scores(backend.spec, planes, scores), planes, places)


def click_arrays(points: NDArray[np.float64], frame: Frame, low_res_size: tuple[int, int]) -> PromptArrays:
    """`prompt_arrays` of one foreground click per prompt, at points (N, 2) that lie in the image, without a loop."""
    count = len(points)
    places = np.zeros((count, 2, 2), dtype=np.float32)
    places[:, 0] = frame.points_to_network(points)
    labels = np.full((count, 2), PADDING, dtype=np.float32)
    labels[:, 0] = 1
    return PromptArrays(
        places,
        labels,
        np.zeros((count, 1, *low_res_size), dtype=np.float32),
        np.zeros(count, dtype=np.float32),
    )
