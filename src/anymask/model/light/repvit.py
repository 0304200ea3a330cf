"""RepViT, a convolutional network laid out like a vision transformer: mix cells, then mix channels.

    pixels --stem--> stride 4 --stage 0--> 4 --stage 1--> 8 --stage 2--> 16 --stage 3--> 16 or 32 --neck--> embedding

How the two published SAMs with it differ:

================  ===================================  =====================================================
                  RepViT-SAM                           EdgeSAM
================  ===================================  =====================================================
last stage        at stride 16                         at 32, doubled (bicubic) and added to the one at 16
mixing of cells   the sum of branches is normalised    each branch is normalised, the sum is not
================  ===================================  =====================================================

Source: Wang et al., "RepViT" (2024), section 3 and table 9; Zhou et al., "EdgeSAM" (2023), section 3.1;
`sam/repvit_sam/modeling/repvit.py` and `edge_sam/modeling/rep_vit.py` of the published codes, whose parameter names
are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anymask.errors import ModelError
from anymask.model.light.conv_norm import ConvNorm, absorb_norm, centred, conv_of
from anymask.model.light.network import build_neck


class SqueezeExcite(nn.Module):
    """Each channel times a share in 0..1 that the mean of all channels decides; a quarter of them between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)  # to the nearest multiple of 8
        self.fc1 = nn.Conv2d(channels, inner, kernel_size=1)
        self.fc2 = nn.Conv2d(inner, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        shares: Tensor = torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))
        return x * shares


class BranchesThenNorm(nn.Module):
    """A 3 x 3 and a 1 x 1 depthwise convolution and the input, added, then normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x) + self.conv1(x) + x)
        return out

    def fused(self) -> nn.Conv2d:
        """One 3 x 3 depthwise convolution."""
        weight, bias = absorb_norm(self.conv.c.weight.double(), None, self.conv.bn)
        weight = weight + centred(self.conv1.weight.double() + 1.0, kernel=3)
        if self.conv1.bias is not None:
            bias = bias + self.conv1.bias.double()
        return conv_of(self.conv.c, *absorb_norm(weight, bias, self.bn))


class BranchesOfNorms(nn.Module):
    """A 3 x 3 and a 1 x 1 depthwise convolution, each normalised, and the input, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.conv1(x) + x
        return out

    def fused(self) -> nn.Conv2d:
        """One 3 x 3 depthwise convolution."""
        weight, bias = absorb_norm(self.conv.c.weight.double(), None, self.conv.bn)
        small, small_bias = absorb_norm(self.conv1.c.weight.double(), None, self.conv1.bn)
        return conv_of(self.conv.c, weight + centred(small + 1.0, kernel=3), bias + small_bias)


class Residual(nn.Module):
    """The input and what `m` makes of it, added."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.m(x)
        return out


class RepVitBlock(nn.Module):
    """Mixes neighbours channel by channel, then channels cell by cell: B x C x H x W -> B x C' x H' x W'."""

    def __init__(self, token_mixer: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.token_mixer = token_mixer
        self.channel_mixer = Residual(
            nn.Sequential(
                ConvNorm(channels, 2 * channels), nn.GELU(), ConvNorm(2 * channels, channels, first_scale=0.0)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.channel_mixer(self.token_mixer(x))
        return out

    @classmethod
    def plain(cls, channels: int, squeeze: bool, norm_last: bool) -> RepVitBlock:
        """A block that keeps the size of the map."""
        branches = BranchesThenNorm(channels) if norm_last else BranchesOfNorms(channels)
        return cls(nn.Sequential(branches, SqueezeExcite(channels) if squeeze else nn.Identity()), channels)

    @classmethod
    def widening(cls, channels: int, out_channels: int, stride: int) -> RepVitBlock:
        """The first block of a later stage."""
        mixer = nn.Sequential(
            ConvNorm(channels, channels, kernel=3, stride=stride, groups=channels),
            nn.Identity(),
            ConvNorm(channels, out_channels),
        )
        return cls(mixer, out_channels)


class Doubled(nn.Module):
    """A 1 x 1 convolution and a map of twice the size by bicubic interpolation."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.op_list = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
            nn.Upsample(scale_factor=2, mode="bicubic", align_corners=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op_list(x)
        return out


def squeezes(depth: int) -> list[bool]:
    """Which of the plain blocks of a stage have squeeze-and-excitation: every other one, and never the last."""
    return [index % 2 == 0 and index < depth - 1 for index in range(depth)]


def build_features(
    channels: Sequence[int], depths: Sequence[int], last_stride: int, norm_last: bool
) -> tuple[nn.ModuleList, int]:
    """The stem and all blocks in one list, and the place in it where the third stage ends.

    ``depths`` counts the plain blocks of each stage; every stage but the first begins with a widening one.
    """
    first = channels[0]
    stem = nn.Sequential(
        ConvNorm(3, first // 2, kernel=3, stride=2),
        nn.GELU(),
        ConvNorm(first // 2, first, kernel=3, stride=2),
    )
    features, third_stage_end = nn.ModuleList([stem]), 0
    for stage, (width, depth) in enumerate(zip(channels, depths, strict=True)):
        if stage:
            stride = last_stride if stage == len(channels) - 1 else 2
            features.append(RepVitBlock.widening(channels[stage - 1], width, stride))
        features.extend(RepVitBlock.plain(width, squeeze, norm_last) for squeeze in squeezes(depth))
        if stage == len(channels) - 2:
            third_stage_end = len(features) - 1
    return features, third_stage_end


class RepVit(nn.Module):
    """RepViT-SAM's encoder: normalised pixels (B x 3 x S x S) -> embedding (B x out_dim x S/16 x S/16)."""

    def __init__(self, image_size: int, channels: Sequence[int], depths: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.features, _ = build_features(channels, depths, last_stride=1, norm_last=True)
        self.neck = build_neck(channels[-1], out_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        check_pixels(pixels, self.image_size)
        x = pixels
        for feature in self.features:
            x = feature(x)
        embedding: Tensor = self.neck(x)
        return embedding


class JoinedRepVit(nn.Module):
    """EdgeSAM's encoder, which joins the last two stages: pixels (B x 3 x S x S) -> B x out_dim x S/16 x S/16."""

    def __init__(self, image_size: int, channels: Sequence[int], depths: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.features, self.third_stage_end = build_features(channels, depths, last_stride=2, norm_last=False)
        self.fuse_stage2 = nn.Conv2d(channels[-2], out_dim, kernel_size=1, bias=False)
        self.fuse_stage3 = Doubled(channels[-1], out_dim)
        self.neck = build_neck(out_dim, out_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        check_pixels(pixels, self.image_size)
        x = third = pixels
        for index, feature in enumerate(self.features):
            x = feature(x)
            if index == self.third_stage_end:
                third = x
        embedding: Tensor = self.neck(self.fuse_stage2(third) + self.fuse_stage3(x))
        return embedding


def check_pixels(pixels: Tensor, image_size: int) -> None:
    """Refuse pixels that are not B x 3 x S x S with a `ModelError`."""
    expected = (3, image_size, image_size)
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
        raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
