"""Regions against scipy, and the published clean-up written out with scipy's labels."""

import numpy as np
import pytest
from scipy import ndimage

from anymask.errors import MaskError
from anymask.masks.regions import connected_components, remove_small_regions

EIGHT = np.ones((3, 3))


def masks(count=300, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = rng.integers(1, 20, 2)
        yield rng.random((height, width)) < rng.random()


def published(mask, threshold, mode):
    """remove_small_regions of segment_anything/utils/amg.py, told with scipy."""
    labels, count = ndimage.label(~mask if mode == "holes" else mask, EIGHT)
    areas = [int((labels == k).sum()) for k in range(1, count + 1)]
    small = [k for k, area in enumerate(areas, 1) if area < threshold]
    if not small:
        return mask, False
    if mode == "holes":
        return mask | np.isin(labels, small), True
    large = [k for k in range(1, count + 1) if k not in small] or [1 + int(np.argmax(areas))]
    return np.isin(labels, large), True


def test_components_equal_scipy():
    for mask in masks():
        labels, areas = connected_components(mask)
        expected, count = ndimage.label(mask, EIGHT)
        assert len(areas) == count + 1
        assert areas.tolist() == np.bincount(labels.ravel(), minlength=count + 1).tolist()
        pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == count + 1 - (not (~mask).any())  # one to one


@pytest.mark.parametrize("mode", ["holes", "islands"])
@pytest.mark.parametrize("threshold", [0, 1, 3, 8, 1000])
def test_clean_up_equals_the_published_rule(mode, threshold):
    for mask in masks(seed=threshold):
        cleaned, changed = remove_small_regions(mask, threshold, mode)
        expected, expected_changed = published(mask, threshold, mode)
        assert changed == expected_changed
        if mode == "islands" and changed and not _one_largest(mask, threshold):
            assert cleaned.sum() == expected.sum()  # two equally large: either may stay
        else:
            assert np.array_equal(cleaned, expected)


def _one_largest(mask, threshold):
    labels, count = ndimage.label(mask, EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return (areas >= threshold).any() or (areas == areas.max()).sum() == 1


def test_bad_input():
    with pytest.raises(MaskError, match="mode"):
        remove_small_regions(np.zeros((2, 2), bool), 1, "both")
    with pytest.raises(MaskError, match="uint8"):
        connected_components(np.zeros((2, 2), np.uint8))
