"""Promptable: what the protocols ask of a model, and no more."""

from __future__ import annotations

from typing import Protocol

from numpy.typing import ArrayLike

from anymask.image import ImageSource
from anymask.types import Embedding, MaskSet

__all__ = ["Promptable"]


class Promptable(Protocol):
    """The two verbs of `Segmenter`; the baselines of `anymask.evaluation.peers.baselines` have them too."""

    def embed(self, image: ImageSource) -> Embedding:
        """An image, ready for any number of prompts."""
        ...

    def segment(
        self,
        image: Embedding,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        """The masks of one object, best first; see `Segmenter.segment`."""
        ...
