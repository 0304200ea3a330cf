"""The prompt encoder: points, boxes and rough masks become tokens and a map.

Source: SAM paper, section 3 and appendix A ("Prompt encoder"); Tancik et al., "Fourier features let networks
learn high frequency functions"; `segment_anything/modeling/prompt_encoder.py` of the published code, whose
parameter names are kept.

Labels of points are those of `anymask.model.prompt_tensors`. Coordinates are (x, y) in pixels of the network frame; the
half pixel to the centre is added here and nowhere else.

Axis letters: B prompts (objects), N points of one prompt, C channels, h x w the cells of the embedding.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model.layers import LayerNorm2d
from anymask.model.prompt_tensors import (
    NOT_A_POINT,
)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of a place: the matrix is drawn once and kept as a buffer (2 x C/2)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", scale * torch.randn(2, channels // 2))

    def forward(self, places: Tensor) -> Tensor:
        """... x 2 places, (x, y) as shares of the frame in 0..1 -> ... x C features, sines then cosines."""
        waves = self.positional_encoding_gaussian_matrix
        angles = (2 * places.to(waves.dtype) - 1) @ waves * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, h: int, w: int) -> Tensor:
        """The features of the centres of h x w cells: 1 x C x h x w."""
        like = self.positional_encoding_gaussian_matrix
        y = (torch.arange(h, device=like.device, dtype=like.dtype) + 0.5) / h
        x = (torch.arange(w, device=like.device, dtype=like.dtype) + 0.5) / w
        places = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], dim=-1)
        features: Tensor = self(places)
        return features.permute(2, 0, 1)[None]


class PromptEncoder(nn.Module):
    """Prompts -> tokens (B x N x C) and a map (B or 1 x C x h x w) that is added to the image embedding."""

    def __init__(
        self, dim: int, grid_size: tuple[int, int], image_size: tuple[int, int], mask_channels: int = 16
    ) -> None:
        """`grid_size` and `image_size` are (height, width) of the embedding and of the network frame."""
        super().__init__()
        self.grid_size = grid_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )

    def forward(
        self, coords: Tensor, labels: Tensor, masks: Tensor | None = None, has_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The fields of `PromptTensors` -> (sparse B x N x C, dense B or 1 x C x h x w)."""
        return self.embed_points(coords, labels), self.embed_masks(masks, has_mask)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Where (Fourier features of the pixel's centre) plus what (one learned vector per label)."""
        height, width = self.image_size
        frame = torch.tensor([width, height], dtype=coords.dtype, device=coords.device)
        where: Tensor = self.pe_layer((coords + 0.5) / frame)
        learned = (self.not_a_point_embed, *self.point_embeddings)
        kinds = torch.cat([cast(nn.Embedding, embedding).weight for embedding in learned])
        where = where.masked_fill((labels == NOT_A_POINT)[..., None], 0.0)
        return where + F.embedding(labels.long() - NOT_A_POINT, kinds)

    def embed_masks(self, masks: Tensor | None, has_mask: Tensor | None = None) -> Tensor:
        """Mask logits B x 1 x 4h x 4w, or none at all -> B (or 1) x C x h x w."""
        h, w = self.grid_size
        without = self.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if masks is None:
            return without.expand(-1, -1, h, w)
        if tuple(masks.shape[-2:]) != (4 * h, 4 * w):
            raise ModelError(f"mask prompts must be {4 * h} x {4 * w} pixels, not {tuple(masks.shape[-2:])}")
        embedded: Tensor = self.mask_downscaling(masks)
        if has_mask is None:
            return embedded
        return torch.where(has_mask.reshape(-1, 1, 1, 1).bool(), embedded, without)

    def dense_pe(self) -> Tensor:
        """Position features of every embedding cell: 1 x C x h x w (`get_dense_pe` of the published code)."""
        return self.pe_layer.grid(*self.grid_size)
