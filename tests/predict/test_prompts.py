"""Prompts become the published decoder's slots."""

from __future__ import annotations

import numpy as np
import pytest

from anymask.errors import PromptError
from anymask.frame import MASK_PROMPT_LOGIT, Frame
from anymask.predict.prompts import prompt_arrays, prompt_slots
from anymask.types import Prompt

FRAME = Frame((50, 100), long_side=200, pad=32)  # twice the image: 100 x 200 in 128 x 224
LOW_RES = (32, 56)


def test_slots_of_a_ragged_batch() -> None:
    prompts = [
        Prompt(points=[(1, 2)]),
        Prompt(points=[(1, 2), (3, 4.5)], labels=[0, 1]),
        Prompt(box=(10, 5, 20, 40)),
        Prompt(points=[(100, 50)], labels=[0], box=(0, 0, 100, 50)),
        Prompt(mask=np.ones((50, 100), dtype=bool)),
    ]
    arrays = prompt_arrays(prompts, FRAME, LOW_RES)
    assert arrays.labels.tolist() == [[1, -1, -1], [0, 1, -1], [2, 3, -1], [0, 2, 3], [-1, -1, -1]]
    assert arrays.points.tolist() == [
        [[2, 4], [0, 0], [0, 0]],
        [[2, 4], [6, 9], [0, 0]],
        [[20, 10], [40, 80], [0, 0]],
        [[200, 100], [0, 0], [200, 100]],
        [[0, 0], [0, 0], [0, 0]],
    ]
    assert arrays.has_mask.tolist() == [0, 0, 0, 0, 1]
    assert arrays.mask_input.shape == (5, 1, *LOW_RES)
    assert not arrays.mask_input[:4].any()
    assert {array.dtype for array in vars(arrays).values()} == {np.dtype(np.float32)}
    assert [prompt_slots(prompt) for prompt in prompts] == [2, 3, 2, 3, 1]
    assert len(arrays) == 5


@pytest.mark.parametrize("points", [1, 2, 5])
def test_points_without_a_box_get_one_padding_slot_and_boxes_none(points: int) -> None:
    """As in `_embed_points(..., pad=boxes is None)`."""
    places = [(x, 1) for x in range(points)]
    plain = prompt_arrays([Prompt(points=places)], FRAME, LOW_RES).labels
    boxed = prompt_arrays([Prompt(points=places, box=(0, 0, 9, 9))], FRAME, LOW_RES).labels
    assert plain.tolist() == [[1] * points + [-1]]
    assert boxed.tolist() == [[1] * points + [2, 3]]


def test_both_kinds_of_masks() -> None:
    logits = np.random.default_rng(0).normal(size=LOW_RES).astype(np.float32)
    half = np.zeros((50, 100), dtype=bool)
    half[:, :50] = True
    arrays = prompt_arrays(
        [Prompt(mask=logits), Prompt(mask=half), Prompt(mask=logits[None])], FRAME, LOW_RES
    )
    assert np.array_equal(arrays.mask_input[0, 0], logits)
    assert np.array_equal(arrays.mask_input[2, 0], logits)
    drawn = arrays.mask_input[1, 0]  # 25 x 50 of the 32 x 56 cells are image, the left 25 columns are in
    assert np.allclose(drawn[:24, :24], MASK_PROMPT_LOGIT, atol=1e-3)
    assert np.allclose(drawn[:, 26:], -MASK_PROMPT_LOGIT, atol=1e-3)
    assert np.allclose(drawn[26:], -MASK_PROMPT_LOGIT, atol=1e-3)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=[(100.5, 3)]),
        Prompt(points=[(1, 1), (-0.1, 3)]),
        Prompt(points=[(1, 1)], box=(0, 0, 101, 50)),
        Prompt(box=(-1, 0, 5, 5)),
        Prompt(mask=np.ones((100, 50), dtype=bool)),
        Prompt(mask=np.ones((256, 256), dtype=np.float32)),
        Prompt(mask=np.ones((56, 32), dtype=np.float32)),
    ],
)
def test_what_does_not_fit_the_image_is_refused(prompt: Prompt) -> None:
    with pytest.raises(PromptError) as error:
        prompt_arrays([Prompt(points=[(1, 1)]), prompt], FRAME, LOW_RES)
    assert "\n" not in str(error.value)
