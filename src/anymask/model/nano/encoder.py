"""nano's image encoder: convolutions where detail lives, attention where the whole picture is in view.

Four stages at strides 4, 8, 16 and 32; the last is a few transformer blocks, so that every position sees the
whole image at small cost. A top-down neck merges them into the embedding (stride 16) and two skips (strides 8
and 4) that give the decoder crisp edges. Nothing depends on the input's size but that its sides are
multiples of 32.

Shape legend: B images, H x W network pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NanoEncoderConfig:
    """Sizes of the encoder; channels and blocks are listed for strides 4, 8, 16, 32."""

    stem_channels: int = 24
    channels: tuple[int, int, int, int] = (40, 80, 160, 256)
    blocks: tuple[int, int, int, int] = (1, 2, 4, 3)
    expansion: int = 3
    kernel: int = 7
    heads: int = 8
    embedding_channels: int = 128
    skip8_channels: int = 48
    skip4_channels: int = 16


class ConvBlock(nn.Module):
    """Residual block: depthwise convolution, then a two-layer perceptron on each position (Liu et al., 2022)."""

    def __init__(self, channels: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, channels * expansion, 1)
        self.project = nn.Conv2d(channels * expansion, channels, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.out_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x))
        y = self.out_norm(self.project(F.gelu(self.expand(y))))
        out: Tensor = x + y
        return out


class GlobalBlock(nn.Module):
    """Transformer block over all positions; a depthwise convolution tells it where each one is."""

    def __init__(self, channels: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, channels * 3)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.lin1 = nn.Linear(channels, channels * expansion)
        self.lin2 = nn.Linear(channels * expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        qkv = self.qkv(self.norm1(tokens)).reshape(batch, -1, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        tokens = tokens + self.proj(attended)
        tokens = tokens + self.lin2(F.gelu(self.lin1(self.norm2(tokens))))
        out: Tensor = tokens.transpose(1, 2).reshape(batch, channels, height, width)
        return out


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation (folded into one at export)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def upsample2(x: Tensor) -> Tensor:
    """Double both sides, bilinear, half-pixel centres."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class NanoEncoder(nn.Module):
    """Image -> embedding and skips."""

    def __init__(self, config: NanoEncoderConfig) -> None:
        super().__init__()
        c4, c8, c16, c32 = config.channels
        n4, n8, n16, n32 = config.blocks
        dim = config.embedding_channels

        def stage(previous: int, channels: int, blocks: int) -> nn.Sequential:
            body = [ConvBlock(channels, config.expansion, config.kernel) for _ in range(blocks)]
            return nn.Sequential(conv_norm(previous, channels, 3, stride=2), *body)

        self.stem = nn.Sequential(conv_norm(3, config.stem_channels, 3, stride=2), nn.GELU())
        self.stage4 = stage(config.stem_channels, c4, n4)
        self.stage8 = stage(c4, c8, n8)
        self.stage16 = stage(c8, c16, n16)
        self.stage32 = nn.Sequential(
            conv_norm(c16, c32, 3, stride=2),
            *[GlobalBlock(c32, config.heads, config.expansion) for _ in range(n32)],
        )
        self.lateral32 = nn.Conv2d(c32, dim, 1)
        self.lateral16 = nn.Conv2d(c16, dim, 1)
        self.merge16 = ConvBlock(dim, 2, config.kernel)
        self.lateral8 = nn.Conv2d(c8, config.skip8_channels, 1)
        self.top8 = nn.Conv2d(dim, config.skip8_channels, 1)
        self.merge8 = conv_norm(config.skip8_channels, config.skip8_channels, 3)
        self.lateral4 = nn.Conv2d(c4, config.skip4_channels, 1)
        self.top4 = nn.Conv2d(config.skip8_channels, config.skip4_channels, 1)
        self.merge4 = conv_norm(config.skip4_channels, config.skip4_channels, 3)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode images.

        Args:
            pixels: (B, 3, H, W) normalised RGB, H and W multiples of 32.

        Returns:
            ``embedding`` (B, C, H/16, W/16), ``skip8`` (B, C8, H/8, W/8), ``skip4`` (B, C4, H/4, W/4).
        """
        x4 = self.stage4(self.stem(pixels))
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        embedding = self.merge16(self.lateral16(x16) + upsample2(self.lateral32(x32)))
        skip8 = self.merge8(F.gelu(self.lateral8(x8) + upsample2(self.top8(embedding))))
        skip4 = self.merge4(F.gelu(self.lateral4(x4) + upsample2(self.top4(skip8))))
        return {"embedding": embedding, "skip8": skip8, "skip4": skip4}


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())


def normalise(
    pixels_uint8: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> float32 with zero mean and unit spread per channel."""
    shape = (1, 3, 1, 1)
    centre = torch.tensor(mean, device=pixels_uint8.device).reshape(shape)
    spread = torch.tensor(std, device=pixels_uint8.device).reshape(shape)
    return (pixels_uint8.float() - centre) / spread
