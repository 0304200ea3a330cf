"""Laws of run lengths and polygons, over masks hypothesis finds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from anymask.masks import rle
from anymask.masks.polygons import mask_to_polygons, polygons_to_mask

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


@settings(max_examples=300, deadline=None)
@given(masks)
def test_run_length_laws(mask):
    record = rle.encode(mask)
    counts, size = rle.parse(record)
    assert np.array_equal(rle.decode(record), mask)
    complement = rle.encode_counts(~mask)
    assert rle.encode(~rle.decode_counts(complement, size)) == record
    assert rle.area(counts) + rle.area(complement) == mask.size
    assert rle.intersection(counts, complement) == 0
    assert rle.iou(counts, counts) == 1.0
    assert size == mask.shape
    assert (counts[1:] > 0).all()  # canonical: only the first run may be empty


@settings(max_examples=200, deadline=None)
@given(masks)
def test_polygons_are_the_mask(mask):
    polygons = mask_to_polygons(mask)
    assert np.array_equal(polygons_to_mask(polygons, *mask.shape), mask)
    assert sum(polygon.area for polygon in polygons) == mask.sum()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**26), min_size=1, max_size=30))
def test_text_round_trip(counts):
    array = np.array(counts, dtype=np.int64)
    assert rle.counts_from_string(rle.counts_to_string(array)).tolist() == counts
