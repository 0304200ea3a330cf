"""Small layers that the encoder and the decoder share.

Source: the "Lightweight mask decoder" and "Image encoder" paragraphs of the SAM paper (appendix A) and
`segment_anything/modeling/common.py` of the published code, whose parameter names are kept.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a B x C x H x W map, each pixel on its own."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        if not torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            normed = F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, self.eps)
            return normed.permute(0, 3, 1, 2)
        # Engines lay out a map with four axes as they like, and move it for a norm; rows of a matrix they leave alone.
        c, h, w = (int(side) for side in x.shape[1:])
        rows = F.layer_norm(channels_last.reshape(-1, c), (c,), self.weight, self.bias, self.eps)
        return rows.reshape(-1, h, w, c).permute(0, 3, 1, 2)


class MLPBlock(nn.Module):
    """The two linear layers of a transformer block, on the last axis: `dim -> hidden_dim -> dim`."""

    def __init__(self, dim: int, hidden_dim: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out


class MLP(nn.Module):
    """A stack of `depth` linear layers with ReLU between them: the hypernetworks and the quality head."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        sizes = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out
