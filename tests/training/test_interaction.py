"""Simulated prompts fall where they should."""

from __future__ import annotations

import pytest
import torch

from anymask.training.interaction import draw_click, first_prompt, is_ambiguous, loose_boxes, next_prompt

STRIDE = 4


def _truth(batch: int = 64) -> torch.Tensor:
    truth = torch.zeros(batch, 1, 24, 32)
    for i in range(batch):
        truth[i, 0, 4 + i % 5 : 12 + i % 7, 6 + i % 9 : 20 + i % 4] = 1
    return truth


def _value_at(region: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    columns, rows = (points[:, 0] / STRIDE).long(), (points[:, 1] / STRIDE).long()
    return region[torch.arange(len(region)), 0, rows, columns]


@pytest.mark.parametrize("central", [True, False])
def test_clicks_fall_inside_their_region(central: bool) -> None:
    truth = _truth()
    points = draw_click(truth, torch.full((64,), central), STRIDE, torch.Generator().manual_seed(0))
    assert (_value_at(truth, points) == 1).all()


def test_central_clicks_are_deep() -> None:
    """The depth of a square of 25 cells is 12.5; the score's plateau may cost a third of it."""
    truth = torch.zeros(1, 1, 33, 33)
    truth[0, 0, 4:29, 4:29] = 1
    point = draw_click(truth, torch.tensor([True]), STRIDE, torch.Generator().manual_seed(0))[0]
    depth = 12.5 - ((point / STRIDE) - 16.5).abs().max()
    assert depth > 12.5 * 2 / 3


def test_boxes_hold_their_mask_up_to_the_noise() -> None:
    truth = _truth(256)
    boxes = loose_boxes(truth, STRIDE, torch.Generator().manual_seed(0))
    rows = truth.amax((1, 3)) > 0
    top = rows.float().argmax(1) * STRIDE
    side = rows.sum(1) * STRIDE
    assert ((boxes[:, 1] - top).abs() <= side * 0.3 + 1e-4).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()
    assert (boxes[:, 1] - top).abs().max() > 1  # there is noise


def test_first_prompt_is_a_click_or_a_box() -> None:
    truth = _truth(512)
    state = first_prompt(truth, STRIDE, 0.4, 0.5, torch.Generator().manual_seed(0))
    is_box = state.labels[:, 0] == 2
    assert 0.3 < is_box.float().mean() < 0.5
    assert (state.labels[is_box] == torch.tensor([2.0, 3.0])).all()
    assert (state.labels[~is_box] == torch.tensor([1.0, -1.0])).all()
    assert (_value_at(truth, state.points[:, 0])[~is_box] == 1).all()
    assert (is_ambiguous(state) == (~is_box).float()).all()


def test_next_click_marks_a_real_mistake() -> None:
    truth = _truth()
    state = first_prompt(truth, STRIDE, 0.0, 0.5, torch.Generator().manual_seed(0))
    logits = torch.full_like(truth, -1.0)
    logits[:, :, :, 12:] = 1.0  # misses the left part, spills to the right
    after = next_prompt(state, logits, truth, STRIDE, True, torch.Generator().manual_seed(1))
    clicked, label = after.points[:, -1], after.labels[:, -1]
    assert (_value_at(truth, clicked) == label).all()
    answered = _value_at((logits > 0).float(), clicked)
    assert (answered != label).all()
    assert (after.has_mask == 1).all()
    assert (is_ambiguous(after) == 0).all()


def test_a_round_without_a_click_only_feeds_the_mask_back() -> None:
    truth = _truth()
    state = first_prompt(truth, STRIDE, 0.5, 0.5, torch.Generator().manual_seed(0))
    after = next_prompt(state, truth * 2 - 1, truth, STRIDE, False, torch.Generator())
    assert after.points.shape == state.points.shape
    assert (after.mask_input == truth * 2 - 1).all()
