"""Label maps, parts of wholes and duplicates, against plain definitions on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.automatic.select import label_map, merge_duplicates, nest
from anymask.errors import InputError, MaskError
from anymask.types import Mask

SIZE = (24, 30)


def box(x0: int, y0: int, x1: int, y1: int, score: float = 0.5) -> Mask:
    array = np.zeros(SIZE, dtype=bool)
    array[y0:y1, x0:x1] = True
    return Mask(array, score, stability_score=0.9, point=(x0, y0), crop_box=(0, 0, 30, 24))


def random_masks(seed: int, count: int) -> list[Mask]:
    chance = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        x, y = chance.integers(0, 26), chance.integers(0, 20)
        mask = box(x, y, x + chance.integers(0, 14), y + chance.integers(0, 14), chance.integers(0, 5) / 4)
        array = mask.array & (chance.random(SIZE) < chance.choice([0.7, 1.0]))
        masks.append(Mask(array, mask.score))
    return masks


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 8),
    policy=st.sampled_from(["smaller_on_top", "better_on_top"]),
)
def test_a_pixel_has_the_label_of_the_mask_on_top(seed: int, count: int, policy: str) -> None:
    masks = random_masks(seed, count)
    labels = label_map(masks, policy)
    assert labels.dtype == np.int32
    for y, x in np.ndindex(SIZE):
        here = [i for i, mask in enumerate(masks) if mask.array[y, x]]
        if policy == "smaller_on_top":
            here.sort(key=lambda i: (masks[i].area, i))
        else:
            here.sort(key=lambda i: (-masks[i].score, i))
        assert labels[y, x] == (here[0] + 1 if here else 0)


def test_label_maps_of_nothing_and_of_nonsense() -> None:
    assert label_map([], image_size=(2, 3)).tolist() == [[0] * 3] * 2
    with pytest.raises(MaskError, match="image_size"):
        label_map([])
    with pytest.raises(MaskError, match="one size"):
        label_map([box(0, 0, 1, 1), Mask(np.ones((2, 2), dtype=bool), 1.0)])
    with pytest.raises(InputError, match="policy"):
        label_map([box(0, 0, 1, 1)], "larger_on_top")


def test_a_wheel_is_part_of_a_car_is_part_of_a_scene() -> None:
    masks = [
        box(0, 0, 30, 24),  # scene
        box(4, 4, 20, 16),  # car
        box(5, 12, 8, 16),  # wheel
        box(14, 12, 24, 16),  # six tenths of it on the car: no part of it
        box(5, 12, 8, 16),  # the wheel again: part of the first
    ]
    tree = nest(masks)
    assert tree.parents == (None, 0, 1, 0, 2)
    assert tree.roots == (0,)
    assert tree.children(0) == (1, 3)
    assert [tree.depth(index) for index in range(5)] == [0, 1, 2, 1, 3]
    assert list(tree.walk()) == [(0, 0), (1, 1), (2, 2), (4, 3), (3, 1)]
    assert nest(masks, containment=0.6).parents[3] == 1
    assert nest([]).parents == ()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9), containment=st.sampled_from([0.6, 0.9, 1.0]))
def test_the_parent_is_the_smallest_that_holds_enough(seed: int, count: int, containment: float) -> None:
    masks = random_masks(seed, count)
    tree = nest(masks, containment)
    for part, mask in enumerate(masks):
        holders = [
            whole
            for whole, other in enumerate(masks)
            if mask.area
            and (other.area, -whole) > (mask.area, -part)
            and (mask.array & other.array).sum() >= containment * mask.area
        ]
        wanted = min(holders, key=lambda whole: (masks[whole].area, -whole), default=None)
        assert tree.parents[part] == wanted
    assert sorted(index for index, _ in tree.walk()) == list(range(count))


@pytest.mark.parametrize("containment", [0.5, 1.1, float("nan")])
def test_a_containment_out_of_range(containment: float) -> None:
    with pytest.raises(InputError, match="containment"):
        nest([box(0, 0, 1, 1)], containment)


def test_near_equal_masks_become_one() -> None:
    """IoU 90/100 and 95/100 with the best; the small one beside them has a similar box but few pixels."""
    sparse = np.zeros(SIZE, dtype=bool)
    sparse[0, 0:10] = sparse[9, 0:10] = True
    masks = [box(0, 0, 9, 10, 0.6), box(0, 0, 10, 10, 0.9), Mask(sparse, 0.8), box(0, 0, 10, 9, 0.7)]
    merged = merge_duplicates(masks, 0.9)
    assert [mask.score for mask in merged] == [0.9, 0.8]
    assert merged[0] is masks[1]
    assert len(merge_duplicates(masks, 0.91)) == 4
    assert merge_duplicates([]) == []


def test_majority_and_union_of_a_group() -> None:
    masks = [box(0, 0, 10, 10, 0.9), box(1, 0, 10, 10, 0.6), box(1, 0, 11, 10, 0.5)]
    votes = sum(mask.array.astype(int) for mask in masks)
    majority = merge_duplicates(masks, 0.8, "majority")[0]
    assert (majority.array == (votes >= 2)).all()
    union = merge_duplicates(masks, 0.8, "union")[0]
    assert (union.array == (votes >= 1)).all()
    for mask in (majority, union):
        assert (mask.score, mask.point, mask.crop_box) == (0.9, (0.0, 0.0), (0, 0, 30, 24))
        assert mask.stability_score is None
    same = merge_duplicates([masks[0], masks[0]], 0.8, "majority")
    assert same == [masks[0]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_no_two_survivors_are_near_equal(seed: int, threshold: float) -> None:
    masks = random_masks(seed, 9)
    merged = merge_duplicates(masks, threshold)

    def iou(a: Mask, b: Mask) -> float:
        union = (a.array | b.array).sum()
        return float((a.array & b.array).sum() / union) if union else 1.0

    wanted: list[Mask] = []
    for mask in sorted(masks, key=lambda mask: -mask.score):
        if all(iou(mask, other) < threshold for other in wanted):
            wanted.append(mask)
    assert [id(mask) for mask in merged] == [id(mask) for mask in wanted]


def test_merging_nonsense() -> None:
    with pytest.raises(InputError, match="policy"):
        merge_duplicates([], policy="first")
    with pytest.raises(InputError, match="overlap"):
        merge_duplicates([], iou_threshold=0)
