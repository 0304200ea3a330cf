"""The stability score against the definition: IoU of the two cuts."""

import numpy as np
import pytest

from anymask.errors import MaskError
from anymask.masks.scores import stability_score


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.5, 0.25), (-1.0, 0.0)])
def test_is_the_iou_of_the_two_cuts(threshold, offset):
    logits = np.random.default_rng(0).normal(0, 2, (3, 4, 9, 11)).astype(np.float32)
    scores = stability_score(logits, threshold, offset)
    assert scores.shape == (3, 4)
    for index in np.ndindex(3, 4):
        high, low = logits[index] > threshold + offset, logits[index] > threshold - offset
        assert scores[index] == pytest.approx((high & low).sum() / (high | low).sum(), abs=1e-12)


def test_a_closed_form():
    ramp = np.tile(np.linspace(-9.5, 9.5, 20, dtype=np.float32), (5, 1))  # -9.5, -8.5 ... 9.5
    assert stability_score(ramp, 0.0, 1.0) == 9 / 11
    assert stability_score(np.full((4, 4), -5.0)) == 0.0
    assert stability_score(np.full((4, 4), 5.0)) == 1.0


def test_bad_input():
    with pytest.raises(MaskError, match="int64"):
        stability_score(np.zeros((4, 4), dtype=np.int64))
    with pytest.raises(MaskError, match="offset"):
        stability_score(np.zeros((4, 4)), offset=float("nan"))
