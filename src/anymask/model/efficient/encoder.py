"""The image encoder of EfficientSAM: a plain, small vision transformer that attends over the whole image.

Source: Xiong et al., "EfficientSAM: Leveraged Masked Image Pretraining for Efficient Segment Anything", section 3;
`efficient_sam/efficient_sam_encoder.py` of the published code, whose parameter names are kept.

Axis letters: B images, H x W patches, L = H * W, C channels, N heads, D channels of one head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model.layers import LayerNorm2d
from anymask.model.sam.image_encoder import LAYER_NORM_EPS, PatchEmbed


class PlainAttention(nn.Module):
    """Multi-head self-attention without positions: B x L x C -> B x L x C."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        merged: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return merged


class FeedForward(nn.Module):
    """The two linear layers of a block, GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PlainBlock(nn.Module):
    """A transformer block, each half after a norm and added to what it read: B x L x C in and out."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = PlainAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = FeedForward(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PlainImageEncoder(nn.Module):
    """Normalised pixels (B x 3 x S x S) -> image embedding (B x out_dim x S/p x S/p).

    The positions are those of the pretraining, one for the class token, which is not used here, and ``position_grid``
    squared for the patches; they are resized to the patches there are, so the weights fit every image size.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        out_dim: int,
        position_grid: int,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.position_grid = position_grid
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_grid**2, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(PlainBlock(dim, num_heads, mlp_dim) for _ in range(depth))
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def positions(self, h: int, w: int) -> Tensor:
        """The positions of h x w patches: 1 x h x w x C, resized bicubically as published."""
        side, channels = self.position_grid, self.pos_embed.shape[2]
        pretrained = self.pos_embed[:, 1:].reshape(1, side, side, channels)
        if (h, w) == (self.position_grid, self.position_grid):
            return pretrained
        channels_first = pretrained.permute(0, 3, 1, 2)
        resized = F.interpolate(channels_first, size=(h, w), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
        patches = self.patch_embed(pixels)
        h, w = patches.shape[1:3]
        x = (patches + self.positions(h, w)).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.neck(x.transpose(1, 2).unflatten(2, (h, w)))
        return embedding
