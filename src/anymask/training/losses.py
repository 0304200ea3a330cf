"""Losses of the paper (section "Training"): focal : dice = 20 : 1 for masks, squared error for quality.

Targets are coverages in 0..1, which makes both losses the usual ones for hard masks and lets a boundary cell say
how far in the boundary lies.

Shape legend: B prompts, K masks per prompt, h x w low-resolution cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Relative weights; focal, dice and quality are the paper's losses, affinity is ours, teacher for distillation."""

    focal: float = 20.0
    dice: float = 1.0
    quality: float = 1.0
    gamma: float = 2.0
    affinity: float = 0.5
    teacher: float = 1.0


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017) per mask, mean over cells: (B, K, h, w) and (B, 1, h, w) -> (B, K).

    For soft targets the modulating factor is the distance to the target (Li et al., 2020).
    """
    target = target.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    distance = (torch.sigmoid(logits) - target).abs()
    return (cross_entropy * distance**gamma).mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the Dice coefficient of probabilities, smoothed by one cell: -> (B, K)."""
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1.0)


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks: (B, K, h, w) and (B, 1, h, w) -> (B, K)."""
    predicted = logits > 0
    truth = target > 0.5
    overlap = (predicted & truth).sum((-2, -1))
    return overlap / (predicted | truth).sum((-2, -1)).clamp(min=1)


def affinity_loss(similarity: Tensor, target: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Teaches the encoder directly: what looks like the prompt should be the object, the rest should not.

    Args:
        similarity: (B, 3, h, w) as `Affinity` gives it; background clicks are left out.
        target: (B, 1, 2h, 2w) coverage.
        scale, bias: learned scalars that turn a cosine into a logit.

    Returns:
        Scalar: Dice loss plus cross-entropy of the map of the prompt that is there.
    """
    logits = (similarity[:, 0:1] + similarity[:, 2:3]) * scale + bias
    target = F.avg_pool2d(target, 2)
    return dice_loss(logits, target).mean() + F.binary_cross_entropy_with_logits(logits, target)


def prompt_loss(
    logits: Tensor, quality: Tensor, target: Tensor, ambiguous: Tensor, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one round of prompting.

    Token 0 answers every prompt. Tokens 1 to 3 answer too and only the best of them is trained, so that they
    become different readings of the prompt; ambiguous prompts (one click) weigh fully there, others lightly.

    Args:
        logits: (B, 4, h, w).
        quality: (B, 4) predicted IoU.
        target: (B, 1, h, w) coverage.
        ambiguous: (B,) float, 1 where the prompt is a single click.
        weights: relative weights.

    Returns:
        The scalar loss, and detached scalars for the log.
    """
    per_mask = weights.focal * focal_loss(logits, target, weights.gamma) + weights.dice * dice_loss(
        logits, target
    )
    single = per_mask[:, 0]
    best, choice = per_mask[:, 1:].min(1)
    multi_weight = 0.25 + 0.75 * ambiguous
    iou = mask_iou(logits, target)
    quality_loss = ((quality - iou) ** 2).mean(1)
    loss = (single * (1.0 - 0.5 * ambiguous) + best * multi_weight + weights.quality * quality_loss).mean()
    top = iou[:, 1:].gather(1, quality[:, 1:].argmax(1, keepdim=True)).squeeze(1)
    chosen = iou[:, 1:].gather(1, choice.unsqueeze(1)).squeeze(1)
    return loss, {
        "loss": loss.detach(),
        "iou_single": iou[:, 0].mean(),
        "iou_top": top.mean(),
        "iou_best": chosen.mean(),
        "quality_error": quality_loss.detach().mean().sqrt(),
    }
