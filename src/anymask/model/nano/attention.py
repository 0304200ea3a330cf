"""Attention between a handful of tokens and the thousand places of a grid, priced by the tokens.

Textbook attention projects every place to a key and a value, for every prompt anew: most of a small decoder's time.
Here the tokens' side of each product is multiplied with the places' projection instead (``(x K) . q = x . (K q)``), so
that a place is only ever compared with, or mixed from, as many vectors as there are tokens and heads. The answer is
the textbook's but for rounding, and so are the parameters; `tests/model/test_nano_attention.py` holds both together.

Shape legend: B prompts, T tokens, P places, C channels.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with a narrower inner width, as in the published decoder."""

    def __init__(self, channels: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1.0 / math.sqrt(inner // heads)
        self.q = nn.Linear(channels, inner)
        self.k = nn.Linear(channels, inner)
        self.v = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(B, Tq, C), (B, Tk, C), (B, Tk, C) -> (B, Tq, C); key_bias (B, 1, 1, Tk) is added to the scores."""
        q, k, v = self._by_head(self.q(q)), self._by_head(self.k(k)), self._by_head(self.v(v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias)
        return self._out(attended)

    def few_ask_many(self, tokens: Tensor, places: Tensor, where: Tensor) -> Tensor:
        """Tokens look at places: `forward` with keys ``places + where`` and values ``places``.

        The bias of the keys adds the same to all scores of a token and is left out.

        Args:
            tokens: (B, T, C).
            places: (B, P, C).
            where: (P, C), positions that all prompts share.

        Returns:
            (B, T, C).
        """
        asked = self._by_head(self.q(tokens)) * self.scale  # (B, heads, T, inner / heads)
        at_places = self._flat(asked @ self._weight_by_head(self.k))  # (B, heads * T, C)
        alike = at_places @ places.transpose(1, 2)  # (B, heads * T, P)
        scores = alike.reshape(*asked.shape[:3], -1) + asked @ self._places_by_head(self.k, where)
        seen = self._flat(scores.softmax(-1)) @ places  # (B, heads * T, C)
        values = seen.reshape(*asked.shape[:3], -1) @ self._weight_by_head(self.v).transpose(1, 2)
        return self._out(values + self.v.bias.reshape(self.heads, 1, -1))

    def many_ask_few(self, places: Tensor, where: Tensor, tokens: Tensor, key_bias: Tensor) -> Tensor:
        """Places look at tokens: `forward` with queries ``places + where`` and keys and values ``tokens``.

        Args:
            places: (B, P, C).
            where: (P, C), positions that all prompts share.
            tokens: (B, T, C).
            key_bias: (B, 1, 1, T), added to the scores.

        Returns:
            (B, P, C).
        """
        keys = self._by_head(self.k(tokens)) * self.scale  # (B, heads, T, inner / heads)
        at_places = self._flat(keys @ self._weight_by_head(self.q))  # (B, heads * T, C)
        alike = at_places @ places.transpose(1, 2)  # (B, heads * T, P)
        asked = self._places_by_head(self.q, where)  # (heads, inner / heads, P)
        same_for_all = keys @ (asked + self.q.bias.reshape(self.heads, -1, 1)) + key_bias.transpose(2, 3)
        weights = softmax_across(alike.reshape(*keys.shape[:3], -1) + same_for_all)
        out = self.out.weight.transpose(0, 1).reshape(self.heads, -1, places.shape[-1])
        # Weights add up to one in each head, so each head's values may carry its part of the bias to all places.
        values = self._by_head(self.v(tokens)) @ out + self.out.bias / self.heads  # (B, heads, T, C)
        return self._flat(weights).transpose(1, 2) @ self._flat(values)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, inner) -> (B, heads, T, inner / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _flat(self, x: Tensor) -> Tensor:
        """(B, heads, T, ...) -> (B, heads * T, ...)."""
        return x.flatten(1, 2)

    def _weight_by_head(self, projection: nn.Linear) -> Tensor:
        """(heads, inner / heads, C)."""
        return projection.weight.reshape(self.heads, -1, projection.in_features)

    def _places_by_head(self, projection: nn.Linear, where: Tensor) -> Tensor:
        """What a projection without its bias makes of positions: (heads, inner / heads, P)."""
        return F.linear(where, projection.weight).transpose(0, 1).reshape(self.heads, -1, where.shape[0])

    def _out(self, attended: Tensor) -> Tensor:
        """(B, heads, T, inner / heads) -> (B, T, C)."""
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


def softmax_across(scores: Tensor) -> Tensor:
    """Softmax over the last axis but one, step by step: runtimes change the layout twice for the operator's own."""
    weights = (scores - scores.amax(-2, keepdim=True)).exp()
    return weights / weights.sum(-2, keepdim=True)
