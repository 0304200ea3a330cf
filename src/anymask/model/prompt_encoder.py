"""The prompt encoder: points, boxes and rough masks become tokens and a map.

Source: SAM paper, section 3 and appendix A ("Prompt encoder"); Tancik et al., "Fourier features let networks
learn high frequency functions"; `segment_anything/modeling/prompt_encoder.py` of the published code, whose
parameter names are kept.

A point has a label: 1 foreground, 0 background, 2 and 3 the top-left and bottom-right corner of a box, -1 no
point at all. The published rule adds one -1 point to every prompt of points that comes without a box.
Coordinates are (x, y) in pixels of the network frame; the half pixel to the centre is added here and nowhere
else.

Axis letters: B prompts (objects), N points of one prompt, C channels, h x w the cells of the embedding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model.layers import LayerNorm2d

NOT_A_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTensors:
    """B prompts as the network takes them; `of` and `join` build them.

    coords: B x N x 2 float, (x, y) in pixels of the network frame. labels: B x N, -1..3 as above.
    present: B x N bool or None; False takes a point out of the attention, so a padded prompt gives exactly
    what it gives alone (a -1 label alone stays a token, as published). masks: B x 1 x 4h x 4w logits or None.
    has_mask: B bool or None (all): where False, `masks` is ignored.
    """

    coords: Tensor
    labels: Tensor
    present: Tensor | None = None
    masks: Tensor | None = None
    has_mask: Tensor | None = None

    def __post_init__(self) -> None:
        batch = tuple(self.labels.shape)
        if len(batch) != 2 or tuple(self.coords.shape) != (*batch, 2):
            raise ModelError(
                f"prompts need coords B x N x 2 and labels B x N, not {tuple(self.coords.shape)} and {batch}"
            )
        if not bool(torch.isfinite(self.coords).all()):
            raise ModelError("prompt coordinates must be finite numbers")
        known = (self.labels >= NOT_A_POINT) & (self.labels <= BOTTOM_RIGHT)
        if not bool(known.all()):
            strange = sorted(set(self.labels[~known].tolist()))
            raise ModelError(f"point labels must be -1, 0, 1, 2 or 3 and are {strange}")
        if self.present is not None and tuple(self.present.shape) != batch:
            raise ModelError(f"`present` must be {batch} like the labels, not {tuple(self.present.shape)}")
        if self.masks is not None and (self.masks.ndim != 4 or tuple(self.masks.shape[:2]) != (batch[0], 1)):
            raise ModelError(f"mask prompts must be {batch[0]} x 1 x H x W, not {tuple(self.masks.shape)}")
        if self.has_mask is not None and (self.masks is None or tuple(self.has_mask.shape) != batch[:1]):
            raise ModelError("`has_mask` needs one value per prompt, and masks")

    def __len__(self) -> int:
        return self.labels.shape[0]

    @classmethod
    def of(
        cls,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> PromptTensors:
        """Points (B x N x 2) with labels (B x N), boxes (B x 4, x0 y0 x1 y1), masks: the published rules.

        Points without boxes get one -1 point at the end; boxes become two corner points after the points.
        """
        if (points is None) != (labels is None):
            raise ModelError("points and labels come together: one of them is missing")
        given = next((t for t in (points, boxes, masks) if t is not None), None)
        if given is None:
            raise ModelError("a prompt needs points, a box or a mask")
        b, device = given.shape[0], given.device
        if any(t is not None and t.shape[0] != b for t in (points, labels, boxes, masks)):
            raise ModelError("points, labels, boxes and masks must be for the same number of prompts")
        if boxes is not None and tuple(boxes.shape) != (b, 4):
            raise ModelError(f"boxes must be B x 4 and are {tuple(boxes.shape)}")
        parts = [torch.zeros(b, 0, 2, device=device)]
        label_parts = [torch.zeros(b, 0, dtype=torch.long, device=device)]
        if points is not None and labels is not None:
            parts.append(points.to(torch.float32))
            label_parts.append(labels.to(torch.long))
            if boxes is None:
                parts.append(torch.zeros(b, 1, 2, device=device))
                label_parts.append(torch.full((b, 1), NOT_A_POINT, device=device))
        if boxes is not None:
            parts.append(boxes.to(torch.float32).reshape(b, 2, 2))
            label_parts.append(torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device).expand(b, 2))
        return cls(torch.cat(parts, 1), torch.cat(label_parts, 1), masks=masks)

    @classmethod
    def from_padded(
        cls, coords: Tensor, labels: Tensor, masks: Tensor | None = None, has_mask: Tensor | None = None
    ) -> PromptTensors:
        """A batch padded with -1 points of any number -> prompts that answer as each would alone.

        The first -1 of a prompt stays when it has points and no box (it is added where it lacks); all others
        are taken out of the attention. Masks that no prompt has are dropped.
        """
        labels = labels.long()
        real = labels != NOT_A_POINT
        wants_pad = real.any(1) & ~(labels >= TOP_LEFT).any(1)
        if bool((wants_pad & real.all(1)).any()):
            coords = F.pad(coords, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=NOT_A_POINT)
            real = labels != NOT_A_POINT
        first_pad = ~real & ((~real).cumsum(1) == 1)
        present = real | (first_pad & wants_pad[:, None])
        if has_mask is not None:
            has_mask = has_mask.bool()
            if not bool(has_mask.any()):
                masks = has_mask = None
        return cls(coords, labels, None if bool(present.all()) else present, masks, has_mask)

    @classmethod
    def join(cls, prompts: Sequence[PromptTensors]) -> PromptTensors:
        """One ragged batch of all: shorter prompts are padded with points labelled -1 and not present."""
        if not prompts:
            raise ModelError("there are no prompts to join")
        longest = max(p.labels.shape[1] for p in prompts)
        coords, labels, present = [], [], []
        for p in prompts:
            missing = longest - p.labels.shape[1]
            here = torch.ones_like(p.labels, dtype=torch.bool) if p.present is None else p.present
            coords.append(F.pad(p.coords, (0, 0, 0, missing)))
            labels.append(F.pad(p.labels, (0, missing), value=NOT_A_POINT))
            present.append(F.pad(here, (0, missing), value=False))
        everywhere = torch.cat(present)
        masks, has_mask = _join_masks(prompts)
        return cls(
            torch.cat(coords),
            torch.cat(labels),
            None if bool(everywhere.all()) else everywhere,
            masks,
            None if has_mask is None or bool(has_mask.all()) else has_mask,
        )


def _join_masks(prompts: Sequence[PromptTensors]) -> tuple[Tensor | None, Tensor | None]:
    """Masks of all prompts, zeros where a prompt has none, and a flag for each."""
    example = next((p.masks for p in prompts if p.masks is not None), None)
    if example is None:
        return None, None
    masks, flags = [], []
    for p in prompts:
        if p.masks is None:
            masks.append(example.new_zeros(len(p), *example.shape[1:]))
            flags.append(torch.zeros(len(p), dtype=torch.bool, device=example.device))
        elif p.masks.shape[1:] != example.shape[1:]:
            raise ModelError("mask prompts of one batch must have the same size")
        else:
            masks.append(p.masks)
            every = torch.ones(len(p), dtype=torch.bool, device=example.device)
            flags.append(every if p.has_mask is None else p.has_mask)
    return torch.cat(masks), torch.cat(flags)


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
