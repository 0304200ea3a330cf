"""Edges from masks, on planted discs, against closed forms and scipy."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image as PillowImage
from planted import Planted, always
from scipy import ndimage
from scipy.special import expit

import anymask
from anymask.data.bsds500 import BoundarySample, BoundaryTruth
from anymask.errors import InputError, MaskError
from anymask.evaluation.boundaries.edges import EdgeCounts, count_edges, score_edges, smooth_triangle
from anymask.evaluation.boundaries.mask_edges import (
    edge_benchmark,
    edge_counts_of_image,
    mask_edge_map,
    outer_slope,
)
from anymask.frame import Frame
from anymask.types import Mask

SIDE = 128
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


@dataclass(frozen=True)
class Disc:
    """A planted answer: how far inside a disc, in pixels, times its steepness."""

    x: float
    y: float
    radius: float
    score: float = 0.9
    steepness: float = 1.0

    @property
    def distance(self) -> np.ndarray:
        return np.hypot(COLUMNS - self.x, ROWS - self.y)

    @property
    def logits(self) -> np.ndarray:
        return (self.steepness * (self.radius - self.distance)).astype(np.float32)

    @property
    def mask(self) -> Mask:
        return Mask(self.logits > 0, self.score, low_res_logits=self.logits, stability_score=0.0)


class Framed(Planted):
    """A `Planted` whose logits have the resolution of the image."""

    def frame(self, image_size: tuple[int, int]) -> Frame:
        return Frame(image_size, SIDE, 32)


def planted_discs(*discs: Disc) -> Framed:
    """Every click is answered with the same discs."""
    return Framed(always(disc.mask for disc in discs))


def edge_map(*discs: Disc, points_per_side: int = 1) -> np.ndarray:
    model = planted_discs(*discs)
    embedding = model.embed(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    return mask_edge_map(model, embedding, points_per_side)


def off_circle(disc: Disc) -> np.ndarray:
    """Distance of each pixel from the disc's outline."""
    return np.abs(disc.distance - disc.radius)


def picture() -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (SIDE, SIDE)).save(buffer, format="PNG")
    return buffer.getvalue()


# Slopes


def test_a_ramp_has_its_slope_just_outside_the_mask() -> None:
    """0.05 a pixel is 0.4 by Sobel's weights; the column before the mask has it and no other pixel."""
    ramp = np.broadcast_to(np.float32(0.05) * np.arange(20, dtype=np.float32), (9, 20))
    mask = np.zeros((9, 20), dtype=bool)
    mask[:, 12:] = True
    expected = np.zeros((9, 20))
    expected[:, 11] = 0.4
    np.testing.assert_allclose(outer_slope(ramp, mask), expected, atol=1e-6)


def test_corners_touch_too_and_holes_have_an_outside() -> None:
    slope = np.add.outer(np.arange(9, dtype=np.float32), np.arange(9, dtype=np.float32))
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    ring = outer_slope(slope, mask) > 0
    assert ring.sum() == 8
    assert ring[3:6, 3:6].sum() == 8
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    assert outer_slope(slope, mask)[4, 4] > 0


@pytest.mark.parametrize("seed", range(3))
def test_slopes_as_scipy_finds_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.random((24, 31)).astype(np.float32)
    mask = ndimage.gaussian_filter(rng.random((24, 31)), 2) > 0.5
    gradient = np.hypot(*(ndimage.sobel(plane.astype(np.float64), axis, mode="mirror") for axis in (0, 1)))
    outside = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    np.testing.assert_allclose(outer_slope(plane, mask), np.where(outside, gradient, 0), atol=1e-5)


def test_map_and_mask_must_agree() -> None:
    with pytest.raises(MaskError, match="does not go with"):
        outer_slope(np.zeros((4, 5), np.float32), np.zeros((5, 4), dtype=bool))


# Maps


def test_edges_lie_on_the_outline_of_a_disc_and_close_it() -> None:
    disc = Disc(63.5, 60.0, 30.0)
    edges = edge_map(disc)
    assert edges.dtype == np.float32
    assert edges.max() == 1.0
    assert off_circle(disc)[edges > 0].max() < 2.0
    angles = np.radians(np.arange(0, 360, 3))
    on_circle = np.stack([60 + 30.5 * np.sin(angles), 63.5 + 30.5 * np.cos(angles)], axis=1)
    pixels = np.argwhere(edges > 0.5)
    nearest = np.linalg.norm(on_circle[:, None] - pixels[None], axis=-1).min(axis=1)
    assert nearest.max() < 1.5


def test_edges_are_thin() -> None:
    """No more pixels than the 8 r of a line around the circle that steps from side to side, a third of the slopes'."""
    disc = Disc(63.5, 63.5, 40.0)
    assert np.count_nonzero(edge_map(disc)) <= 8 * 41
    slopes = outer_slope(expit(disc.logits), disc.mask.array)
    assert np.count_nonzero(smooth_triangle(slopes, 1)) > 2.5 * 8 * 41


def test_nothing_is_filtered_by_quality() -> None:
    poor, good = Disc(35, 64, 20, score=-0.5), Disc(95, 64, 20, score=0.9)
    edges = edge_map(poor, good)
    for disc in (poor, good):
        assert (edges[off_circle(disc) < 1.0] > 0.5).sum() > 60


