"""The image of every prompt as a shared image and a few rows; see `anymask.model.sam.fast_decoder`.

Axis letters: B prompts, T tokens, L image cells, C channels, H heads, D channels of a head, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageRows:
    """The image of each prompt as ``(shared + rows^T weights) / spread + shift``.

    weights: B x R x C; rows: B x R x L, both None while no prompt has changed the image. spread and scale, its
    inverse: B x 1 x L, and shift: C, None before the first norm.
    """

    weights: Tensor | None = None
    rows: Tensor | None = None
    spread: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None

    def only(self, prompts: Tensor) -> ImageRows:
        """The images of some prompts, numbers K."""
        weights, rows, spread, scale = (
            None if part is None else part.index_select(0, prompts)
            for part in (self.weights, self.rows, self.spread, self.scale)
        )
        return ImageRows(weights, rows, spread, scale, self.shift)

    def within(self, h: int, w: int, rows: Tensor, columns: Tensor) -> ImageRows:
        """The first rows and columns of h x w cells."""
        cut, spread, scale = (
            None if part is None else part.reshape(*part.shape[:2], h, w)[:, :, :rows, :columns].flatten(2)
            for part in (self.rows, self.spread, self.scale)
        )
        return ImageRows(self.weights, cut, spread, scale, self.shift)

    def scores(self, tokens: Tensor, projection: Tensor, shared: Tensor, positions: Tensor | None) -> Tensor:
        """Products of tokens B x H x T x D with the projected image: B x H x T x L.

        projection: (H D) x C of the image; shared: H x D x L, the shared image under it; positions: H x D x L, what
        is added to the image, under it. The shift is not in it.
        """
        b, heads, t, d = tokens.shape
        scores = of_all_prompts(tokens, shared)
        if self.weights is not None and self.rows is not None:
            folded = (tokens @ projection.reshape(heads, d, -1)).reshape(b, heads * t, -1)
            scores = scores + (folded @ self.weights.transpose(1, 2) @ self.rows).reshape(b, heads, t, -1)
        if self.scale is not None:
            scores = scores * self.scale[:, None]
        return scores if positions is None else scores + of_all_prompts(tokens, positions)

    def pooled(self, attention: Tensor, projection: Tensor, shared: Tensor) -> Tensor:
        """Means of the projected image under attention B x H x T x L: B x H x T x D, without the shift's part.

        projection: (H D) x C; shared: H x L x D, the shared image under it.
        """
        b, heads, t, cells = attention.shape
        if self.scale is not None:
            attention = attention * self.scale[:, None]
        means = of_all_prompts(attention, shared)
        if self.weights is None or self.rows is None:
            return means
        projected = split_heads(self.weights @ projection.t(), heads)  # B x H x R x D
        of_rows = (attention.reshape(b, heads * t, cells) @ self.rows.transpose(1, 2)).reshape(
            b, heads, t, -1
        )
        return means + of_rows @ projected

    def grown(self, rows: Tensor, weights: Tensor, constant: Tensor) -> ImageRows:
        """The image plus ``rows^T weights + constant``: rows B x R x L, weights B x R x C, constant B x 1 x C."""
        everywhere = torch.ones_like(rows[:, :1])
        if self.spread is not None:  # what is divided by the spread later is multiplied by it now
            assert self.shift is not None
            rows, everywhere, constant = rows * self.spread, self.spread, constant + self.shift
        rows, weights = torch.cat([rows, everywhere], dim=1), torch.cat([weights, constant], dim=1)
        if self.weights is not None and self.rows is not None:
            rows, weights = torch.cat([self.rows, rows], dim=1), torch.cat([self.weights, weights], dim=1)
        return ImageRows(weights, rows, self.spread, self.scale)

    def normed(self, norm: nn.LayerNorm, square: Tensor, cross: Tensor) -> ImageRows:
        """The image under a layer norm. square: 1 x L, cross: B x R x L as `ImagePart` makes them."""
        assert self.weights is not None
        assert self.rows is not None
        weights = centred(self.weights)
        gram = weights @ weights.transpose(1, 2)
        total = ((gram @ self.rows + cross) * self.rows).sum(1, keepdim=True) + square
        floor = norm.eps if self.spread is None else norm.eps * self.spread * self.spread
        variance = total.clamp(min=0.0) / weights.shape[-1] + floor
        scale = variance.rsqrt()
        return ImageRows(weights * norm.weight, self.rows, variance * scale, scale, norm.bias)


def of_all_prompts(x: Tensor, shared: Tensor) -> Tensor:
    """B x H x T x D @ H x D x L -> B x H x T x L, as one product of a head instead of one of a prompt and a head.

    An engine arranges the second factor for its kernel anew for every product.
    """
    b, heads, t, d = x.shape
    joined = x.transpose(0, 1).reshape(heads, b * t, d) @ shared
    return joined.reshape(heads, b, t, -1).transpose(0, 1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """B x T x (H D) -> B x H x T x D."""
    b, t, width = x.shape
    return x.reshape(b, t, heads, width // heads).transpose(1, 2)


def centred(weights: Tensor) -> Tensor:
    """R x C, each row less its mean."""
    return weights - weights.mean(-1, keepdim=True)
