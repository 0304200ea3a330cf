"""Reading planes: the same as upsampling, comparing and encoding whole planes; bounds that hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.automatic.bounds import NOWHERE, least_overlaps
from anymask.automatic.filters import published_overlaps
from anymask.automatic.reading import MaskReader, published_stability
from anymask.automatic.runs import Runs
from anymask.automatic.upsampling import footprints, network_footprints
from anymask.errors import ModelError
from anymask.frame import Frame
from anymask.masks import rle
from anymask.masks.boxes import masks_to_boxes_published
from anymask.resampling import bilinear

FRAMES = [
    (Frame((60, 100), 64, 32), (16, 16)),
    (Frame((100, 37), 128, "square"), (32, 32)),
    (Frame((300, 200), 128, "square"), (32, 32)),
    (Frame((128, 128), 128, 32), (32, 32)),
    (Frame((1, 50), 64, 32), (8, 16)),
    (Frame((3, 700), 64, 32), (8, 16)),
    (Frame((64, 48), 64, 64, "longest_side"), (16, 16)),
    (Frame((90, 70), 64, "square", "stretch"), (16, 16)),
]


def plane(seed: int, size: tuple[int, int], kind: str = "smooth") -> np.ndarray:
    """Logits of several characters."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    if kind == "noise":
        return chance.normal(0, 3, size).astype(np.float32)
    if kind == "one cell":
        logits = np.full(size, -9.0, dtype=np.float32)
        logits[chance.integers(size[0]), chance.integers(size[1])] = 20
        return logits
    if kind == "flat":
        return np.full(size, chance.choice([-3.0, -1.0, 0.0, 1.0, 3.0]), dtype=np.float32)
    centre = chance.uniform(0, 1, 2) * size
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return (chance.uniform(2, 12) - distance * chance.uniform(0.3, 4)).astype(np.float32)


def naive(frame: Frame, logits: np.ndarray, offset: float) -> tuple[np.ndarray, float]:
    full = frame.logits_to_image(logits)
    inner, outer = (full > offset).sum(), (full > -offset).sum()
    return full > 0, float(np.float32(inner) / np.float32(max(outer, 1)))


@pytest.mark.parametrize(("frame", "low_res"), FRAMES, ids=str)
@pytest.mark.parametrize("kind", ["smooth", "noise", "one cell", "flat"])
def test_as_upsampling_the_whole_plane(frame: Frame, low_res: tuple[int, int], kind: str) -> None:
    """One reader for all planes: nothing of one is left in the next."""
    reader = MaskReader(frame, low_res, 0.0, 1.0)
    for seed in range(12):
        logits = plane(seed, low_res, kind)
        mask, stability = naive(frame, logits, 1.0)
        assert reader.stability(logits) == stability
        runs = reader.runs()
        assert runs.area == mask.sum()
        assert list(runs.box_published) == masks_to_boxes_published(mask).tolist()
        assert runs.counts((0, 0), frame.image_size).tolist() == rle.encode_counts(mask).tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["smooth", "noise", "one cell", "flat"]),
    case=st.integers(0, len(FRAMES) - 1),
    thresh=st.sampled_from([0.05, 0.3, 0.6, 0.9, 0.95, 1.0]),
    offset=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
)
def test_a_plane_left_out_was_below_the_threshold(
    seed: int, kind: str, case: int, thresh: float, offset: float
) -> None:
    frame, low_res = FRAMES[case]
    reader = MaskReader(frame, low_res, 0.0, offset, thresh)
    logits = plane(seed, low_res, kind)
    mask, stability = naive(frame, logits, offset)
    found = reader.stability(logits)
    if found is None:
        assert stability < np.float32(thresh)
    else:
        assert found == stability
        assert reader.runs().area == mask.sum()
    assert reader.stability(logits, bounded=False) == stability


def test_bounds_spare_most_of_the_work_on_unstable_planes() -> None:
    frame, low_res = Frame((600, 800), 512, 32), (96, 128)
    reader = MaskReader(frame, low_res, 0.0, 1.0, 0.95)
    rows, columns = np.mgrid[:96, :128]
    for slope in np.linspace(0.06, 0.2, 10):
        logits = (3 - slope * np.hypot(rows - 48, columns - 64)).astype(np.float32)
        assert naive(frame, logits, 1.0)[1] < 0.95
        assert reader.stability(logits) is None
    assert reader.upsampled == 0


@pytest.mark.parametrize(("frame", "low_res"), FRAMES[:7], ids=str)
def test_pixels_are_made_of_their_footprint_only(frame: Frame, low_res: tuple[int, int]) -> None:
    """Cells outside a pixel's footprint changed at will leave it as it was."""
    down, across = footprints(frame, low_res)
    assert (np.diff(down.first) >= 0).all()
    assert down.pixels.sum() == frame.image_size[0]
    assert across.pixels.sum() == frame.image_size[1]
    chance = np.random.default_rng(3)
    logits = chance.normal(size=low_res).astype(np.float32)
    full = frame.logits_to_image(logits)
    for y, x in zip(
        chance.integers(0, frame.image_size[0], 25), chance.integers(0, frame.image_size[1], 25), strict=True
    ):
        other = chance.normal(0, 100, low_res).astype(np.float32)
        rows = slice(down.first[y], down.first[y] + down.taps)
        columns = slice(across.first[x], across.first[x] + across.taps)
        other[rows, columns] = logits[rows, columns]
        assert frame.logits_to_image(other)[y, x] == pytest.approx(full[y, x], abs=1e-5)