def test_a_duplicate_of_lower_score_adds_nothing() -> None:
    disc = Disc(64, 64, 30)
    steep_twin = Disc(64, 64, 29, score=0.2, steepness=9.0)
    assert (edge_map(disc, steep_twin) == edge_map(disc)).all()
    assert (edge_map(disc, points_per_side=3) == edge_map(disc)).all()
    smaller = Disc(64, 64, 15, score=0.2)
    assert (edge_map(disc, smaller)[off_circle(smaller) < 1.0] > 0.5).any()


def test_the_steepest_mask_sets_the_scale() -> None:
    """A quarter of the steepness is a quarter of the slope, a little more as the outer pixels lie off the middle."""
    steep, soft = Disc(35, 64, 20), Disc(95, 64, 20, steepness=0.25)
    edges = edge_map(steep, soft)
    assert edges[off_circle(steep) < 2].max() == 1.0
    assert 0.22 < edges[off_circle(soft) < 2].max() < 0.36


def test_no_mask_no_edge() -> None:
    assert not edge_map().any()
    assert not edge_map(Disc(64, 64, 500.0)).any()  # covers the image: no outer boundary


def test_masks_without_logits_are_refused() -> None:
    model = Framed(always([Mask(Disc(64, 64, 20).mask.array, 0.9)]))
    embedding = model.embed(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="low_res_logits"):
        mask_edge_map(model, embedding, 1)


def test_the_embedded_nano_draws_the_outline_of_a_bright_disc() -> None:
    disc = Disc(64, 64, 30)
    inside = disc.distance < disc.radius
    pixels = np.where(inside[..., None], np.array([230, 60, 40]), np.array([30, 90, 40])).astype(np.uint8)
    segmenter = anymask.load("nano", threads=1)
    edges = mask_edge_map(segmenter, segmenter.embed(pixels), points_per_side=3)
    on, off = off_circle(disc) < 3.0, off_circle(disc) > 8.0
    assert edges[on].max() > 0.5
    assert edges[on].mean() > 5 * edges[off].mean()


# Benchmark


def sample(*discs: Disc) -> BoundarySample:
    """The annotator drew a line around every disc."""
    union = np.zeros((SIDE, SIDE), dtype=bool)
    for disc in discs:
        inside = disc.distance < disc.radius
        union |= ndimage.binary_dilation(inside) & ~inside
    labels = np.ones((SIDE, SIDE), dtype=np.int32)
    return BoundarySample(picture(), BoundaryTruth("1", (union,), (labels,)))


def test_perfect_discs_score_perfectly() -> None:
    discs = (Disc(40, 64, 20), Disc(90, 64, 25))
    counts = edge_counts_of_image(planted_discs(*discs), sample(*discs), thresholds=9, points_per_side=2)
    scores = score_edges([counts])
    assert scores.ods.precision > 0.97
    assert scores.ods.recall > 0.97


def test_a_missed_disc_costs_recall_only() -> None:
    found, missed = Disc(40, 64, 20), Disc(90, 64, 20)
    counts = edge_counts_of_image(
        planted_discs(found), sample(found, missed), thresholds=9, points_per_side=1
    )
    scores = score_edges([counts])
    assert scores.ods.precision > 0.97
    assert scores.ods.recall == pytest.approx(0.5, abs=0.02)


def test_the_benchmark_pools_its_images() -> None:
    discs = (Disc(40, 64, 20), Disc(90, 64, 25))
    images: Sequence[BoundarySample] = [sample(discs[0]), sample(*discs), sample(discs[1])]
    model = planted_discs(discs[0])
    done: list[tuple[int, int]] = []
    scores = edge_benchmark(model, images, [2, 0], thresholds=5, progress=lambda *at: done.append(at))  # type: ignore[arg-type]
    edges = mask_edge_map(model, model.embed(images[0].image))
    expected = score_edges([count_edges(edges, images[i].truth.boundaries, 5) for i in (2, 0)])
    assert done == [(1, 2), (2, 2)]
    assert scores.ods == expected.ods
    assert scores.recall.tolist() == expected.recall.tolist()


def test_counts_survive_json() -> None:
    truth = Disc(50, 50, 20).mask.array
    counts = count_edges(np.where(truth, 0.3, 0.0), [truth], thresholds=4)
    back = EdgeCounts.from_record(json.loads(json.dumps(counts.as_record())))
    for name in ("thresholds", "matched_truth", "total_truth", "matched_predicted", "total_predicted"):
        assert getattr(back, name).dtype == getattr(counts, name).dtype
        assert (getattr(back, name) == getattr(counts, name)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": None},
        {"thresholds": ["a", "b"]},
        {"matched_truth": [1]},
        {"matched_truth": [1.5, 2.0]},
        {"total_predicted": [[1], [2, 3]]},
    ],
)
def test_damaged_records_are_refused(change: dict[str, object]) -> None:
    good = EdgeCounts(np.array([0.3, 0.6]), *np.ones((4, 2), dtype=np.int64)).as_record()
    with pytest.raises(MaskError):
        EdgeCounts.from_record({**good, **change})
    with pytest.raises(MaskError):
        EdgeCounts.from_record({"thresholds": [0.5]})
