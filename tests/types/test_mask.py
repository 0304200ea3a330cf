"""Mask and MaskSet: both births give the same views; records follow the published key set."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools import mask as coco

from anymask.errors import MaskError, OutputError, RleError
from anymask.types import Mask, MaskSet


@pytest.fixture
def array():
    array = np.zeros((20, 30), dtype=bool)
    array[3:9, 5:17] = True
    array[5, 7] = False
    return array


def both(array, **more):
    born = Mask(array, 0.9, **more)
    return [born, Mask.from_rle(born.rle, 0.9, **more)]


def test_both_births_agree(array):
    oracle = coco.encode(np.asfortranarray(array.astype(np.uint8)))
    for mask in both(array):
        assert np.array_equal(mask.array, array)
        assert mask.area == int(coco.area(oracle)) == 71
        assert mask.rle == {"size": [20, 30], "counts": oracle["counts"].decode()}
        assert mask.box_xyxy == (5, 3, 17, 9)
        assert mask.size == (20, 30)
        assert not mask.array.flags.writeable
        assert [polygon.area for polygon in mask.polygons()] == [71.0]


def test_immutable_and_a_copy(array):
    mask = Mask(array, 1)
    array[:] = True
    assert mask.area == 71
    with pytest.raises(AttributeError):
        mask.score = 2
    with pytest.raises(AttributeError):
        del mask.score
    with pytest.raises(ValueError, match="read-only"):
        mask.array[0, 0] = True
    with pytest.raises(ValueError, match="read-only"):
        mask.counts[0] = 1


def test_empty_mask():
    for mask in both(np.zeros((4, 5), dtype=bool)):
        assert (mask.area, mask.box_xyxy, mask.polygons()) == (0, (0, 0, 0, 0), [])
        assert mask.to_record(0)["bbox"] == [0, 0, 0, 0]


def test_saved_png(array, tmp_path):
    path = Mask(array, 1).save(tmp_path / "m.png")
    with PillowImage.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), array * np.uint8(255))
    with pytest.raises(OutputError, match=r"m\.jpg"):
        Mask(array, 1).save(tmp_path / "m.jpg")
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


def test_record_is_the_published_one(array):
    mask = Mask(array, 0.75, stability_score=0.5, point=(6.5, 4.5), crop_box=(2, 1, 22, 19))
    record = json.loads(json.dumps(mask.to_record(7)))
    assert list(record) == [
        "id",
        "segmentation",
        "bbox",
        "area",
        "predicted_iou",
        "stability_score",
        "crop_box",
        "point_coords",
    ]
    # rows 3..8 and columns 5..16: the published box keeps inclusive maxima, so width and height are one less
    assert record["bbox"] == [5, 3, 11, 5]
    assert record["crop_box"] == [2, 1, 20, 18]
    assert record["point_coords"] == [[6.5, 4.5]]
    assert (record["id"], record["area"], record["predicted_iou"], record["stability_score"]) == (
        7,
        71,
        0.75,
        0.5,
    )
    assert np.array_equal(coco.decode(record["segmentation"]).astype(bool), array)


def test_record_without_extras(array):
    record = Mask(array, 0.75).to_record(0)
    assert (record["point_coords"], record["crop_box"], record["stability_score"]) == (
        [],
        [0, 0, 30, 20],
        None,
    )


def test_pickle_keeps_everything(array):
    mask = Mask(
        array, 0.5, low_res_logits=np.ones((4, 4), np.float32), stability_score=0.25, point=(1.0, 2.0)
    )
    back = pickle.loads(pickle.dumps(mask))
    assert np.array_equal(back.array, array)
    assert (back.score, back.stability_score, back.point, back.crop_box) == (0.5, 0.25, (1.0, 2.0), None)
    assert np.array_equal(back.low_res_logits, mask.low_res_logits)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: Mask(a.astype(np.uint8), 1), "bool"),
        (lambda a: Mask(a[None], 1), "2-D"),
        (lambda a: Mask(a[:0], 1), "non-empty"),
        (lambda a: Mask(a.tolist(), 1), "list"),
        (lambda a: Mask(a, float("nan")), "score"),
        (lambda a: Mask(a, 1, stability_score=float("inf")), "stability_score"),
        (lambda a: Mask(a, 1, point=(1, 2, 3)), "point"),
        (lambda a: Mask(a, 1, crop_box=(1, 2, float("nan"), 4)), "crop_box"),
        (lambda a: Mask(a, 1, low_res_logits=np.ones((1, 4, 4), np.float32)), "low_res_logits"),
    ],
)
def test_what_is_refused(array, call, words):
    with pytest.raises(MaskError, match=words):
        call(array)


def test_unsound_rle_is_refused():
    with pytest.raises(RleError, match="add up"):
        Mask.from_rle({"size": [2, 2], "counts": "3"}, 1.0)


def test_maskset_is_best_first_and_stable(array):
    scores = [0.2, 0.9, 0.5, 0.9]
    masks = [Mask(array, score, point=(index, 0)) for index, score in enumerate(scores)]
    ordered = MaskSet(masks)
    assert [mask.point[0] for mask in ordered] == [1, 3, 2, 0]
    assert ordered.scores.tolist() == [0.9, 0.9, 0.5, 0.2]
    assert ordered.image_size == (20, 30)
    assert len(ordered[1:]) == 3
    assert ordered[-1].score == 0.2
    assert [record["id"] for record in ordered.to_records()] == [0, 1, 2, 3]


def test_maskset_of_one_size_only(array):
    with pytest.raises(MaskError, match=r"\(20, 30\).*\(30, 20\)"):
        MaskSet([Mask(array, 1), Mask(array.T, 0.5)])
    with pytest.raises(MaskError, match="image_size"):
        MaskSet([])
    assert len(MaskSet([], image_size=(2, 3))) == 0
    assert len(MaskSet([Mask(array, 1)])[:0]) == 0
