"""The image encoder: an MAE-style vision transformer with windows, as in ViTDet.

Source: SAM paper, section 3 and appendix A ("Image encoder"); Li et al., "Exploring plain vision transformer
backbones for object detection" (windows, neck); Li et al., "MViTv2" (decomposed relative positions);
`segment_anything/modeling/image_encoder.py` of the published code, whose parameter names are kept.

Axis letters: B images, H x W patches, C channels, N heads, D channels of one head, L = H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model.layers import LayerNorm2d, MLPBlock
from anymask.model.variants import SamConfig

LAYER_NORM_EPS = 1e-6
QUERIES_AT_ONCE = 1024
"""Queries whose position bias is held at one time: all of them would take a gigabyte in each block of ViT-H.
Measured on one global block of ViT-B: the same values in the same time, with half the memory."""


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each: B x 3 x (H p) x (W p) -> B x H x W x C."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches: Tensor = self.proj(pixels)
        return patches.permute(0, 2, 3, 1)


def relative_positions(size: int, table: Tensor) -> Tensor:
    """The rows of `table` ((2 size - 1) x D) for each query and key on one axis: size x size x D."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + (size - 1)]


class Attention(nn.Module):
    """Multi-head self-attention over an H x W map with decomposed relative positions.

    The bias of query (y, x) towards key (v, u) is q . rel_pos_h[y - v] + q . rel_pos_w[x - u], with the query
    as projected, not scaled.
    """

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """B x H x W x C -> B x H x W x C."""
        b, h, w, c = x.shape
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each B x N x L x D
        places_h, places_w = relative_positions(h, self.rel_pos_h), relative_positions(w, self.rel_pos_w)
        rows = max(1, QUERIES_AT_ONCE // w)
        bands = [
            F.scaled_dot_product_attention(band, k, v, attn_mask=position_bias(band, band_places, places_w))
            for band, band_places in zip(
                torch.split(q, rows * w, dim=2), torch.split(places_h, rows), strict=True
            )
        ]
        merged: Tensor = self.proj(torch.cat(bands, dim=2).transpose(1, 2).reshape(b, h, w, c))
        return merged


def position_bias(q: Tensor, places_h: Tensor, places_w: Tensor) -> Tensor:
    """What is added to the attention logits of R whole rows of queries (B x N x R W x D) towards all keys.

    places_h: R x H x D, places_w: W x W x D, from `relative_positions`. Returns B x N x R W x H W.
    """
    b, n, _, d = q.shape
    q_map = q.reshape(b, n, places_h.shape[0], places_w.shape[0], d)
    along_h = torch.einsum("bnrwd,rkd->bnrwk", q_map, places_h)
    along_w = torch.einsum("bnrwd,wkd->bnrwk", q_map, places_w)
    return (along_h[..., :, None] + along_w[..., None, :]).flatten(4).flatten(2, 3)


def split_windows(x: Tensor, size: int) -> Tensor:
    """B x H x W x C -> (B * windows) x size x size x C, zeros padded at the bottom and the right."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(b, rows, size, columns, size, c).transpose(2, 3)
    return x.reshape(b * rows * columns, size, size, c)


def join_windows(windows: Tensor, h: int, w: int) -> Tensor:
    """The inverse of `split_windows` for an H x W map: the padding is cut off."""
    _, size, _, c = windows.shape
    rows, columns = -(-h // size), -(-w // size)
    x = windows.reshape(-1, rows, columns, size, size, c).transpose(2, 3)
    return x.reshape(-1, rows * size, columns * size, c)[:, :h, :w]


class Block(nn.Module):
    """A transformer block; `window_size` 0 attends over the whole map. B x H x W x C in and out.

    As published, the padding of the windows happens after the first norm and is not masked.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, window_size: int, grid_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, window_size or grid_size)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLPBlock(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Attention over the map or over each of its windows."""
        if self.window_size == 0:
            whole: Tensor = self.attn(x)
            return whole
        return join_windows(self.attn(split_windows(x, self.window_size)), x.shape[1], x.shape[2])


class ImageEncoder(nn.Module):
    """Normalised pixels (B x 3 x S x S) -> image embedding (B x prompt_dim x S/p x S/p)."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.image_size = config.image_size
        grid, dim = config.grid_size, config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                int(dim * config.mlp_ratio),
                0 if index in config.global_attn_indexes else config.window_size,
                grid,
            )
            for index in range(config.depth)
        )
        out = config.prompt_dim
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out, kernel_size=1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
        x = self.patch_embed(pixels) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return embedding


def resize_positions(state_dict: dict[str, Tensor], config: SamConfig) -> dict[str, Tensor]:
    """The same weights for another `config.image_size`: positions of the encoder are interpolated.

    The absolute positions (1 x G x G x C) are resized bilinearly, the relative ones of the global blocks
    ((2 G - 1) x D) linearly, as the published code does when a table does not fit. All else is passed on.
    """
    resized = dict(state_dict)
    prefix = "image_encoder."
    absolute = resized[f"{prefix}pos_embed"]
    if absolute.shape[1:3] != (config.grid_size, config.grid_size):
        size = (config.grid_size, config.grid_size)
        channels_first = absolute.permute(0, 3, 1, 2)
        moved = F.interpolate(channels_first, size=size, mode="bilinear", align_corners=False, antialias=True)
        resized[f"{prefix}pos_embed"] = moved.permute(0, 2, 3, 1).contiguous()
    for index in config.global_attn_indexes:
        for axis in ("h", "w"):
            name = f"{prefix}blocks.{index}.attn.rel_pos_{axis}"
            table, length = resized[name], 2 * config.grid_size - 1
            if table.shape[0] != length:
                resized[name] = F.interpolate(table.T[None], size=length, mode="linear")[0].T.contiguous()
    return resized
