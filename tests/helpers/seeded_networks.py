"""Weights, pictures and prompts that a seed makes anew anywhere, so that golden outputs need no stored inputs.

The stream of numpy's legacy `RandomState` is frozen (NEP 19) and only uniform numbers are drawn, so all of it is the
same to the last bit on every machine. Each tensor has a stream of its own, by its name: the order does not matter.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

EMBEDDINGS = ("mask_tokens.", "iou_token.", "point_embeddings.", "not_a_point_embed.", "no_mask_embed.")
SMALL_GAINS = {"token_mixer.0.conv": 0.1, "token_mixer.1.fc": 0.1, "token_mixer.": 1.0, "channel_mixer.": 0.3}


def seeded_stream(seed: int, name: str) -> np.random.RandomState:
    """The stream of numbers of one name."""
    return np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))


def uniform(seed: int, name: str, shape: Iterable[int]) -> Tensor:
    """Uniform numbers of mean 0 and variance 1."""
    drawn = seeded_stream(seed, name).random_sample(tuple(shape))
    return torch.from_numpy(((drawn - 0.5) * 12**0.5).astype(np.float32))


def seeded_weights(state_dict: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Values for all names and shapes of a network; no activation dies or explodes in the light SAMs.

    Norms scale by about 1; statistics of batch norms lie around mean 0, variance 1; what RepViT's blocks add to their
    input is small, since there are up to 55 of them; gates of squeeze-and-excitation are nearly open.
    """
    return {name: _seeded(name, tensor, seed) for name, tensor in state_dict.items()}


def _seeded(name: str, like: Tensor, seed: int) -> Tensor:
    shape, last = tuple(like.shape), name.rpartition(".")[2]
    if not like.is_floating_point():
        return torch.full(shape, 7, dtype=like.dtype)
    noise = uniform(seed, name, shape)
    if last == "running_mean":
        return 0.2 * noise
    if last == "running_var":
        return 1 + 0.3 * noise
    if name.endswith("token_mixer.1.fc2.bias"):
        return 2 + 0.2 * noise
    if len(shape) == 1:
        return 1 + 0.2 * noise if last == "weight" else 0.2 * noise
    if last in ("positional_encoding_gaussian_matrix", "attention_biases") or any(
        e in name for e in EMBEDDINGS
    ):
        return noise
    gain = next((gain for part, gain in SMALL_GAINS.items() if part in name), 2.0)
    return noise * (gain / float(np.prod(shape[1:]))) ** 0.5


def seeded_picture(seed: int, height: int, width: int) -> Tensor:
    """Blocks of 32 pixels with noise on them: 1 x 3 x H x W, whole numbers in 0..255 as float32."""
    stream = seeded_stream(seed, "picture")
    coarse = stream.randint(0, 256, (3, -(-height // 32), -(-width // 32)))
    blocks = np.kron(coarse, np.ones((1, 32, 32), dtype=coarse.dtype))[:, :height, :width]
    noisy = np.clip(blocks + stream.randint(-40, 41, blocks.shape), 0, 255)
    return torch.from_numpy(noisy.astype(np.float32))[None]


def seeded_prompts(seed: int, size: int) -> dict[str, dict[str, Tensor]]:
    """Prompts of every kind for a frame of ``size`` x ``size``, one object each, as `PromptTensors.of` takes them."""
    coarse = uniform(seed, "mask prompt", (size // 32, size // 32)).numpy()
    mask = torch.from_numpy(np.kron(5 * coarse, np.ones((8, 8), dtype=np.float32)))[None, None]
    one = {"points": torch.tensor([[[0.3, 0.4]]]) * size, "labels": torch.tensor([[1]])}
    three = {
        "points": torch.tensor([[[0.7, 0.2], [0.1, 0.6], [0.5, 0.7]]]) * size,
        "labels": torch.tensor([[1, 0, 1]]),
    }
    box = {"boxes": torch.tensor([[0.2, 0.1, 0.8, 0.6]]) * size}
    return {
        "point": one,
        "points": three,
        "box": box,
        "box and point": box | one,
        "mask": {"masks": mask},
        "mask and points": {"masks": mask} | three,
    }
