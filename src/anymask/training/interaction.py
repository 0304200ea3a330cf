"""Prompts simulated as in the paper: a click or a loose box first, then clicks where the answer is wrong.

Everything runs on the training device and is batched over prompts. Prompt tensors follow the published decoder
contract: labels 1 foreground, 0 background, 2 and 3 box corners, -1 padding.

Shape legend: B prompts, N point slots, h x w low-resolution cells of `stride` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PromptState:
    """All prompts given so far.

    Attributes:
        points: (B, N, 2) x, y in network pixels.
        labels: (B, N) float.
        mask_input: (B, 1, h, w) logits of the last answer.
        has_mask: (B,) float.
    """

    points: Tensor
    labels: Tensor
    mask_input: Tensor
    has_mask: Tensor


def _pick_cell(score: Tensor, generator: torch.Generator) -> Tensor:
    """Index of a cell drawn in proportion to score (B, h*w); uniform where all scores are zero: (B,)."""
    empty = score.sum(1, keepdim=True) <= 0
    return torch.multinomial(
        torch.where(empty, torch.ones_like(score), score), 1, generator=generator
    ).squeeze(1)


def _interior(region: Tensor) -> Tensor:
    """A score that grows with depth inside a region (B, 1, h, w) of zeros and ones: (B, h*w)."""
    depth = region.clone()
    for size in (3, 7, 15, 31):  # a square window as two strips: 62 sums a cell for the largest, not 961
        rows = F.avg_pool2d(region, (size, 1), stride=1, padding=(size // 2, 0))
        depth = depth + F.avg_pool2d(rows, (1, size), stride=1, padding=(0, size // 2))
    return (depth * region).flatten(1)


def draw_click(region: Tensor, central: Tensor, stride: int, generator: torch.Generator) -> Tensor:
    """Draw one point in each region.

    Args:
        region: (B, 1, h, w) of zeros and ones.
        central: (B,) bool; True takes the deepest cell, False any cell.
        stride: pixels per cell.
        generator: source of randomness on the regions' device.

    Returns:
        (B, 2) x, y in network pixels.
    """
    width = region.shape[-1]
    deepest = _interior(region).argmax(1)
    anywhere = _pick_cell(region.flatten(1), generator)
    cell = torch.where(central, deepest, anywhere)
    jitter = torch.rand(cell.shape[0], 2, device=region.device, generator=generator)
    corner = torch.stack([cell % width, cell // width], dim=1)
    return (corner + jitter) * stride


def loose_boxes(truth: Tensor, stride: int, generator: torch.Generator) -> Tensor:
    """Boxes of masks with the paper's noise: 10 % of the side per coordinate, at most 20 pixels: (B, 4) xyxy."""
    height, width = truth.shape[-2:]
    columns = truth.amax((1, 2)) > 0  # (B, w)
    rows = truth.amax((1, 3)) > 0  # (B, h)
    x0 = columns.float().argmax(1) * stride
    x1 = (width - columns.flip(1).float().argmax(1)) * stride
    y0 = rows.float().argmax(1) * stride
    y1 = (height - rows.flip(1).float().argmax(1)) * stride
    box = torch.stack([x0, y0, x1, y1], dim=1).float()
    side = torch.stack([x1 - x0, y1 - y0, x1 - x0, y1 - y0], dim=1).float()
    noise = torch.randn(box.shape, device=truth.device, generator=generator) * (side * 0.1).clamp(max=20.0)
    tight = torch.rand(box.shape[0], 1, device=truth.device, generator=generator) < 0.5
    noise = torch.where(tight, noise * 0.2, noise).clamp(-20.0, 20.0)
    noisy = box + torch.minimum(torch.maximum(noise, -side * 0.3), side * 0.3)
    limit = torch.tensor([width, height, width, height], device=truth.device) * stride
    return torch.minimum(noisy.clamp(min=0.0), limit)


def first_prompt(
    truth: Tensor, stride: int, box_share: float, central_share: float, generator: torch.Generator
) -> PromptState:
    """A foreground click or a loose box for each mask (B, 1, h, w) of zeros and ones; shares as `TrainConfig`."""
    batch, device = truth.shape[0], truth.device
    uniform = torch.rand(2, batch, device=device, generator=generator)
    use_box = uniform[0] < box_share
    click = draw_click(truth, uniform[1] < central_share, stride, generator)
    box = loose_boxes(truth, stride, generator)
    points = torch.stack([torch.where(use_box[:, None], box[:, :2], click), box[:, 2:]], dim=1)
    labels = torch.stack([1.0 + use_box.float(), torch.where(use_box, 3.0, -1.0)], dim=1)
    return PromptState(points, labels, torch.zeros_like(truth), torch.zeros(batch, device=device))


def next_prompt(
    state: PromptState,
    logits: Tensor,
    truth: Tensor,
    stride: int,
    new_click: bool,
    generator: torch.Generator,
) -> PromptState:
    """The answer goes back as a mask prompt, with one more click from its wrong region unless told otherwise.

    Args:
        state: prompts so far.
        logits: (B, 1, h, w) the answer to them.
        truth: (B, 1, h, w) of zeros and ones.
        stride: pixels per cell.
        new_click: False in the paper's rounds without a new prompt.
        generator: source of randomness.
    """
    logits = logits.detach()
    has_mask = torch.ones_like(state.has_mask)
    if not new_click:
        return PromptState(state.points, state.labels, logits, has_mask)
    answer = (logits > 0).to(truth.dtype)
    missed, spilled = truth * (1.0 - answer), answer * (1.0 - truth)
    miss_total, spill_total = missed.sum((1, 2, 3)), spilled.sum((1, 2, 3))
    foreground = (miss_total >= spill_total) | (spill_total == 0)
    region = torch.where(foreground[:, None, None, None], missed, spilled)
    region = torch.where(
        (region.sum((1, 2, 3)) == 0)[:, None, None, None], truth, region
    )  # perfect: click inside
    central = torch.rand(truth.shape[0], device=truth.device, generator=generator) < 0.6
    click = draw_click(region, central, stride, generator)
    return PromptState(
        torch.cat([state.points, click.unsqueeze(1)], dim=1),
        torch.cat([state.labels, foreground.float().unsqueeze(1)], dim=1),
        logits,
        has_mask,
    )


def is_ambiguous(state: PromptState) -> Tensor:
    """(B,) float: 1 where the prompt is one click and nothing else."""
    clicks = ((state.labels == 0) | (state.labels == 1)).sum(1)
    boxes = (state.labels == 2).sum(1)
    return ((clicks == 1) & (boxes == 0) & (state.has_mask == 0)).float()
