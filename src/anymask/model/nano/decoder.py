"""nano's prompt encoder and mask decoder: tokens for what, maps for where.

As in the paper, prompt tokens and four mask tokens talk to the image by two-way attention and a hypernetwork
per mask token reads the mask out of upscaled features. Added for a model this small: prompts are also drawn as
maps on the image side (`prompt_maps`), each prompt token carries the feature under the prompt, local
convolutions spread the prompt's evidence, and the quality head looks at what lies under each predicted mask.

Shape legend: B prompts, T tokens, P positions (H/16 * W/16), C channels; H x W network pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .encoder import NanoEncoderConfig, upsample2
from .prompt_maps import (
    MAP_CHANNELS,
    features_under_box,
    features_under_points,
    grid_centres,
    prompt_maps,
    split_prompts,
)
from .quality import NUM_MASKS, quality_clues, quality_head

AFFINITY_MAPS = 3
"""Similarity to foreground clicks, to background clicks, to the box."""

_HIDDEN = -1e4
"""Score that the softmax turns into zero in every floating type."""


@dataclass(frozen=True)
class NanoDecoderConfig:
    """Sizes of the decoder; ``quality_version`` says which of `quality`'s heads it has."""

    depth: int = 2
    heads: int = 4
    mlp: int = 256
    map_hidden: int = 32
    affinity_channels: int = 32
    local_kernel: int = 5
    quality_version: int = 1


def by_place(grid: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, P, C)."""
    return grid.flatten(2).transpose(1, 2)


def on_grid(image: Tensor, height: int, width: int) -> Tensor:
    """(B, P, C) -> (B, C, H, W)."""
    return image.transpose(1, 2).reshape(image.shape[0], -1, height, width)


def matrix_of(pointwise: nn.Module) -> tuple[Tensor, Tensor]:
    """A 1 x 1 convolution's weights (out, in) and bias (out,)."""
    assert isinstance(pointwise, nn.Conv2d)
    assert pointwise.bias is not None
    return pointwise.weight.flatten(1), pointwise.bias


