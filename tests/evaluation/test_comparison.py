"""The paired bootstrap: verdicts on planted differences, coverage, and figures found another way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from anymask.errors import InputError
from anymask.evaluation.comparison import MIN_IMAGES, PairedScores, compare

IMAGES, MASKS = 60, 5


def scores(seed: int, gain: float = 0.0, images: int = IMAGES, masks: int = MASKS) -> PairedScores:
    """Two models of equal spread on masks that are alike within an image; the first better by ``gain``."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), masks)
    common = rng.normal(0.6, 0.15, images)[image]
    candidate, reference = (
        common + rng.normal(0, 0.05, images)[image] + rng.normal(0, 0.08, images * masks) for _ in range(2)
    )
    return PairedScores(image.tolist(), candidate + gain, reference)


def test_a_planted_worse_model_is_worse_and_the_other_better() -> None:
    first = {name: scores(seed, -0.06) for seed, name in enumerate("abc")}
    second = {name: PairedScores(s.images, s.reference, s.candidate) for name, s in first.items()}
    worse, better = compare(first), compare(second)
    assert {row.verdict for row in (*worse.sets.values(), worse.overall)} == {"worse"}
    assert {row.verdict for row in (*better.sets.values(), better.overall)} == {"better"}
    assert worse.overall.difference == pytest.approx(-0.06, abs=0.02)
    assert worse.overall.low == pytest.approx(-better.overall.high, abs=1e-12)


def test_two_noisy_equals_are_undecided_in_nine_of_ten_seeds() -> None:
    verdicts = [
        compare({"a": scores(seed)}, resamples=2000, seed=seed).overall.verdict for seed in range(100)
    ]
    assert verdicts.count("undecided") >= 90


def test_the_interval_covers_the_planted_difference_about_as_often_as_it_says() -> None:
    """Of 200 trials at 95 % 190 are expected; 187 were seen. Were the true rate only 94 %, as percentile
    intervals of 60 images can be, less than 176 would still come up once in two thousand times."""
    covered = 0
    for seed in range(200):
        row = compare({"a": scores(seed + 1000, 0.05)}, resamples=1000, seed=seed).overall
        covered += row.low <= 0.05 <= row.high
    assert 176 <= covered <= 199


def test_masks_of_one_image_are_not_taken_as_independent() -> None:
    """The same images with every mask ten times over tell nothing new; the interval must stay."""
    once = scores(3, masks=1)
    images = [image for image in once.images for _ in range(10)]
    often = PairedScores(images, np.repeat(once.candidate, 10), np.repeat(once.reference, 10))
    first, second = compare({"a": once}).overall, compare({"a": often}).overall
    assert (second.images, second.masks) == (60, 600)
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_the_interval_is_that_of_every_possible_draw() -> None:
    """Six images of unequal masks have 6^6 draws; all of them give the exact distribution."""
    masks, gains = np.array([1, 4, 2, 1, 3, 2]), np.array([0.3, -0.1, 0.2, 0.05, 0.0, 0.1])
    images = np.repeat(np.arange(6), masks)
    paired = PairedScores(images.tolist(), 0.5 + gains[images], np.full(len(images), 0.5))
    draws = np.array(list(itertools.product(range(6), repeat=6)))
    exact = (gains * masks)[draws].sum(axis=1) / masks[draws].sum(axis=1)
    row = compare({"a": paired}, resamples=40_000).overall
    assert row.low == pytest.approx(np.quantile(exact, 0.025), abs=0.004)
    assert row.high == pytest.approx(np.quantile(exact, 0.975), abs=0.004)
    assert row.difference == pytest.approx((gains * masks).sum() / masks.sum())


def test_pairing_finds_what_two_separate_means_would_not() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(0.5, 0.2, 60)
    row = compare({"a": PairedScores(range(60), common + 0.01 + rng.normal(0, 0.01, 60), common)}).overall
    unpaired = 1.96 * common.std() * np.sqrt(2 / 60)
    assert row.verdict == "better"
    assert row.high - row.low < 0.2 * unpaired


def test_sets_count_the_same_whatever_their_size() -> None:
    small, large = scores(1, 0.2, images=10), scores(2, 0.0, images=200)
    result = compare({"small": small, "large": large})
    rows = result.sets
    assert result.overall.difference == pytest.approx(
        (rows["small"].difference + rows["large"].difference) / 2
    )
    halves = [rows[name].high - rows[name].low for name in ("small", "large")]
    assert result.overall.high - result.overall.low == pytest.approx(np.hypot(*halves) / 2, rel=0.1)
    assert (result.overall.images, result.overall.masks) == (210, 1050)


def test_two_sets_of_the_same_scores_are_drawn_apart() -> None:
    """Drawn together they would tell no more than one; apart the interval shrinks by the root of two."""
    result = compare({"a": scores(1), "b": scores(1)})
    one, both = result.sets["a"], result.overall
    assert both.high - both.low == pytest.approx((one.high - one.low) / np.sqrt(2), rel=0.05)


def test_the_same_seed_gives_the_same_and_a_further_set_moves_no_other() -> None:
    first, second = scores(1), scores(2)
    alone = compare({"a": first}, seed=5)
    assert compare({"a": first}, seed=5) == alone
    assert compare({"b": second, "a": first}, seed=5).sets["a"] == alone.sets["a"]
    assert compare({"a": first}, seed=6).overall.low != alone.overall.low


def test_large_sets_are_drawn_in_blocks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare({"a": scores(1)}, resamples=500)
    monkeypatch.setattr("anymask.evaluation.comparison.DRAWS_PER_BLOCK", 1000)
    assert compare({"a": scores(1)}, resamples=500) == whole


def test_too_few_images_decide_nothing() -> None:
    few = PairedScores(range(MIN_IMAGES - 1), [0.9] * (MIN_IMAGES - 1), [0.1] * (MIN_IMAGES - 1))
    enough = PairedScores(range(MIN_IMAGES), [0.9] * MIN_IMAGES, [0.1] * MIN_IMAGES)
    result = compare({"few": few, "enough": enough})
    assert result.sets["few"].verdict == "undecided"
    assert result.sets["enough"].verdict == "better"
    assert result.overall.verdict == "undecided"


def test_a_model_against_itself_is_undecided() -> None:
    row = compare({"a": PairedScores(range(20), np.linspace(0, 1, 20), np.linspace(0, 1, 20))}).overall
    assert (row.difference, row.low, row.high, row.verdict) == (0.0, 0.0, 0.0, "undecided")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="every mask"):
        PairedScores([1, 2], [0.5, 0.6], [0.5])
    with pytest.raises(InputError, match="every mask"):
        PairedScores([], [], [])
    with pytest.raises(InputError, match="finite"):
        PairedScores([1], [float("nan")], [0.5])
    with pytest.raises(InputError, match="0 sets"):
        compare({})
    with pytest.raises(InputError, match="confidence"):
        compare({"a": scores(0)}, confidence=1.0)
