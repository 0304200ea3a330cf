"""The RLE codec against pycocotools and against masks."""

import numpy as np
import pytest
from pycocotools import mask as coco

from anymask.errors import RleError
from anymask.masks import rle
from anymask.masks.boxes import mask_to_box


def oracle(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def random_masks(count, seed, largest=40):
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = rng.integers(1, largest, 2)
        if index % 2:
            yield rng.random((height, width)) < rng.random()
        else:  # boxes, which are nearer to what masks are
            mask = np.zeros((height, width), dtype=bool)
            for _ in range(rng.integers(0, 4)):
                y, x = rng.integers(0, height), rng.integers(0, width)
                mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] ^= True
            yield mask


def test_ten_thousand_round_trips_equal_to_pycocotools():
    for mask in random_masks(10_000, seed=0):
        record = rle.encode(mask)
        expected = oracle(mask)
        assert record["counts"] == expected["counts"].decode()
        assert record["size"] == list(expected["size"])
        assert np.array_equal(rle.decode(record), mask)


def test_area_and_box_without_decoding():
    for mask in random_masks(2_000, seed=1):
        counts = rle.encode_counts(mask)
        assert rle.area(counts) == mask.sum()
        assert rle.box(counts, mask.shape) == mask_to_box(mask)


def test_iou_equals_pycocotools():
    rng = np.random.default_rng(2)
    for _ in range(500):
        height, width = rng.integers(1, 30, 2)
        first, second = (rng.random((2, height, width)) < rng.random((2, 1, 1))).astype(bool)
        common = int((first & second).sum())
        counts = rle.encode_counts(first), rle.encode_counts(second)
        assert rle.intersection(*counts) == common
        if (first | second).any():
            assert rle.iou(*counts) == pytest.approx(coco.iou([oracle(first)], [oracle(second)], [0])[0, 0])
    empty = rle.encode_counts(np.zeros((3, 3), bool))
    assert rle.iou(empty, empty) == 1.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (65535, 1), (1, 65535), (2000, 1500)])
@pytest.mark.parametrize("fill", [0, 1])
def test_plain_and_large(shape, fill):
    mask = np.full(shape, fill, dtype=bool)
    assert rle.encode(mask)["counts"] == oracle(mask)["counts"].decode()
    assert np.array_equal(rle.decode(rle.encode(mask)), mask)


def test_a_known_record():
    # COCO's own reading: two columns of three, the second column set: runs 3, 3
    mask = np.array([[0, 1], [0, 1], [0, 1]], dtype=bool)
    assert rle.encode_counts(mask).tolist() == [3, 3]
    assert rle.encode(mask) == {"size": [3, 2], "counts": "33"}


def test_column_order_and_memory_order_do_not_matter():
    mask = np.random.default_rng(3).random((30, 17)) < 0.4
    expected = rle.encode(mask)
    assert rle.encode(np.asfortranarray(mask)) == expected
    assert rle.encode(np.repeat(mask, 2, axis=0)[::2]) == expected
    assert rle.decode(expected).flags.c_contiguous


def test_uncompressed_bytes_and_numpy_forms_are_read():
    mask = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    counts = rle.encode_counts(mask)
    assert counts.tolist() == [0, 1, 1, 2, 2]
    text = rle.counts_to_string(counts)
    forms = [counts.tolist(), tuple(counts.tolist()), counts, counts.astype(np.uint32), text, text.encode()]
    for form in forms:
        assert np.array_equal(rle.decode({"size": (2, 3), "counts": form}), mask)
    assert np.array_equal(rle.decode({"size": np.array([2, 3]), "counts": text}), mask)


def test_empty_runs_in_the_middle_are_legal():
    assert rle.decode({"size": [1, 4], "counts": [1, 0, 2, 1]}).tolist() == [[False, False, False, True]]
    assert rle.box(np.array([1, 0, 2, 1]), (1, 4)) == (3, 0, 4, 1)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1, 2], "mapping"),
        ({"size": [2, 2]}, "'size' and 'counts'"),
        ({"size": [2], "counts": "4"}, r"\[height, width\]"),
        ({"size": "22", "counts": "4"}, r"\[height, width\]"),
        ({"size": [2.0, 2], "counts": "4"}, "whole"),
        ({"size": [True, 4], "counts": "4"}, "whole"),
        ({"size": [0, 4], "counts": "0"}, "from 1"),
        ({"size": [-2, -2], "counts": "4"}, "from 1"),
        ({"size": [10**30, 1], "counts": "4"}, "from 1"),
        ({"size": [65535, 65535], "counts": "4"}, "over the limit"),
        ({"size": [2, 2], "counts": ""}, "empty"),
        ({"size": [2, 2], "counts": []}, "whole numbers"),
        ({"size": [2, 2], "counts": "3"}, "add up to 3, not 2 x 2 = 4"),
        ({"size": [2, 2], "counts": "32"}, "add up to 5"),
        ({"size": [2, 2], "counts": [5, -1]}, "-1"),
        ({"size": [2, 2], "counts": [2.0, 2.0]}, "whole numbers"),
        ({"size": [2, 2], "counts": [[2, 2]]}, "flat"),
        ({"size": [2, 2], "counts": [2, [2]]}, "flat"),
        ({"size": [2, 2], "counts": [True, True]}, "whole numbers"),
        ({"size": [2, 2], "counts": [2**63, 2]}, "whole numbers"),
        ({"size": [2, 2], "counts": [2**62, 2**62]}, "over the limit"),
        ({"size": [2, 2], "counts": [10**30]}, "whole numbers"),
        ({"size": [2, 2], "counts": 4}, "text or a list"),
        ({"size": [2, 2], "counts": None}, "text or a list"),
        ({"size": [2, 2], "counts": "4~"}, "'~' at position 1"),
        ({"size": [2, 2], "counts": "4/"}, "'/' at position 1"),
        ({"size": [2, 2], "counts": "4é"}, "ASCII"),
        ({"size": [2, 2], "counts": "P"}, "cut short"),
        ({"size": [2, 2], "counts": "PPPPPPP0"}, "8 groups"),
        ({"size": [2, 2], "counts": "@"}, "negative count -16"),
    ],
)
def test_what_is_refused(record, words):
    with pytest.raises(RleError, match=words):
        rle.decode(record)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2)), np.zeros((2, 2, 2), bool), np.zeros((0, 4), bool), np.bool_(True)]
)
def test_what_cannot_be_encoded(mask):
    with pytest.raises(RleError):
        rle.encode(mask)
