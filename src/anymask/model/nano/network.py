"""nano: the small promptable model that anymask trains itself and carries in the package."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self

import torch
from torch import Tensor, nn

from anymask.errors import ModelError, ModelFormatError
from anymask.model.network import Family
from anymask.model.variants import Ranking, sizes_from

from .decoder import NanoDecoder, NanoDecoderConfig
from .encoder import NanoEncoder, NanoEncoderConfig
from .quality import VERSIONS

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Channel means and spreads of RGB in 0..255, those of the published models."""

FRAME_MULTIPLE = 32
"""Sides of nano's network frame are padded to a multiple of this, not to a square."""


@dataclass(frozen=True)
class NanoConfig:
    """All sizes of nano, and the longer side its images are resized to; a `NetworkConfig`.

    Sizes that do not fit together raise `ModelError`.
    """

    family: ClassVar[str] = "nano"
    ranking: ClassVar[Ranking] = "predicted_iou"

    long_side: int = 512
    encoder: NanoEncoderConfig = field(default_factory=NanoEncoderConfig)
    decoder: NanoDecoderConfig = field(default_factory=NanoDecoderConfig)

    def __post_init__(self) -> None:
        dim, heads = self.encoder.embedding_channels, self.decoder.heads
        if not all(map(_is_size, _numbers(self.to_dict()))):
            raise ModelError("the sizes of a nano must be whole numbers above 0")
        rules = {
            "channels and blocks must have 4 entries": len(self.encoder.channels)
            == len(self.encoder.blocks)
            == 4,
            "the last of channels must be a multiple of heads": self.encoder.channels[-1] % self.encoder.heads
            == 0,
            "embedding_channels must be a multiple of twice the decoder's heads": dim % (2 * heads) == 0,
            "the quality head's version must be one of 1 and 2": self.decoder.quality_version in VERSIONS,
            "kernels must be odd": self.encoder.kernel % 2 == self.decoder.local_kernel % 2 == 1,
        }
        if broken := [rule for rule, kept in rules.items() if not kept]:
            raise ModelError(f"the sizes of a nano do not fit together: {'; '.join(broken)}")

    @property
    def name(self) -> str:
        """See `NetworkConfig`; this and the next are the same for every nano."""
        return self.family

    @property
    def image_size(self) -> int:
        """The longer side of the network frame, in pixels."""
        return self.long_side

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """RGB, on the 0..255 scale."""
        return PIXEL_MEAN

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """RGB, on the 0..255 scale."""
        return PIXEL_STD

    @property
    def resize(self) -> Literal["longest_side"]:
        """See `NetworkConfig`."""
        return "longest_side"

    @property
    def normalisation(self) -> Literal["mean_std"]:
        """See `NetworkConfig`."""
        return "mean_std"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown name raises `ModelError`."""
        if set(data) != {"long_side", "encoder", "decoder"}:
            raise ModelError(f"a nano has long_side, encoder and decoder, got {sorted(data)!r:.200}")
        encoder = {key: tuple(v) if isinstance(v, list) else v for key, v in data["encoder"].items()}
        return cls(
            data["long_side"],
            sizes_from(NanoEncoderConfig, encoder),
            sizes_from(NanoDecoderConfig, data["decoder"]),
        )


class Nano(nn.Module):
    """The paper's figure at small size: one image encoding shared by any number of prompts."""

    feature_names = ("embedding", "skip8", "skip4")

    def __init__(self, config: NanoConfig | None = None) -> None:
        super().__init__()
        self.config = config or NanoConfig()
        self.image_encoder = NanoEncoder(self.config.encoder)
        self.mask_decoder = NanoDecoder(self.config.encoder, self.config.decoder)

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised RGB, sides multiples of 32 -> features (see `NanoEncoder.forward`)."""
        features: dict[str, Tensor] = self.image_encoder(pixels)
        return features

    def decode(
        self,
        features: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features and prompts -> low-resolution logits (B, 4, H/4, W/4), predicted IoU (B, 4)."""
        answer: tuple[Tensor, Tensor] = self.mask_decoder(features, points, labels, mask_input, has_mask)
        return answer

    def forward(self, pixels: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Image and clicks -> masks and scores, without a previous mask."""
        prompts = points.shape[0]
        empty = torch.zeros(prompts, 1, pixels.shape[-2] // 4, pixels.shape[-1] // 4, device=pixels.device)
        return self.decode(
            self.encode(pixels), points, labels, empty, torch.zeros(prompts, device=pixels.device)
        )


KNOWN_BLOCKS: Final = ((1, 2, 4, 3), (1, 3, 10, 6))
"""Of nano v0 and v1, and of v2: blocks at strides 4, 8, 16 and 32; all else is as by default, the longer side 448.

v3 has v2's, and its file says its frame of 512."""


def infer_nano(state_dict: Mapping[str, Tensor]) -> NanoConfig | None:
    """One of the nanos that anymask trained, or None when the keys are of another family.

    Keys cannot say how many heads a network has, nor for which frame it was trained, so one of other sizes raises
    `ModelFormatError`; a file that `anymask.training.ship` writes says its sizes.
    """
    if "mask_decoder.affinity.scale" not in state_dict:
        return None
    found: dict[str, set[str]] = {f"stage{stride}": set() for stride in (4, 8, 16, 32)}
    for key in state_dict:
        part = re.match(r"image_encoder\.(stage\d+)\.(\d+)\.(?:depthwise|position)\.weight$", key)
        if part and part[1] in found:
            found[part[1]].add(part[2])
    blocks = tuple(len(numbers) for numbers in found.values())
    if blocks not in KNOWN_BLOCKS:
        raise ModelFormatError(
            f"this is a nano of {blocks} blocks, and its file does not say its other sizes; "
            "write it with: python -m anymask.training.ship RUN OUT --weights FILE"
        )
    return NanoConfig(448, NanoEncoderConfig(blocks=blocks))


def _numbers(data: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    for value in data.values():
        if isinstance(value, Mapping):
            values += _numbers(value)
        else:
            values += value if isinstance(value, list | tuple) else [value]
    return values


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


NANO = Family("nano", infer_nano, Nano, NanoConfig.from_dict, MappingProxyType({}))
