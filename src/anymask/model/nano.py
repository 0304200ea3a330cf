"""nano: the small promptable model that anymask trains itself and carries in the package."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .nano_decoder import NanoDecoder, NanoDecoderConfig
from .nano_encoder import NanoEncoder, NanoEncoderConfig

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Channel means and spreads of RGB in 0..255, those of the published models."""

FRAME_MULTIPLE = 32
"""Sides of nano's network frame are padded to a multiple of this, not to a square."""


@dataclass(frozen=True)
class NanoConfig:
    """All sizes of nano, and the longer side its images are resized to."""

    long_side: int = 512
    encoder: NanoEncoderConfig = field(default_factory=NanoEncoderConfig)
    decoder: NanoDecoderConfig = field(default_factory=NanoDecoderConfig)


class Nano(nn.Module):
    """The paper's figure at small size: one image encoding shared by any number of prompts."""

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
