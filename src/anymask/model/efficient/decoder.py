"""The prompt encoder and the mask decoder of EfficientSAM: SAM's, in its authors' own spelling.

They differ from SAM's in these points, as published:

* every prompt has ``max_points`` tokens: shorter ones are filled up with the token of an invalid point, whose place
  is (-1, -1) and counts; of longer ones the first that fit are kept;
* a background point has no learned vector, only its place; there is no mask prompt and no map of "no mask";
* the first two-way block adds its self-attention to the tokens, the others add the positions for good;
* GELU everywhere, and a norm over a whole map (one group) when masks are enlarged.

Source: Xiong et al., "EfficientSAM"; `efficient_sam/efficient_sam.py`, `efficient_sam_decoder.py`,
`two_way_transformer.py` and `mlp.py` of the published code, whose parameter names are kept.

Axis letters: B prompts, E images (1 or B), N points, T tokens, L image cells, M masks (4), C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.prompt_tensors import NOT_A_POINT, TOP_LEFT, PromptTensors
from anymask.model.sam.prompt_encoder import PositionEmbeddingRandom
from anymask.model.sam.two_way_transformer import Attention, TwoWayTransformer

OUTSIDE = -1.0
"""Where an invalid point is, and every coordinate below zero."""


class GeluMlp(nn.Module):
    """``hidden`` linear layers, each with GELU, and one without."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, hidden: int) -> None:
        super().__init__()
        sizes = [in_dim, *[hidden_dim] * hidden]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in itertools.pairwise(sizes)
        )
        self.fc = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.fc(x)
        return out


def fixed_tokens(prompts: PromptTensors, max_points: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of every prompt as published: ``max_points`` in all, the missing ones invalid.

    The corners of a box always count, then the points in their order. Returns (coords B x N' x 2, labels B x N',
    present B x N') with N' = N + max_points, of which exactly ``max_points`` are present.
    """
    labels = prompts.labels.long()
    real = labels != NOT_A_POINT
    if prompts.present is not None:
        real = real & prompts.present.bool()
    corner = real & (labels >= TOP_LEFT)
    point = real & ~corner
    room = max_points - corner.sum(1, keepdim=True)
    kept = corner | (point & (point.long().cumsum(1) <= room))
    missing = max_points - kept.sum(1, keepdim=True)
    filled = torch.arange(max_points, device=labels.device)[None] < missing
    coords = torch.where(kept[..., None] & (prompts.coords >= 0), prompts.coords, OUTSIDE)
    coords = F.pad(coords, (0, 0, 0, max_points), value=OUTSIDE)
    labels = F.pad(labels.masked_fill(~kept, NOT_A_POINT), (0, max_points), value=NOT_A_POINT)
    return coords, labels, torch.cat([kept, filled], dim=1)


class EfficientPromptEncoder(nn.Module):
    """Points and box corners -> tokens."""

    def __init__(self, dim: int, grid_size: int, image_size: int) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(dim)
        self.invalid_points = nn.Embedding(1, dim)
        self.point_embeddings = nn.Embedding(1, dim)
        self.bbox_top_left_embeddings = nn.Embedding(1, dim)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, dim)

    def forward(self, coords: Tensor, labels: Tensor) -> Tensor:
        """coords: B x N x 2 in pixels of the network frame, labels: B x N of -1..3 -> B x N x C."""
        where: Tensor = self.pe_layer((coords + 0.5) / self.image_size)
        foreground = self.point_embeddings.weight
        kinds = torch.cat(
            [
                self.invalid_points.weight,
                torch.zeros_like(foreground),  # the background
                foreground,
                self.bbox_top_left_embeddings.weight,
                self.bbox_bottom_right_embeddings.weight,
            ]
        )
        return where + F.embedding(labels.long() - NOT_A_POINT, kinds)

    def dense_pe(self) -> Tensor:
        """Position features of every embedding cell: 1 x C x h x w."""
        return self.pe_layer.grid(self.grid_size, self.grid_size)


class EfficientTwoWayBlock(nn.Module):
    """Tokens to themselves, tokens to image, an MLP on the tokens, image to tokens; a norm after each."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = GeluMlp(dim, mlp_dim, dim, hidden=1)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, present: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """tokens, token_pe: B x T x C; image, image_pe: B or 1 x L x C -> new (tokens, image of B)."""
        if not self.first:
            tokens = tokens + token_pe
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens, tokens, present))

        placed_image = image + image_pe
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pe, placed_image, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))

        image = image + self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens, present)
        return tokens, self.norm4(image)


class EfficientTwoWayTransformer(TwoWayTransformer):
    """`TwoWayTransformer` with blocks of the kind above."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int = 2) -> None:
        super().__init__(0, dim, num_heads, mlp_dim, downsample_rate)
        self.layers = nn.ModuleList(
            EfficientTwoWayBlock(dim, num_heads, mlp_dim, downsample_rate, first=index == 0)
            for index in range(depth)
        )


class EfficientMaskDecoder(nn.Module):
    """Four masks and their predicted quality from an embedding and prompt tokens."""

    def __init__(
        self,
        dim: int,
        transformer: EfficientTwoWayTransformer,
        num_multimask_outputs: int,
        iou_head_hidden_dim: int,
        upscaling_dims: Sequence[int],
    ) -> None:
        super().__init__()
        self.num_masks = num_multimask_outputs + 1
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_masks, dim)
        sizes = [dim, *upscaling_dims]
        self.final_output_upscaling_layers = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a, b, kernel_size=2, stride=2),
                nn.GroupNorm(1, b) if index < len(sizes) - 2 else nn.Identity(),
                nn.GELU(),
            )
            for index, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            GeluMlp(dim, dim, sizes[-1], hidden=2) for _ in range(self.num_masks)
        )
        self.iou_prediction_head = GeluMlp(dim, iou_head_hidden_dim, self.num_masks, hidden=2)

    def forward(
        self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """embedding: E x C x h x w; image_pe: 1 x C x h x w; sparse: B x N x C; present: B x N bool.

        Returns (logits B x M x 4h x 4w, predicted IoU B x M).
        """
        b, h, w = sparse.shape[0], embedding.shape[-2], embedding.shape[-1]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own[None].expand(b, -1, -1), sparse], dim=1)
        always = torch.ones(1, own.shape[0], dtype=torch.bool, device=present.device)
        present = torch.cat([always.expand(b, -1), present], dim=1)
        tokens, cells = self.transformer(embedding, image_pe, tokens, present)

        upscaled = cells.transpose(1, 2).unflatten(2, (h, w))
        for layer in self.final_output_upscaling_layers:
            upscaled = layer(upscaled)
        weights = [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = torch.stack(weights, dim=1) @ upscaled.flatten(2)
        return logits.unflatten(2, tuple(upscaled.shape[2:])), self.iou_prediction_head(tokens[:, 0])