class LocalMixer(nn.Module):
    """Residual depthwise convolution and perceptron on the image side: evidence spreads to neighbours."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.lin1 = nn.Linear(channels, channels)
        self.lin2 = nn.Linear(channels, channels)

    def forward(self, image: Tensor, height: int, width: int) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        mixed = by_place(self.depthwise(on_grid(image, height, width)))
        rows = self.norm(mixed).flatten(0, 1)  # one product for all prompts
        out: Tensor = image + self.lin2(F.gelu(self.lin1(rows))).reshape(image.shape)
        return out


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the image; the image attends to the tokens, then to its neighbours."""

    def __init__(self, channels: int, config: NanoDecoderConfig) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.norm_image, self.norm_keys = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.self_attn = Attention(channels, config.heads, channels)
        self.cross_attn_token_to_image = Attention(channels, config.heads, channels // 2)
        self.cross_attn_image_to_token = Attention(channels, config.heads, channels // 2)
        self.mlp = nn.Sequential(nn.Linear(channels, config.mlp), nn.GELU(), nn.Linear(config.mlp, channels))
        self.local = LocalMixer(channels, config.local_kernel)

    def forward(
        self, tokens: Tensor, image: Tensor, where: Tensor, token_bias: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C), (B, P, C) -> the same; ``where`` (P, C), ``token_bias`` (B, 1, 1, T)."""
        x = self.norm1(tokens)
        tokens = tokens + self.self_attn(x, x, x, token_bias)
        keys = self.norm_image(image)
        tokens = tokens + self.cross_attn_token_to_image.few_ask_many(self.norm2(tokens), keys, where)
        tokens = tokens + self.mlp(self.norm3(tokens))
        answers = self.norm_keys(tokens)
        image = image + self.cross_attn_image_to_token.many_ask_few(keys, where, answers, token_bias)
        return tokens, self.local(image, *grid)


class PromptTokens(nn.Module):
    """Points and box corners -> tokens: where (random Fourier features), which kind, and what lies under."""

    frequencies: Tensor

    def __init__(self, channels: int, encoder: NanoEncoderConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, channels // 2) * 2.0)
        self.kinds = nn.Embedding(5, channels)  # padding, background, foreground, two corners (label + 1)
        self.under = nn.Linear(encoder.embedding_channels + encoder.skip8_channels, channels)
        self.under_box = nn.Linear(encoder.embedding_channels, channels)

    def positions(self, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
        """Fourier features of coordinates relative to the longer side of the frame: (..., C)."""
        scale = 4.0 / (height + width + abs(height - width))  # 2 / max, in a form that export can trace
        coords = torch.stack([x * scale - 1.0, y * scale - 1.0], dim=-1)
        phase = 2.0 * math.pi * (coords @ self.frequencies)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)

    def forward(self, features: dict[str, Tensor], points: Tensor, labels: Tensor) -> Tensor:
        height, width = features["embedding"].shape[-2] * 16, features["embedding"].shape[-1] * 16
        foreground, background, box, has_box = split_prompts(points, labels)
        where = self.positions(points[..., 0], points[..., 1], height, width)
        is_real = (labels >= 0).to(where.dtype).unsqueeze(-1)
        under = torch.cat(
            [
                features_under_points(features["embedding"], points, 16),
                features_under_points(features["skip8"], points, 8),
            ],
            dim=-1,
        )
        is_click = (foreground + background).unsqueeze(-1)
        is_corner = (labels >= 2).to(where.dtype).unsqueeze(-1) * has_box.unsqueeze(-1)
        under_box = self.under_box(features_under_box(features["embedding"], box, 16))
        kind = self.kinds((labels + 1).long())
        token: Tensor = kind + where * is_real + self.under(under) * is_click + under_box * is_corner
        return token


class Affinity(nn.Module):
    """How much each position looks like what lies under the prompt: cosine of learned features, as maps.

    The similarity of a clicked position to all others is what a region grows along; given as a map, a small
    decoder need not find it by attention. Trained directly too (`training.losses.affinity_loss`).
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, inner, 1)
        self.scale = nn.Parameter(torch.tensor(6.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, skip8: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Similarity to foreground clicks, to background clicks (closest of each) and to the box's mean.

        Args:
            skip8: (1 or B, C8, H/8, W/8).
            points, labels: as `NanoDecoder.forward`.

        Returns:
            (B, 3, H/8, W/8) in -1..1; zero for a kind of prompt that is not there.
        """
        height, width = skip8.shape[-2], skip8.shape[-1]
        looks = unit_length(self.project(skip8), dim=1)
        foreground, background, box, has_box = split_prompts(points, labels)
        under_points = unit_length(features_under_points(looks, points, 8), dim=-1)  # (B, N, inner)
        to_points = under_points @ looks.flatten(2)  # (B, N, P8)
        to_box = (
            unit_length(features_under_box(looks, box, 8), dim=-1) @ looks.flatten(2) * has_box.unsqueeze(-1)
        )
        maps = [closest(to_points, foreground), closest(to_points, background), to_box.squeeze(1)]
        return torch.stack(maps, dim=1).reshape(-1, AFFINITY_MAPS, height, width)


def unit_length(x: Tensor, dim: int) -> Tensor:
    """Divide by the Euclidean length along one axis (in operators that every runtime has)."""
    return x * torch.rsqrt((x * x).sum(dim, keepdim=True) + 1e-6)


def closest(similarity: Tensor, weight: Tensor) -> Tensor:
    """Largest similarity (B, N, P) over the slots of weight 1 in (B, N); zero where there is none: (B, P)."""
    weight = weight.unsqueeze(-1)
    best = (similarity * weight + (weight - 1.0) * 2.0).amax(1)
    return best * weight.amax(1)


def hide_padding(labels: Tensor) -> Tensor:
    """Attention bias (B, 1, 1, 4 + N) that hides padding slots (label -1) from every token and position.

    So an object's masks do not depend on how many points the other objects of the call have.
    """
    hidden = (labels < 0).to(torch.float32) * _HIDDEN
    return F.pad(hidden, (NUM_MASKS, 0))[:, None, None, :]


class NanoDecoder(nn.Module):
    """Features and prompts -> four masks and their predicted quality."""

    def __init__(self, encoder: NanoEncoderConfig, config: NanoDecoderConfig) -> None:
        super().__init__()
        dim, c8, c4 = encoder.embedding_channels, encoder.skip8_channels, encoder.skip4_channels
        self.prompt_tokens = PromptTokens(dim, encoder)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.map_to_image = nn.Sequential(
            nn.Conv2d(MAP_CHANNELS + AFFINITY_MAPS, config.map_hidden, 1),
            nn.GELU(),
            nn.Conv2d(config.map_hidden, dim, 1),
        )
        self.map_to_skip8 = nn.Conv2d(MAP_CHANNELS + AFFINITY_MAPS, c8, 1)
        self.layers = nn.ModuleList(TwoWayBlock(dim, config) for _ in range(config.depth))
        self.final_norm_image = nn.LayerNorm(dim)
        self.final_norm_tokens = nn.LayerNorm(dim)
        self.final_attn = Attention(dim, config.heads, dim // 2)
        self.norm_tokens = nn.LayerNorm(dim)
        self.to8 = nn.Conv2d(dim, c8, 1)
        self.mix8 = nn.Sequential(nn.Conv2d(c8, c8, 3, padding=1, groups=c8), nn.Conv2d(c8, c8, 1), nn.GELU())
        self.to4 = nn.Conv2d(c8, c4, 1)
        self.hypernetworks = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, c4 + 1)) for _ in range(NUM_MASKS)
        )
        self.affinity = Affinity(c8, config.affinity_channels)
        self.quality_version = config.quality_version
        self.quality = quality_head(dim, c8, config.quality_version)

    def forward(
        self,
        features: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts.

        Args:
            features: the encoder's output for one image (shared by all prompts) or for B images.
            points: (B, N, 2) x, y in network pixels; N >= 1.
            labels: (B, N) float: 1, 0, 2, 3 or -1.
            mask_input: (B, 1, H/4, W/4) logits of a previous mask.
            has_mask: (B,) float, 1 where mask_input counts.

        Returns:
            low-resolution logits (B, 4, H/4, W/4) and predicted IoU (B, 4) in 0..1.
        """
        logits, clues = self.answers(features, points, labels, mask_input, has_mask)
        return logits, torch.sigmoid(self.quality(clues).squeeze(-1))

    def answers(
        self,
        features: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`forward` without its last step: logits, and what the quality head is told of them (`quality_clues`)."""
        embedding = features["embedding"]
        height, width = embedding.shape[-2], embedding.shape[-1]
        drawn = prompt_maps(points, labels, mask_input, has_mask, height * 2, width * 2, 8)
        maps8 = torch.cat([drawn, self.affinity(features["skip8"], points, labels)], dim=1)
        image = self._drawn_on_image(embedding, F.avg_pool2d(maps8, 2))  # (B, P, C)
        prompts = self.prompt_tokens(features, points, labels)
        masks = self.mask_tokens.weight.unsqueeze(0).expand(prompts.shape[0], -1, -1)
        tokens = torch.cat([masks, prompts], dim=1)
        tokens, image = self._two_way(tokens, image, hide_padding(labels), (height, width))
        from16 = upsample2(self.to8(on_grid(image, height, width)))
        upscaled8 = F.gelu(features["skip8"] + self.map_to_skip8(maps8) + from16)
        upscaled8 = upscaled8 + self.mix8(upscaled8)
        upscaled4 = F.gelu(features["skip4"] + upsample2(self.to4(upscaled8)))
        logits = self._read_masks(tokens, upscaled4)
        return logits, quality_clues(tokens[:, :NUM_MASKS], upscaled8, logits, self.quality_version)

    def _drawn_on_image(self, embedding: Tensor, maps16: Tensor) -> Tensor:
        """Embedding and maps (B, M, H/16, W/16) -> (B, P, C); the maps' few channels change places, not the many."""
        first, activation, second = self.map_to_image
        drawn = activation(F.linear(by_place(maps16), *matrix_of(first)))
        weight, bias = matrix_of(second)
        image: Tensor = (by_place(embedding) + bias) + drawn @ weight.t()
        return image

    def _two_way(
        self, tokens: Tensor, image: Tensor, token_bias: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        height, width = grid
        xs = grid_centres(width, 16, image).reshape(1, -1).expand(height, width).reshape(-1)
        ys = grid_centres(height, 16, image).reshape(-1, 1).expand(height, width).reshape(-1)
        where = self.prompt_tokens.positions(xs, ys, height * 16, width * 16)  # (P, C)
        for layer in self.layers:
            tokens, image = layer(tokens, image, where, token_bias, grid)
        keys = self.final_norm_image(image)
        tokens = tokens + self.final_attn.few_ask_many(self.final_norm_tokens(tokens), keys, where)
        return self.norm_tokens(tokens), image

    def _read_masks(self, tokens: Tensor, upscaled4: Tensor) -> Tensor:
        hyper = torch.stack(
            [net(tokens[:, i]) for i, net in enumerate(self.hypernetworks)], dim=1
        )  # (B, 4, C4 + 1)
        weights, bias = hyper[..., :-1], hyper[..., -1:]
        batch, _, height, width = upscaled4.shape
        logits = weights @ upscaled4.flatten(2) + bias
        return logits.reshape(batch, NUM_MASKS, height, width)
