"""Laws of the frame, over sizes and points hypothesis finds."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.frame import Frame, Upsampler

sides = st.integers(1, 10_000)
pads = st.one_of(st.just("square"), st.sampled_from([1, 16, 32, 64]))
shares = st.tuples(st.floats(0, 1), st.floats(0, 1))


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(16, 2048), pads, st.lists(shares, min_size=1, max_size=8))
def test_round_trip_and_bounds(height, width, long_side, pad, places):
    frame = Frame((height, width), long_side, pad)
    rows, columns = frame.resized_size
    assert max(rows, columns) == long_side
    assert frame.network_size[0] >= rows >= 1
    assert frame.network_size[1] >= columns >= 1
    # the aspect ratio is kept to half a network pixel, except where a side would vanish
    exact = np.array([height, width]) * (long_side / max(height, width))
    assert (np.abs(np.array([rows, columns]) - np.maximum(exact, 0.5)) <= 0.5 + 1e-9).all()
    points = np.array(places) * (width, height)
    network = frame.points_to_network(points)
    assert (network <= np.array([columns, rows]) + 1e-9).all()
    assert np.abs(frame.points_to_image(network) - points).max() <= 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), pads)
def test_constant_logits_stay_constant(height, width, pad):
    frame = Frame((height, width), 64, pad)
    low_res = np.full(
        (2, max(1, frame.network_size[0] // 4), max(1, frame.network_size[1] // 4)), -3.5, np.float32
    )
    assert np.allclose(frame.logits_to_image(low_res), -3.5, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(16, 2048), st.lists(shares, min_size=1, max_size=8))
def test_stretched_round_trip_and_bounds(height, width, side, places):
    frame = Frame((height, width), side, "square", "stretch")
    assert frame.network_size == frame.resized_size == (side, side)
    points = np.array(places) * (width, height)
    network = frame.points_to_network(points)
    assert np.abs(network - np.array(places) * side).max() <= 1e-6
    assert np.abs(frame.points_to_image(network) - points).max() <= 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["mean_std", "min_max"]), st.floats(-9, 9))
def test_constant_logits_stay_constant_when_stretched(height, width, normalisation, value):
    frame = Frame((height, width), 64, "square", "stretch", normalisation)
    image = frame.logits_to_image(np.full((2, 16, 16), value, np.float32))
    assert np.allclose(image, value, atol=3e-3)  # a probability near 1 has few digits left in float32


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([("square", 64, 4), ("square", 96, 3), (32, 128, 4), (16, 96, 8), (5, 70, 3)]),
    st.integers(0, 2**32 - 1),
)
def test_upsampling_in_used_memory_and_without_the_padding_is_the_same(height, width, kind, seed):
    """Bit for bit what two whole resizes give, plane after plane; the last kind's stride is no whole number."""
    pad, long_side, stride = kind
    frame = Frame((height, width), long_side, pad)
    low_res = tuple(-(-side // stride) for side in frame.network_size)
    upsampler = Upsampler(frame)
    resized = frame.resized_size
    for each in range(3):
        logits = np.random.default_rng([seed, each]).normal(0, 9, low_res).astype(np.float32)
        network = cv2.resize(logits, frame.network_size[::-1], interpolation=cv2.INTER_LINEAR)
        network = network.reshape(frame.network_size)[: resized[0], : resized[1]]
        expected = cv2.resize(network, (width, height), interpolation=cv2.INTER_LINEAR)
        expected = expected.reshape(height, width).tobytes()
        assert upsampler(logits).tobytes() == expected
        assert frame.logits_to_image(logits).tobytes() == expected
        out = np.full((height, width), np.nan, dtype=np.float32)
        assert upsampler(logits, out).tobytes() == expected
