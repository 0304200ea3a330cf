"""Reading planes: the same as upsampling, comparing and encoding whole planes; bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.automatic.reading import MaskReader, published_stability
from anymask.automatic.runs import Runs
from anymask.automatic.upsampling import footprints, upsample_into
from anymask.errors import ModelError
from anymask.frame import Frame
from anymask.masks import rle
from anymask.masks.boxes import masks_to_boxes_published

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
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].reshape(2, -1)
        assert (reader.holds(x, y) == mask[y, x]).all()


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
def test_upsampling_into_memory_used_again_is_bit_exact(frame: Frame, low_res: tuple[int, int]) -> None:
    network = np.full(frame.network_size, np.nan, dtype=np.float32)
    buffer = np.full(frame.image_size, np.nan, dtype=np.float32)
    for seed in range(4):
        logits = plane(seed, low_res, "noise")
        assert (
            upsample_into(frame, logits, network, buffer).tobytes() == frame.logits_to_image(logits).tobytes()
        )


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
