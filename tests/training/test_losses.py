"""Losses against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from anymask.training.losses import LossWeights, affinity_loss, dice_loss, focal_loss, mask_iou, prompt_loss


def test_focal_loss_of_hard_targets_is_the_published_formula() -> None:
    logits = torch.randn(2, 3, 5, 7)
    target = (torch.rand(2, 1, 5, 7) > 0.5).float()
    p = torch.sigmoid(logits)
    p_true = torch.where(target > 0.5, p, 1 - p)
    expected = (-((1 - p_true) ** 2) * p_true.log()).mean((-2, -1))
    torch.testing.assert_close(focal_loss(logits, target), expected, rtol=1e-4, atol=1e-6)


def test_dice_loss_extremes() -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., :5] = 1
    perfect = (target * 2 - 1) * 50
    assert dice_loss(perfect, target).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(-perfect, target).item() == pytest.approx(1 - 1 / 101, abs=1e-6)


def test_mask_iou_counts_cells() -> None:
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., :2] = 1.0
    target = torch.zeros(1, 1, 4, 4)
    target[:, :, :2] = 1.0
    assert mask_iou(logits, target).item() == pytest.approx(4 / 12)


def test_only_the_best_of_three_is_trained() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    good = (target * 2 - 1) * 3
    logits = torch.cat([good, -good, good * 0.9, -good], dim=1).requires_grad_()
    quality = torch.full((1, 4), 0.5, requires_grad=True)
    loss, log = prompt_loss(logits, quality, target, torch.ones(1), LossWeights())
    loss.backward()
    moved = logits.grad.abs().sum((-2, -1))[0]
    assert moved[1] == 0
    assert moved[3] == 0
    assert moved[0] > 0
    assert moved[2] > 0
    assert log["iou_best"].item() == pytest.approx(1.0)


def test_quality_is_pulled_to_the_true_iou() -> None:
    target = torch.ones(1, 1, 4, 4)
    quality = torch.full((1, 4), 0.25, requires_grad=True)
    weights = LossWeights(focal=0.0, dice=0.0)
    loss, _ = prompt_loss(torch.full((1, 4, 4, 4), 5.0), quality, target, torch.ones(1), weights)
    assert loss.item() == pytest.approx(0.75**2)
    assert math.isfinite(loss.item())


def test_affinity_loss_is_small_only_for_the_object() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    similarity = torch.zeros(1, 3, 4, 4)
    similarity[:, 0] = torch.nn.functional.avg_pool2d(target, 2)[:, 0] * 2 - 1
    scale, bias = torch.tensor(20.0), torch.tensor(0.0)
    assert affinity_loss(similarity, target, scale, bias) < 1e-3
    assert affinity_loss(-similarity, target, scale, bias) > 10
    similarity[:, 1] = 1.0  # background clicks do not count
    assert affinity_loss(similarity, target, scale, bias) < 1e-3