@pytest.mark.parametrize(("frame", "low_res"), FRAMES[:7], ids=str)
def test_pixels_of_the_network_frame_make_pixels_of_the_image(frame: Frame, low_res: tuple[int, int]) -> None:
    """Footprints of its pixels by one pixel alone at a time."""
    for axis, footprint in enumerate(network_footprints(frame)):
        cells, pixels = frame.resized_size[axis], frame.image_size[axis]
        reached = np.zeros((cells, pixels), dtype=bool)
        for cell in range(cells):
            alone = np.zeros(frame.network_size, dtype=np.float32)
            alone[(slice(None), cell) if axis else (cell, slice(None))] = 1
            image = bilinear(
                alone[: frame.resized_size[0], : frame.resized_size[1]], np.empty(frame.image_size, "f")
            )
            reached[cell] = (image != 0).any(axis=1 - axis)
        for pixel in range(pixels):
            made_of = np.flatnonzero(reached[:, pixel])
            first = int(footprint.first[pixel])
            assert first <= made_of[0]
            assert made_of[-1] < first + footprint.taps
        starts = [int((footprint.first < cell).sum()) for cell in range(len(footprint.pixels) + 1)]
        assert footprint.begins == starts


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["smooth", "noise", "one cell", "flat"]),
    case=st.integers(0, len(FRAMES) - 1),
    thresh=st.sampled_from([0.0, 0.05, 0.3, 0.6, 0.95]),
    offset=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
)
def test_boxes_lie_between_their_bounds_and_get_closer(
    seed: int, kind: str, case: int, thresh: float, offset: float
) -> None:
    """Of many planes at once, and of each from its own cells alone, with those of others left in the reader."""
    frame, low_res = FRAMES[case]
    reader = MaskReader(frame, low_res, 0.0, offset, thresh)
    planes = np.stack([plane(seed + index, low_res, kind) for index in range(4)])
    for logits, bounds, unstable in zip(planes, reader.bounds(planes), reader.unstable(planes), strict=True):
        mask, stability = naive(frame, logits, offset)
        cells = logits[bounds.cells].copy()
        look = reader.look(cells, bounds)
        assert reader.read(cells, bounds) == stability
        assert reader.runs().area == mask.sum()
        if unstable or look.unstable():
            assert stability < np.float32(thresh) or not (frame.logits_to_image(logits) > offset).any()
        true = masks_to_boxes_published(mask).tolist()
        for inner, outer in ((bounds.inner_box, bounds.outer_box), (look.inner_box, look.outer_box)):
            if not mask.any():
                assert inner == NOWHERE
                continue
            assert inner == NOWHERE or holds(true, inner)
            assert holds(outer, true)


def holds(outer: Any, inner: Any) -> bool:
    """Whether a box holds another."""
    return bool(
        outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
    )


def test_a_closer_look_is_close() -> None:
    """A disc as of a photo: within two pixels of the network on each side, and large ones have an inner box at once."""
    frame, low_res = Frame((600, 800), 448, 32), (88, 112)
    reader = MaskReader(frame, low_res, 0.0, 1.0, 0.5)
    rows, columns = np.mgrid[:88, :112]
    for radius in (5, 12, 25, 35):
        logits = (2 * (radius - np.hypot(rows - 40.3, columns - 55.8))).astype(np.float32)
        (bounds,) = reader.bounds(logits[None])
        look = reader.look(logits[bounds.cells], bounds)
        true = masks_to_boxes_published(frame.logits_to_masks(logits)[None])[0]
        assert np.abs(np.array(look.inner_box) - true).max() <= 2 * 800 / 448 + 1
        assert np.abs(np.array(look.outer_box) - true).max() <= 2 * 800 / 448 + 1
        assert (bounds.inner_box != NOWHERE) == (radius > 12)
        assert not look.unstable()


@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(st.integers(0, 12), min_size=12, max_size=12))
def test_overlaps_are_at_least_what_the_bounds_say(numbers: list[int]) -> None:
    (a, b, inner, outer) = (np.array(numbers).reshape(4, 3)[:, k] for k in (0, 1, 2, 2))
    box = (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
    other = (min(a[2], b[2]), min(a[3], b[3]), max(a[2], b[2]), max(a[3], b[3]))
    low = tuple(int(v) for v in (other[0] + inner[0] % 3, other[1], other[2], other[3] - inner[1] % 3))
    high = tuple(int(v) for v in (other[0], other[1] - outer[2] % 3, other[2] + outer[3] % 3, other[3]))
    least = float(least_overlaps(box, low, high))
    assert least <= float(published_overlaps(box, [other])[0]) + 1e-6
    exact = float(least_overlaps(box, other, other))
    assert exact == pytest.approx(float(published_overlaps(box, [other])[0]), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_damaged_answers_are_refused(bad: float) -> None:
    logits = np.zeros((16, 16), dtype=np.float32)
    logits[3, 4] = bad
    with pytest.raises(ModelError, match="NaN or infinity"):
        MaskReader(*FRAMES[0], 0.0).stability(logits)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    share=st.floats(0, 1),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_runs_of_a_crop_placed_in_an_image(
    seed: int, height: int, width: int, share: float, margins: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = margins
    mask = np.random.default_rng(seed).random((height, width)) < share
    columns = np.zeros((width, height + 1), dtype=bool)
    columns[:, 1:] = mask.T
    runs = Runs.of_columns(columns, 0)
    whole = np.zeros((top + height + bottom, left + width + right), dtype=bool)
    whole[top : top + height, left : left + width] = mask
    counts = runs.counts((left, top), whole.shape)
    assert counts.tolist() == rle.encode_counts(whole).tolist()
    assert runs.area == mask.sum()


def test_stability_of_nothing_is_zero() -> None:
    assert published_stability(0, 0) == 0.0
    assert published_stability(1, 3) == float(np.float32(1) / np.float32(3))
