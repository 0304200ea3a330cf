"""What every promptable network of the SAM family has in common, whatever its encoder and decoder.

    normalised pixels --encode_features--> named features --decode_features, with prompts--> logits and scores

The engines in `anymask.runtime` know a network by these two methods, a checkpoint finds its network by `Family`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from anymask.model.prompt_tensors import PromptTensors
from anymask.model.variants import Ranking

LOW_RES_STRIDE = 4
"""Network pixels per cell of the low-resolution logits, in every published network."""


@runtime_checkable
class NetworkConfig(Protocol):
    """Every number that decides the shape of a network, and how its pixels are made.

    ``family`` names the `Family`; ``resize`` says whether the longer side is scaled and the rest padded, or both sides
    are stretched to a square; ``normalisation`` whether channel means and spreads or the picture's own extremes count;
    ``ranking`` whether predicted IoU or stability scores the masks of the family (`anymask.runtime.ranking`).
    """

    family: ClassVar[str]
    ranking: ClassVar[Ranking]

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def pixel_mean(self) -> tuple[float, float, float]: ...
    @property
    def pixel_std(self) -> tuple[float, float, float]: ...
    @property
    def resize(self) -> Literal["longest_side", "stretch"]: ...
    @property
    def normalisation(self) -> Literal["mean_std", "min_max"]: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the family."""
        ...


@runtime_checkable
class PromptableNetwork(Protocol):
    """A `torch.nn.Module` with the two methods below and ``feature_names``, the first of which is "embedding"."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what `encode_features` gives."""
        ...

    def encode_features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised, padded pixels E x 3 x S x S -> features, each E x C x h x w, computed once per image."""
        ...

    def decode_features(
        self, features: Mapping[str, Tensor], prompts: PromptTensors
    ) -> tuple[Tensor, Tensor]:
        """Features of one image (shared) or of B, and B prompts -> all four masks of each.

        Returns (low_res_logits B x 4 x S/4 x S/4, predicted IoU B x 4): mask 0 is the answer when one is wanted, masks
        1..3 are the candidates of an ambiguous prompt.
        """
        ...


@dataclass(frozen=True)
class Family:
    """A kind of network: its sizes, how a checkpoint of it is known by its keys, and how it is built.

    Attributes:
        name: as ``NetworkConfig.family`` says it.
        infer: state dict under published names -> sizes, or None when the keys are of another family. Raises
            `ModelFormatError` when they are of this one and of no published size.
        build: sizes -> network with fresh weights, a `PromptableNetwork`.
        parse: the inverse of ``NetworkConfig.to_dict``; raises `ModelError`.
        published: the published sizes by name.
    """

    name: str
    infer: Callable[[Mapping[str, Tensor]], NetworkConfig | None]
    build: Callable[[Any], Any]
    parse: Callable[[Mapping[str, Any]], NetworkConfig]
    published: Mapping[str, NetworkConfig]
