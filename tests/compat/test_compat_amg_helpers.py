"""The helpers of `utils.amg` against pycocotools, cv2-free definitions and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
coco = pytest.importorskip("pycocotools.mask")

from anymask.compat.utils import amg  # noqa: E402
from anymask.errors import InputError  # noqa: E402


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    rng = np.random.default_rng(2)
    coarse = rng.random((5, 6, 8)) > 0.6
    coarse[3], coarse[4] = False, True
    return torch.from_numpy(np.kron(coarse, np.ones((1, 3, 4), dtype=bool)))


def test_run_lengths_are_pycocotools(masks):
    records = amg.mask_to_rle_pytorch(masks)
    for mask, record in zip(masks.numpy(), records, strict=True):
        assert record["size"] == [18, 32]
        assert all(type(count) is int for count in record["counts"])
        compressed = amg.coco_encode_rle(record)
        assert (
            compressed["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        )
        assert isinstance(compressed["counts"], str)
        assert amg.area_from_rle(record) == amg.area_from_rle(compressed) == mask.sum()
        assert np.array_equal(amg.rle_to_mask(record), mask)
        assert np.array_equal(amg.rle_to_mask(compressed), mask)


def test_boxes_have_inclusive_maxima(masks):
    boxes = amg.batched_mask_to_box(masks)
    assert boxes.dtype == torch.int64
    for mask, box in zip(masks.numpy(), boxes.tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max(), rows.max()] if mask.any() else [0, 0, 0, 0]
        assert box == expected
    assert amg.batched_mask_to_box(masks[0]).tolist() == boxes[0].tolist()
    assert amg.batched_mask_to_box(masks[None]).shape == (1, 5, 4)


def test_a_box_as_corner_and_size():
    for box in ([3, 4, 10, 20], np.array([3, 4, 10, 20]), torch.tensor([3, 4, 10, 20])):
        given = list(box)
        assert list(amg.box_xyxy_to_xywh(box)) == [3, 4, 7, 16]
        assert list(box) == given


def test_stability_counts_pixels():
    logits = torch.tensor([[[3.0, 0.5, -0.5, -3.0]], [[9.0, 9.0, 9.0, 9.0]]])
    assert amg.calculate_stability_score(logits, 0.0, 1.0).tolist() == pytest.approx([1 / 3, 1.0])
    assert amg.calculate_stability_score(logits, 0.0, 1.0).dtype == torch.float32


def test_grids_and_crops():
    grid = amg.build_point_grid(3)
    assert grid.tolist() == pytest.approx(
        np.array([[x, y] for y in (1 / 6, 3 / 6, 5 / 6) for x in (1 / 6, 3 / 6, 5 / 6)])
    )
    assert [len(layer) for layer in amg.build_all_layer_point_grids(8, 2, 2)] == [64, 16, 4]
    boxes, layers = amg.generate_crop_boxes((100, 200), 1, 0.2)
    assert boxes == [
        [0, 0, 200, 100],
        [0, 0, 110, 60],
        [0, 40, 110, 100],
        [90, 0, 200, 60],
        [90, 40, 200, 100],
    ]
    assert layers == [0, 1, 1, 1, 1]


def test_what_lies_in_a_crop_lies_in_the_image():
    crop = [10, 20, 14, 25]
    assert amg.uncrop_points(torch.tensor([[1, 2]]), crop).tolist() == [[11, 22]]
    assert amg.uncrop_points(torch.zeros(2, 3, 2), crop).shape == (2, 3, 2)
    assert amg.uncrop_boxes_xyxy(torch.tensor([[1, 2, 3, 4]]), crop).tolist() == [[11, 22, 13, 24]]
    inside = amg.uncrop_masks(torch.ones(2, 5, 4, dtype=torch.bool), crop, 40, 30)
    assert inside.shape == (2, 40, 30)
    assert inside[0].sum() == 20
    assert bool(inside[:, 20:25, 10:14].all())
    whole = torch.ones(1, 40, 30)
    assert amg.uncrop_masks(whole, [0, 0, 30, 40], 40, 30) is whole


def test_boxes_at_the_edge_of_a_crop():
    boxes = torch.tensor([[0, 0, 30, 30], [40, 40, 99, 60], [40, 40, 60, 60], [30, 0, 60, 45]])
    # a crop of the left half: only its right edge is none of the image
    near = amg.is_box_near_crop_edge(boxes, [0, 0, 100, 200], [0, 0, 200, 200])
    assert near.tolist() == [False, True, False, False]


def test_small_regions_go():
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:8, 1:8], mask[3, 3], mask[10, 10] = True, False, True
    filled, changed = amg.remove_small_regions(mask, 4, "holes")
    assert changed
    assert filled[3, 3]
    clean, changed = amg.remove_small_regions(filled, 4, "islands")
    assert changed
    assert (clean.sum(), clean[10, 10]) == (49, False)
    assert amg.remove_small_regions(clean, 4, "islands")[1] is False
    with pytest.raises(AssertionError):
        amg.remove_small_regions(mask, 4, "lakes")


def test_batches_hold_all():
    batches = list(amg.batch_iterator(4, list(range(10)), np.arange(10)))
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    assert [item for batch in batches for item in batch[0]] == np.concatenate(
        [b[1] for b in batches]
    ).tolist()
    with pytest.raises(AssertionError) as caught:
        list(amg.batch_iterator(4, [1], [1, 2]))
    assert isinstance(caught.value, InputError)
