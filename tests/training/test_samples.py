"""Batches: pure functions of the step, with image and masks in step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from anymask.data.sa1b import open_shards
from anymask.training.augmentation import PADDING_COLOUR, augmented_view, random_affine, warp
from anymask.training.samples import BatchSource, source_probabilities
from anymask.training.sampling_config import SamplingConfig

CONFIG = SamplingConfig(images=3, masks=2, phases=((0, ((64, 96),)), (5, ((128, 128),))))


def _source(folder: Path, seed: int = 0) -> BatchSource:
    shards = open_shards(folder)
    return BatchSource(shards, [s.source for s in shards], CONFIG, seed)


def test_a_batch_depends_on_seed_and_step_alone(shards: Path) -> None:
    first, second = _source(shards), _source(shards)
    first[0], first[3]  # other batches before must not matter
    assert (first[2].pixels == second[2].pixels).all()
    assert (first[2].coverage == second[2].coverage).all()
    assert not (first[2].pixels == first[1].pixels).all()
    assert not (first[2].pixels == _source(shards, seed=1)[2].pixels).all()


def test_shapes_follow_the_phase(shards: Path) -> None:
    source = _source(shards)
    assert source[4].pixels.shape == (3, 3, 64, 96)
    assert source[4].coverage.shape == (3, 2, 16, 24)
    assert source[5].pixels.shape == (3, 3, 128, 128)


def test_masks_stay_on_their_objects(shards: Path) -> None:
    """Objects are plain saturated colours on grey: inside a mask the view is saturated, elsewhere it is not."""
    plain = replace(CONFIG, grey=0.0, invert=0.0)
    shard = open_shards(shards)[0]
    agreements = []
    for seed in range(24):
        view = augmented_view(shard[seed % len(shard)], 128, 160, plain, np.random.default_rng(seed))
        assert view is not None
        pixels, coverage = view
        small = cv2.resize(pixels, (40, 32), interpolation=cv2.INTER_AREA).astype(int)
        saturation = small.max(2) - small.min(2)
        covered = (coverage > 250).any(0)
        assert covered.any()
        agreements.append(float((saturation[covered] > 40).mean()))
    assert np.mean(agreements) > 0.97  # seen 0.99; a shift by one cell gives about 0.9


def test_affine_moves_corners_as_it_says(shards: Path) -> None:
    """A mask's centroid, moved by the matrix, is the centroid of its coverage (while all of it is in view)."""
    from anymask.masks.rle import decode

    sample = open_shards(shards)[0][0]
    mask = decode(sample.annotations[0]["segmentation"])
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(40):
        matrix = random_affine(sample, mask.shape, 192, 192, replace(CONFIG, scale=(0.6, 1.0)), rng)
        coverage = warp(mask.astype(np.uint8) * 255, matrix / 4, 48, 48) / 255.0
        expected_area = mask.sum() * abs(matrix[0, 0] * matrix[1, 1]) / 16
        if abs(coverage.sum() / expected_area - 1) > 0.03:
            continue  # partly out of view
        ys, xs = np.nonzero(mask)
        x, y = matrix @ [xs.mean() + 0.5, ys.mean() + 0.5, 1.0]
        rows, columns = np.indices(coverage.shape) + 0.5
        seen = np.array([(coverage * columns).sum(), (coverage * rows).sum()]) / coverage.sum() * 4
        errors.append(np.abs(seen - [x, y]).max())
    assert len(errors) > 10
    assert max(errors) < 0.35  # pixels of the view; half a pixel of shift would show


def test_outside_the_image_is_the_mean_colour(shards: Path) -> None:
    shard = open_shards(shards)[0]
    config = replace(CONFIG, scale=(0.5, 0.5))
    view = augmented_view(shard[0], 128, 128, config, np.random.default_rng(1))
    assert view is not None
    assert (view[0] == PADDING_COLOUR).all(2).mean() > 0.5


def test_grouped_sources_share_one_weight() -> None:
    config = SamplingConfig(groups=(("b", "c"),), weight_power=0.5)
    a, b, c = source_probabilities([("a", 100), ("b", 75), ("c", 25)], config)
    assert a == pytest.approx(0.5)
    assert (b, c) == pytest.approx((0.375, 0.125))
