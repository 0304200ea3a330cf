"""A model whose answers are planted, for whatever asks a `Promptable`; nothing is learned and nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from anymask.evaluation.peers.baselines import FilledBox
from anymask.image import ImageSource
from anymask.types import Embedding, Mask, MaskSet, Prompt


@dataclass(frozen=True)
class Asked:
    """One call of ``segment``, its arguments as they came.

    Attributes:
        number: calls until now, this one included.
        image_size: (height, width).
    """

    number: int
    image_size: tuple[int, int]
    points: ArrayLike | None
    labels: ArrayLike | None
    box: ArrayLike | None
    mask: ArrayLike | None
    multimask: bool

    @property
    def corners(self) -> tuple[float, ...]:
        """The box as four floats."""
        return tuple(np.asarray(self.box, dtype=float).tolist())


Rule = Callable[[Asked], Iterable[Mask]]


class Planted:
    """Answers every prompt by a rule and notes in ``asked`` what it was asked; has ``embed`` and ``segment`` only."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.asked: list[Asked] = []

    def embed(self, image: ImageSource) -> Embedding:
        return FilledBox().embed(image)

    def segment(
        self,
        image: Embedding,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        asked = Asked(len(self.asked) + 1, image.image_size, points, labels, box, mask, multimask)
        self.asked.append(asked)
        return MaskSet(self._rule(asked), image.image_size)


class PlantedMany(Planted):
    """A `Planted` that takes many prompts at once too and notes in ``batches`` how many."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.batches: list[int] = []

    def segment_many(
        self, image: Embedding, prompts: Sequence[Prompt], multimask: bool = False
    ) -> list[MaskSet]:
        self.batches.append(len(prompts))
        return [self.segment(image, p.points, p.labels, p.box, p.mask, multimask) for p in prompts]


def always(masks: Iterable[Mask]) -> Rule:
    """The rule that gives the same masks whatever is asked."""
    kept = list(masks)
    return lambda asked: kept
