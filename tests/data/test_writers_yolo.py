"""YOLO labels: what is written is the mask, and what cannot be is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odd_masks import HEIGHT, WIDTH, odd_arrays, odd_masks
from pictures_on_disk import save_picture

from anymask.data.dataset import Dataset
from anymask.data.writers.yolo import data_yaml, yolo_labels
from anymask.data.yolo import YoloDataset, class_names, parse_labels
from anymask.errors import DatasetError, InputError
from anymask.masks import rle
from anymask.masks.polygons import Polygon, polygons_to_mask
from anymask.types import Mask

ANY_MASK = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def drawn_by_shapely(line: str, height: int, width: int) -> np.ndarray:
    """The pixels whose centre lies in the ring of a line."""
    shares = np.array(line.split()[1:], dtype=float).reshape(-1, 2)
    polygon = shapely.Polygon(shares * [width, height])
    rows, columns = np.mgrid[:height, :width] + 0.5
    return shapely.contains_xy(polygon, columns, rows)


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return (one & two).sum() / (one | two).sum()


def test_a_box_by_hand() -> None:
    array = np.zeros((10, 20), dtype=bool)
    array[2:7, 5:15] = True
    labels = yolo_labels([Mask(array, 0.5)], classes=[3])
    kind, *shares = labels.text.split()
    corners = {(float(x), float(y)) for x, y in zip(shares[::2], shares[1::2], strict=True)}
    assert kind == "3"
    assert corners == {(0.25, 0.2), (0.75, 0.2), (0.75, 0.7), (0.25, 0.7)}
    assert len(shares) == 8
    assert (labels.simplified, labels.left_out) == ((), ())


def test_what_a_ring_cannot_hold_is_told_or_left_out() -> None:
    names = list(odd_arrays())
    labels = yolo_labels(odd_masks())
    left_out = {names[number]: outline for number, outline in labels.left_out}
    simplified = {names[number]: outline for number, outline in labels.simplified}
    assert set(left_out) == {"hole", "island in a hole", "two parts", "corners that touch"}
    assert set(simplified) == {"small hole", "small second part"}
    assert (left_out["hole"].parts, left_out["hole"].holes) == (1, 1)
    assert (left_out["island in a hole"].parts, left_out["island in a hole"].holes) == (2, 1)
    assert left_out["hole"].iou == (25 * 25 - 10 * 10) / (25 * 25)
    assert left_out["two parts"].iou == 15 * 13 / (15 * 13 + 100)
    assert simplified["small hole"].iou == (48 * 33 - 1) / (48 * 33)
    assert simplified["small second part"].iou == 1200 / 1202
    written = [array for name, array in odd_arrays().items() if name not in left_out]
    for line, array in zip(labels.text.splitlines(), written, strict=True):
        assert overlap(drawn_by_shapely(line, HEIGHT, WIDTH), array) >= 0.99


def test_an_empty_mask_is_left_out() -> None:
    labels = yolo_labels([Mask(np.zeros((3, 3), dtype=bool), 0.5)])
    assert labels.text == ""
    assert [number for number, _ in labels.left_out] == [0]


@given(ANY_MASK, st.sampled_from([0.0, 0.8, 3.0]))
def test_the_overlap_told_is_the_overlap_read(array: np.ndarray, tolerance: float) -> None:
    labels = yolo_labels([Mask(array, 0.5)], tolerance=tolerance)
    if not labels.text:
        assert len(labels.left_out) == 1
        return
    told = labels.simplified[0][1].iou if labels.simplified else 1.0
    ((_, ring),) = parse_labels(labels.text.encode(), "labels", array.shape)
    assert told >= 0.99
    assert overlap(polygons_to_mask([Polygon(ring)], *array.shape), array) == told
    if not tolerance:  # a thinned ring may pass through a centre, where the two rules differ
        assert overlap(drawn_by_shapely(labels.text, *array.shape), array) == told


def test_classes_must_go_with_the_masks() -> None:
    with pytest.raises(InputError, match="13 masks need as many class numbers"):
        yolo_labels(odd_masks(), classes=[0])
    with pytest.raises(InputError, match="0 or more"):
        yolo_labels(odd_masks(lambda name: name == "disc"), classes=[-1])


def write_set(root: Path, masks: list[Mask], names: tuple[str, ...] = ("object",)) -> None:
    for name in ("b", "a", "bare"):
        save_picture(root / "images" / f"{name}.png", HEIGHT, WIDTH)
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(yolo_labels(masks).text)
    (root / "labels/b.txt").write_text("")
    (root / "data.yaml").write_text(data_yaml(names))


def test_our_reader_gives_the_masks_back_exactly(tmp_path: Path) -> None:
    holds = {
        "disc",
        "box at the corner",
        "box at the far corner",
        "one pixel",
        "line",
        "everything",
        "stairs",
    }
    write_set(tmp_path, odd_masks(lambda name: name in holds))
    dataset = YoloDataset(tmp_path)
    assert isinstance(dataset, Dataset)
    assert dataset.keys() == ["a", "b", "bare"]
    first, *others = dataset
    wanted = [array for name, array in odd_arrays().items() if name in holds]
    for record, array in zip(first.annotations, wanted, strict=True):
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), array)
        assert record["category"] == "object"
    assert [len(sample.annotations) for sample in others] == [0, 0]


def test_other_readers_understand_the_yaml(tmp_path: Path) -> None:
    names = ("object", 'a "quoted" one', "two: words", "ö")
    document = yaml.safe_load(data_yaml(names))
    assert document == {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(names))}
    (tmp_path / "data.yaml").write_text(data_yaml(names))
    assert class_names(tmp_path / "data.yaml") == dict(enumerate(names))


@pytest.mark.parametrize(
    "text",
    [
        "names:\n  0: cat\n  1: dog\nnc: 2\n",
        "nc: 2\nnames: ['cat', \"dog\"]\n",
        "names: {0: cat, 1: dog}",
        "names:\n- cat\n- dog\ntrain: x\n",
        "names:\n  - cat\n  - 'dog'\n",
    ],
)
def test_the_usual_forms_of_names_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert class_names(tmp_path / "data.yaml") == {0: "cat", 1: "dog"}
    assert yaml.safe_load(text)["names"] in (["cat", "dog"], {0: "cat", 1: "dog"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.1 0.1", "a box, not a ring"),
        ("0 0.1 0.1 0.2 0.2 0.3", "three or more x and y"),
        ("0 0.1 0.1", "three or more"),
        ("-1 0.1 0.1 0.2 0.2 0.3 0.1", "three or more"),
        ("0 0.1 0.1 0.2 0.2 1.3 0.1", "not from 0 to 1"),
        ("0 0.1 0.1 0.2 nan 0.3 0.1", "not from 0 to 1"),
        ("cat 0.1 0.1 0.2 0.2 0.3 0.1", "no list of numbers"),
        ("\xff", "no list of numbers"),
    ],
)
def test_bad_lines_are_refused_with_their_number(line: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        parse_labels(f"0 0 0 1 0 1 1\n\n{line}\n".encode("latin-1"), "a.txt", (4, 4))
    assert "line 3" in str(caught.value)


def test_folders_that_are_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="as a folder"):
        YoloDataset(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="no picture"):
        YoloDataset(tmp_path)
    save_picture(tmp_path / "images/a.png", 3, 3)
    save_picture(tmp_path / "images/a.jpg", 3, 3)
    with pytest.raises(DatasetError, match="two pictures called 'a'"):
        YoloDataset(tmp_path)
