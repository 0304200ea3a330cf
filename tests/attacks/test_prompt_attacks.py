"""10,000 odd prompts against odd images: a prompt that fits or a clear PromptError, nothing else."""

import numpy as np
import pytest

from anymask.errors import PromptError
from anymask.frame import Frame
from anymask.types import Prompt

ODD = [0, 1, -1, 0.5, 5000, 65535, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), 5e-324,
       2**70, True, "7", None, 1j, [], b"x", np.float32(3), np.int8(-5), "", object()]  # fmt: skip
SIZES = [(1, 1), (5000, 1), (1, 5000), (640, 480), (65535, 3)]


def odd_number(rng, usual):
    return ODD[rng.integers(len(ODD))] if rng.random() < 0.08 else float(rng.uniform(-0.05, 1.05) * usual)


def odd_prompt(rng, width, height):
    given = {}
    if rng.random() < 0.6:
        count = int(rng.choice([0, 1, 2, 5, 1025], p=[0.1, 0.4, 0.3, 0.19, 0.01]))
        given["points"] = [[odd_number(rng, width), odd_number(rng, height)] for _ in range(count)]
        if rng.random() < 0.5:
            labels = [int(rng.integers(0, 2)) for _ in range(count)]
            given["labels"] = labels if rng.random() < 0.9 else [*labels, ODD[rng.integers(len(ODD))]]
    if rng.random() < 0.5:
        given["box"] = [odd_number(rng, side) for side in (width, height, width, height)]
    if rng.random() < 0.2:
        shape = (height, width) if rng.random() < 0.5 and width * height < 10_000 else (64, 64)
        given["mask"] = np.zeros(shape, dtype=rng.choice([bool, np.float32, np.uint8, np.float64]))
    return given


def test_ten_thousand():
    rng = np.random.default_rng(11)
    good, refused = 0, []
    for index in range(10_000):
        width, height = SIZES[index % len(SIZES)]
        given = odd_prompt(rng, width, height)
        try:
            prompt = Prompt(**given)
            prompt.validate_for(width, height)
        except PromptError as error:
            refused.append(str(error))
            continue
        good += 1
        frame = Frame((height, width))
        rows, columns = frame.network_size
        if prompt.points is not None:
            network = frame.points_to_network(prompt.points)
            assert ((network >= 0) & (network <= (columns, rows))).all()
    assert good > 1_500
    assert len(refused) > 1_500
    assert all(10 < len(message) < 400 for message in refused)


def test_a_million_points():
    with pytest.raises(PromptError, match="1000000"):
        Prompt(points=np.zeros((1_000_000, 2)))
