"""The cubic spline against scikit-image and against its own definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.resampling import cubic_spline

SHAPES = [(90, 70), (300, 400), (1, 50), (2, 3), (128, 128), (3, 1), (513, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (7, 200)])
def test_it_is_scikit_images(shape, size):
    """Measured 4e-13 on values to 255; smaller and larger, to one sample and from one."""
    transform = pytest.importorskip("skimage.transform")
    plane = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    expected = transform.resize(plane, size, order=3, preserve_range=True, anti_aliasing=True, clip=False)
    assert np.abs(cubic_spline(plane, size) - expected).max() < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_at_its_own_size_it_passes_through_the_samples(height, width, seed):
    plane = np.random.default_rng(seed).normal(0, 100, (height, width))
    assert np.abs(cubic_spline(plane, (height, width)) - plane).max() < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_constants_and_the_order_of_axes(height, width, rows, columns):
    assert np.abs(cubic_spline(np.full((height, width), 3.5), (rows, columns)) - 3.5).max() < 1e-9
    plane = np.random.default_rng(height * width).normal(size=(height, width))
    across = cubic_spline(plane.T, (columns, rows)).T
    assert np.abs(cubic_spline(plane, (rows, columns)) - across).max() < 1e-9


def test_a_parabola_between_its_samples():
    """Cubic splines repeat polynomials up to the third degree, far from the mirrored edges."""
    x = np.arange(200.0)
    plane = np.tile(0.01 * (x - 90) ** 2 - x, (3, 1))
    places = (np.arange(1000) + 0.5) / 5 - 0.5
    inner = slice(250, 750)
    expected = 0.01 * (places - 90) ** 2 - places
    assert np.abs(cubic_spline(plane, (3, 1000))[:, inner] - expected[inner]).max() < 1e-9


def test_what_shrinks_is_smoothed_first():
    """Stripes finer than the new samples become their mean instead of a pattern that is not there."""
    stripes = np.tile([0.0, 255.0], (8, 400))
    assert np.abs(cubic_spline(stripes, (8, 100))[:, 5:-5] - 127.5).max() < 1.0
