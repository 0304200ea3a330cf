"""Nothing is left behind: descriptors within 2, memory within 5 per cent."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import anymask
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend


def measure(act: Callable[[int], object], warm: int, rounds: int) -> None:
    """Run ``act`` until memory has settled, then count what more rounds add."""
    process = psutil.Process()
    for index in range(warm):
        act(index)
    gc.collect()
    descriptors, memory = process.num_fds(), process.memory_info().rss
    for index in range(rounds):
        act(index)
    gc.collect()
    assert process.num_fds() <= descriptors + 2
    assert process.memory_info().rss <= memory * 1.05


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fake", "onnx"])
def test_two_thousand_predictions_over_images_of_many_sizes(engine: str, nano_folder: Path) -> None:
    segmenter = Segmenter(FakeBackend()) if engine == "fake" else anymask.load(nano_folder, threads=1)
    chance = np.random.default_rng(0)
    held = {}

    def act(index: int) -> None:
        if index % 20 == 0:
            height, width = chance.integers(8, 160, 2)
            held["embedding"] = segmenter.embed(np.full((height, width, 3), index % 250, dtype=np.uint8))
        embedding = held["embedding"]
        height, width = embedding.image_size
        masks = segmenter.segment(embedding, points=[(width / 2, height / 2)] * (1 + index % 5))
        assert masks[0].rle["size"] == [height, width]

    measure(act, warm=300, rounds=2000)


@pytest.mark.slow
def test_five_hundred_models_opened_and_closed(nano_folder: Path) -> None:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)

    def act(index: int) -> None:
        segmenter = anymask.load(nano_folder, threads=1)
        if index % 25 == 0:  # making both sessions takes most of the time
            segmenter.segment(pixels, points=[(3, 3)])

    measure(act, warm=60, rounds=500)
