"""Weights and inputs of the golden outputs in tests/parity/golden, made anew from a seed.

Every tensor is drawn by `seeded_networks.uniform` under its own name. The JSON files beside the outputs say where they
came from.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from seeded_networks import uniform
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
SEED = 5


def golden(family: str) -> dict[str, Tensor]:
    """The stored outputs of one family."""
    return load_file(GOLDEN / f"{family}.safetensors")


def published_shapes(family: str, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the state dict of the origin's own network."""
    listed = json.loads(gzip.decompress((GOLDEN / f"{family}.keys.json.gz").read_bytes()))[name]
    return {key: tuple(shape) for key, shape in listed.items()}


def golden_weights(shapes: Mapping[str, Tensor], seed: int = SEED) -> dict[str, Tensor]:
    """A value for every name: norms about 1, learned tokens of size 1, matrices by the size of what they sum."""
    return {name: _weight(name, like, seed) for name, like in shapes.items()}


def _weight(name: str, like: Tensor, seed: int) -> Tensor:
    shape, last = tuple(like.shape), name.rpartition(".")[2]
    if not like.is_floating_point():
        return torch.zeros_like(like)
    noise = uniform(seed, name, shape)
    if last == "running_var":
        return 1 + 0.3 * noise
    if len(shape) == 1:
        return 1 + 0.1 * noise if last == "weight" else 0.2 * noise
    if last in ("pos_embed", "rel_pos_h", "rel_pos_w", "attention_biases"):
        return 0.3 * noise
    learned = any(word in name for word in ("_token", "_embed", "invalid_points")) and shape[0] <= 4
    if last == "positional_encoding_gaussian_matrix" or (learned and len(shape) == 2):
        return noise
    gain = 0.5 if name.startswith("image_encoder.") else 2.0  # its blocks add to what they get
    return noise * (gain / torch.Size(shape[1:]).numel()) ** 0.5


def golden_pixels(size: int, seed: int = SEED) -> Tensor:
    """Normalised pixels 1 x 3 x size x size: 8 x 8 blocks with noise on them."""
    blocks = (
        uniform(seed, "blocks", (1, 3, 8, 8)).repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
    )
    return blocks + 0.3 * uniform(seed, "pixels", (1, 3, size, size))


def golden_picture(height: int, width: int, seed: int = SEED) -> Tensor:
    """Blocks of 8 pixels, whole numbers in 20..235: H x W x 3, uint8."""
    blocks = uniform(seed, "picture", (-(-height // 8), -(-width // 8), 3)) / 12**0.5 + 0.5
    levels = (20 + 215 * blocks).to(torch.uint8)
    return levels.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width].contiguous()


def golden_points(size: int, objects: int, points: int, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """Points B x N x 2 in a frame of ``size`` and their labels B x N, the first of each prompt foreground."""
    coords = (uniform(seed, f"points-{points}", (objects, points, 2)) / 12**0.5 + 0.5) * size
    labels = (uniform(seed, f"labels-{points}", (objects, points)) > 0).long()
    labels[:, 0] = 1
    return coords, labels


def golden_boxes(size: int, objects: int, seed: int = SEED) -> Tensor:
    """Boxes B x 4, x0 y0 x1 y1."""
    corners = (uniform(seed, "boxes", (objects, 2, 2)) / 12**0.5 + 0.5) * size
    return corners.sort(dim=1).values.reshape(objects, 4)


def golden_masks(size: int, objects: int, seed: int = SEED) -> Tensor:
    """Mask prompts B x 1 x size/4 x size/4, logits."""
    return 4 * uniform(seed, "masks", (objects, 1, size // 4, size // 4))
