"""What every peer shares: the verbs of `Promptable`, with the checks of what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import EmbeddingMismatchError, PromptError
from anymask.image import ImageSource, read_image
from anymask.types import Embedding, Image, MaskSet, Prompt

__all__ = ["FloatArray", "Peer", "require_place"]

FloatArray = NDArray[np.float32]


class Peer(ABC):
    """Whatever stands beside our models in a table; `Promptable`. Holds no state of any image.

    Attributes:
        digest: SHA-256 text over all that decides an answer; embeddings carry it.
        preprocessing: name and version of how an embedding was made; embeddings carry it.
        network_size: (height, width) of the network's input, as embeddings state it.
    """

    digest: str
    preprocessing: str
    network_size: tuple[int, int]

    def embed(self, image: ImageSource) -> Embedding:
        """An image, ready for any number of prompts; raises as `Segmenter.embed`."""
        picture = read_image(image)
        return Embedding(
            self._features(picture),
            picture.size,
            self.network_size,
            picture.digest,
            self.digest,
            self.preprocessing,
        )

    def segment(
        self,
        image: Embedding,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
    ) -> MaskSet:
        """The masks of one object, best first; arguments as `Segmenter.segment`.

        Raises:
            PromptError: the prompt is malformed, does not fit, or is of a kind that this peer cannot answer.
            EmbeddingMismatchError: the embedding is of another peer or model.
        """
        self.check(image)
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask)
        height, width = image.image_size
        prompt.validate_for(width, height)
        return self._answer(image, prompt, multimask)

    def check(self, embedding: Embedding) -> None:
        """Refuse an embedding that this peer did not make.

        Raises:
            EmbeddingMismatchError: as it says.
        """
        if (embedding.model_digest, embedding.preprocessing) != (self.digest, self.preprocessing):
            raise EmbeddingMismatchError(
                f"the embedding was made by another model (digest {embedding.model_digest[:12]}, this one's is"
                f" {self.digest[:12]}); embed the image again"
            )

    @abstractmethod
    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        """Named arrays that answers are made from."""

    @abstractmethod
    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> MaskSet:
        """Masks for a prompt that fits, from an embedding of this peer."""


def require_place(prompt: Prompt, who: str) -> None:
    """Refuse a prompt with neither a foreground point nor a box.

    Raises:
        PromptError: it has neither; the sentence begins with ``who``.
    """
    if prompt.box is None and (prompt.labels is None or not np.any(prompt.labels)):
        raise PromptError(f"{who} needs a foreground point or a box; give one of them")
