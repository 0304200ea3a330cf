"""What nano's quality head is told about each answer, to say its IoU with what the prompt meant.

Version 1, up to nano v3: the mask's token, the mean feature under the mask, its area, and how sure it is. Version 2
adds what surrounds the mask, how far the four answers agree (a part and its whole differ, near-equal answers confirm
each other), how long and how sharp its outline is, how much of it lies on the picture's border, and the stability that
everything mode filters by.

Shape legend: B prompts, M masks, P cells of 8 x 8 pixels, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_MASKS = 4
"""Token 0 answers unambiguous prompts, tokens 1 to 3 are the nested answers to an ambiguous one."""

VERSIONS = (1, 2)

_SCALARS = {1: 3, 2: 3 + NUM_MASKS + 1 + 4 + 1 + 1}
_LEAST_AREA = 1e-3
_OFFSET = 1.0
"""Of the stability: logits that the mask is cut at, above and below, the published generator's."""


def quality_head(token_channels: int, feature_channels: int, version: int) -> nn.Sequential:
    """A perceptron from `quality_clues` to the logit of the predicted IoU; version 2 has one layer more, twice as
    wide."""
    clues = token_channels + version * feature_channels + _SCALARS[version]
    if version == 1:
        return nn.Sequential(nn.Linear(clues, token_channels), nn.GELU(), nn.Linear(token_channels, 1))
    width = 2 * token_channels
    return nn.Sequential(
        nn.Linear(clues, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
    )


def quality_clues(tokens: Tensor, features: Tensor, logits: Tensor, version: int) -> Tensor:
    """All that is known of each mask.

    Args:
        tokens: (B, M, C) of the masks.
        features: (B, C8, H/8, W/8).
        logits: (B, M, H/4, W/4); no gradient goes back through them.
        version: one of `VERSIONS`.

    Returns:
        (B, M, clues).
    """
    logits = logits.detach()
    soft = torch.sigmoid(F.avg_pool2d(logits, 2))  # (B, M, H/8, W/8)
    flat, by_place = soft.flatten(2), features.flatten(2).transpose(1, 2)
    total, area = flat.sum(-1, keepdim=True), flat.mean(-1, keepdim=True)
    under = flat @ by_place / (total + 1.0)
    doubt = (flat * (1.0 - flat)).mean(-1, keepdim=True) / (area + _LEAST_AREA)
    sure = (flat * flat).mean(-1, keepdim=True) / (area + _LEAST_AREA)
    clues = [tokens, under, torch.log(area + _LEAST_AREA), doubt, sure]
    if version > 1:
        outside = 1.0 - flat
        clues += [
            outside @ by_place / (outside.sum(-1, keepdim=True) + 1.0),
            _agreement(flat, total),
            _outline(soft, total),
            _on_border(soft),
            _stability(logits),
            flat.amax(-1, keepdim=True),
        ]
    return torch.cat(clues, dim=-1)


def _agreement(flat: Tensor, total: Tensor) -> Tensor:
    """IoU of each soft mask with each of the four: (B, M, P), (B, M, 1) -> (B, M, M)."""
    overlap = flat @ flat.transpose(1, 2)
    return overlap / (total + total.transpose(1, 2) - overlap + 1.0)


def _outline(soft: Tensor, total: Tensor) -> Tensor:
    """Length of the outline in roots of the area, less where it is blurred to nothing: (B, M, 1)."""
    across = (soft[..., 1:] - soft[..., :-1]).abs().sum((2, 3))
    down = (soft[..., 1:, :] - soft[..., :-1, :]).abs().sum((2, 3))
    return (across + down).unsqueeze(-1) * torch.rsqrt(total + 1.0)


def _on_border(soft: Tensor) -> Tensor:
    """Share of the frame's left, right, upper and lower border that the mask covers: (B, M, 4)."""
    sides = (soft[..., 0], soft[..., -1], soft[..., 0, :], soft[..., -1, :])
    return torch.stack([side.mean(-1) for side in sides], dim=-1)


def _stability(logits: Tensor) -> Tensor:
    """Cells above the cut raised by 1, over cells above the cut lowered by 1: (B, M, 1)."""
    high = (logits > _OFFSET).to(logits.dtype).flatten(2).sum(-1, keepdim=True)
    low = (logits > -_OFFSET).to(logits.dtype).flatten(2).sum(-1, keepdim=True)
    return high / (low + 1.0)
