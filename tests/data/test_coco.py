"""The COCO and LVIS reader against pycocotools on generated folders, and against broken and hostile ones."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures_on_disk import save_picture
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from anymask.data.coco import CocoDataset
from anymask.data.dataset import Dataset
from anymask.errors import DatasetError
from anymask.masks import rle

HEIGHT, WIDTH = 24, 32
SQUARE = [[4.5, 3.0, 14.0, 3.0, 14.0, 12.0, 4.5, 12.0]]


def blob(seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    y, x, r = np.random.default_rng(seed).uniform((4, 4, 3), (20, 28, 9))
    return (rows - y) ** 2 + (columns - x) ** 2 < r**2


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": rle.encode_counts(mask).tolist()}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    record = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": record["size"], "counts": record["counts"].decode()}


def annotation(id: int, image: int, segmentation: Any, **extra: Any) -> dict[str, Any]:
    common = {"id": id, "image_id": image, "category_id": 7, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1.5}
    return {**common, "segmentation": segmentation, **extra}


def document() -> dict[str, Any]:
    """Two images and one without masks; the annotations of the images are mixed."""
    parts = [*SQUARE, [20.0, 10.0, 30.2, 14.7, 19.0, 21.3]]
    return {
        "info": {"description": "made for tests", "nested": [[{"a": "]"}]]},
        "licenses": [],
        "images": [
            {"id": 900, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "sub/à.png", "height": HEIGHT, "width": WIDTH},
            {"id": 50, "file_name": "empty.png", "height": 2, "width": 3},
        ],
        "annotations": [
            annotation(11, 3, SQUARE),
            annotation(12, 900, parts, category_id=8),
            annotation(13, 3, uncompressed(blob(1))),
            annotation(14, 900, compressed(blob(2))),
            annotation(15, 3, uncompressed(np.ones((HEIGHT, WIDTH), dtype=bool)), iscrowd=1),
            annotation(16, 3, [[1.0, 1.0, 1.1, 1.1, 1.0, 1.1]]),  # smaller than a pixel
            annotation(17, 900, []),
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "naïve"}],
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, height, width in (("b", HEIGHT, WIDTH), ("sub/à", HEIGHT, WIDTH), ("empty", 2, 3)):
        save_picture(tmp_path / "images" / f"{name}.png", height, width)
    return tmp_path


def opened(folder: Path, content: dict[str, Any]) -> CocoDataset:
    return CocoDataset(write(folder, content), folder / "images", "set")


def test_every_mask_is_the_one_pycocotools_reads(folder: Path) -> None:
    dataset = opened(folder, document())
    peer = COCO(str(dataset.annotations))
    assert isinstance(dataset, Dataset)
    assert dataset.keys() == ["b", "sub/à", "empty"]
    for sample, image in zip(dataset, (900, 3, 50), strict=True):
        loaded = {
            each["id"]: peer.annToMask(each).astype(bool)
            for each in peer.imgToAnns[image]
            if not each["iscrowd"] and each["segmentation"]  # pycocotools reads no empty list
        }
        expected = {id: mask for id, mask in loaded.items() if mask.any()}
        assert [record["id"] for record in sample.annotations] == list(expected)
        for record in sample.annotations:
            np.testing.assert_array_equal(rle.decode(record["segmentation"]), expected[record["id"]])
            rows, columns = np.nonzero(expected[record["id"]])
            x, y = int(columns.min()), int(rows.min())
            assert record["bbox"] == [x, y, int(columns.max()) - x, int(rows.max()) - y]
            assert record["area"] == rows.size
            assert record["category"] == {7: "cat", 8: "naïve"}[peer.anns[record["id"]]["category_id"]]
            assert "category_frequency" not in record
            json.dumps(record)


def test_the_sample_says_what_the_image_record_says(folder: Path) -> None:
    sample = opened(folder, document())[1]
    assert (sample.key, sample.source, sample.width, sample.height) == ("sub/à", "set", WIDTH, HEIGHT)
    assert sample.image == (folder / "images" / "sub" / "à.png").read_bytes()
    assert opened(folder, document())[-1].key == "empty"
    with pytest.raises(IndexError):
        opened(folder, document())[3]


def test_crowds_and_empty_masks_are_left_out(folder: Path) -> None:
    dataset = opened(folder, document())
    assert [[record["id"] for record in sample.annotations] for sample in dataset] == [[12, 14], [11, 13], []]


def test_the_order_of_the_keys_does_not_matter(folder: Path) -> None:
    content = document()
    expected = list(opened(folder, content))
    for order in permutations(["images", "annotations", "categories"]):
        rest = [key for key in content if key not in order]
        assert list(opened(folder, {key: content[key] for key in [order[0], *rest, *order[1:]]})) == expected


def test_a_dataset_travels_between_processes(folder: Path) -> None:
    dataset = opened(folder, document())
    data = pickle.dumps(dataset)
    assert len(data) < 3000
    assert list(pickle.loads(data)) == list(dataset)


def test_lvis_names_pictures_by_url_and_says_how_common_a_category_is(tmp_path: Path) -> None:
    names = ("val2017/000000000139.jpg", "train2017/000000000025.jpg")
    images = [
        {"id": id, "coco_url": f"http://images.cocodataset.org/{name}", "height": HEIGHT, "width": WIDTH,
         "neg_category_ids": [4], "not_exhaustive_category_ids": []}
        for id, name in enumerate(names)
    ]  # fmt: skip
    categories = [
        {"id": 1, "name": "zebra", "frequency": "f", "synset": "zebra.n.01", "synonyms": ["zebra"]},
        {"id": 2, "name": "quill", "frequency": "r", "synset": "quill.n.01", "synonyms": ["quill"]},
    ]
    annotations = [annotation(5, 0, SQUARE, category_id=1), annotation(6, 1, SQUARE, category_id=2)]
    for record in annotations:
        del record["iscrowd"]  # LVIS has none
    content = {"images": images, "annotations": annotations, "categories": categories}
    save_picture(tmp_path / "images" / names[0], HEIGHT, WIDTH)
    save_picture(tmp_path / "images" / "000000000025.jpg", HEIGHT, WIDTH)
    dataset = opened(tmp_path, content)
    assert dataset.keys() == ["val2017/000000000139", "train2017/000000000025"]
    seen = [
        (record["category"], record["category_frequency"])
        for sample in dataset
        for record in sample.annotations
    ]
    assert seen == [("zebra", "f"), ("quill", "r")]


def test_equal_names_but_for_the_extension_keep_it(tmp_path: Path) -> None:
    images = [
        {"id": n, "file_name": name, "height": 1, "width": 1} for n, name in enumerate(("a.jpg", "a.png"))
    ]
    dataset = opened(tmp_path, {"images": images, "annotations": []})
    assert dataset.keys() == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.png", "a/../../secret.png", "a/./b.png", "a//b.png", "C:\\x.png", "..\\x.png", "c:x.png",
     "", "a\0.png", "..", ".", "/", "x" * 2000, None, 5, ["a.png"], "\ud800.png"],
)  # fmt: skip
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: object) -> None:
    images = [{"id": 1, "file_name": name, "height": 1, "width": 1}]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(DatasetError, match="file name"):
        CocoDataset(tmp_path / "annotations.json", tmp_path)


@pytest.mark.parametrize(
    "url", ["http://x/..", "http://x/../..", "http://x/", "http://[", 7, "file:///a/..%5cb/\\"]
)
def test_urls_that_lead_out_of_the_folder_are_refused(tmp_path: Path, url: object) -> None:
    with pytest.raises(DatasetError, match="file name"):
        opened(tmp_path, {"images": [{"id": 1, "coco_url": url, "height": 1, "width": 1}], "annotations": []})


def test_a_file_cut_short_anywhere_is_refused(folder: Path) -> None:
    data = write(folder, document()).read_bytes()
    for length in range(0, len(data), 7):
        (folder / "cut.json").write_bytes(data[:length])
        with pytest.raises(DatasetError, match=r"cut\.json"):
            CocoDataset(folder / "cut.json", folder / "images")


def _changed(**changes: Any) -> dict[str, Any]:
    return {**document(), **changes}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"images": []}, "no annotations"),
        ({"annotations": []}, "no images"),
        ({}, "no annotations and no images"),
        (_changed(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), "image id 1 twice"),
        (_changed(images=[{"id": 3, "file_name": "a"}, {"id": 900, "file_name": "a"}]), "'a' twice"),
        (_changed(images=document()["images"][:1]), "image 3, which is not among"),
        (_changed(images=[{"id": "3", "file_name": "a"}]), "whole number"),
        (_changed(images=[{"id": 2**63, "file_name": "a"}]), "whole number"),
        (_changed(images=[{"id": True, "file_name": "a"}]), "whole number"),
        (_changed(categories=[{"id": 7, "name": "cat"}]), "category 8"),
        (_changed(categories=[{"id": 7, "name": 3}]), "text is needed"),
        (_changed(categories=[{"id": 7, "name": "a", "frequency": "x"}]), "none of r, c, f"),
        (_changed(categories=[{"id": 7, "name": "a"}] * 2), "twice"),
        (_changed(annotations=[{"id": 1}]), "image_id None"),
        (_changed(annotations=[annotation(1, 3, SQUARE, category_id="x")]), "category_id 'x'"),
    ],
)
def test_files_that_are_refused_when_opened(folder: Path, content: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        opened(folder, content)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "polygons or an RLE"),
        ("abc", "polygons or an RLE"),
        ([[1, 2, 3]], "in turn"),
        ([[1, 2, 3, "4", 5, 6]], "in turn"),
        ([[[1, 2], [3, 4], [5, 6]]], "in turn"),
        ([[1, 2, [3], 4, 5, 6]], "in turn"),
        ([1, 2, 3, 4, 5, 6], "in turn"),
        ([[1, 2, 3, 4, 5, 10**400]], "in turn"),
        ([[1, 2, 3, 1e999, 5, 6]], "vertex"),
        ({"size": [HEIGHT, WIDTH]}, "counts"),
        ({"size": [HEIGHT, WIDTH], "counts": [5]}, "add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "!!"}, "character"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "its image 32 x 24"),
        ({"size": [2**40, 2**40], "counts": [2**80]}, "height and width"),
    ],
)
def test_a_broken_mask_names_file_image_and_reason(folder: Path, segmentation: Any, reason: str) -> None:
    path = folder / "annotations.json"
    text = json.dumps({**document(), "annotations": [annotation(77, 900, segmentation)]})
    path.write_text(text.replace("Infinity", "1e999"), encoding="utf-8")
    dataset = CocoDataset(path, folder / "images")
    assert dataset[1].annotations == ()
    with pytest.raises(DatasetError, match=reason) as caught:
        dataset[0]
    assert all(part in str(caught.value) for part in ("annotations.json", "'b.png'", "annotation 77"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": "32"}, "whole numbers"),
        ({"width": None}, "whole numbers"),
        ({"width": 0}, "0 x 24"),
        ({"width": 10**9}, "limit"),
        ({"width": WIDTH + 1}, "must be equal"),
        ({"file_name": "gone.png"}, "no file"),
        ({"file_name": "sub"}, "no file"),
        ({"file_name": "text.png"}, "cannot be read as"),
        ({"file_name": "cut.png"}, "cannot be read as"),
    ],
)
def test_a_broken_image_is_refused_when_read(folder: Path, change: dict[str, Any], reason: str) -> None:
    (folder / "images" / "text.png").write_text("no picture")
    (folder / "images" / "cut.png").write_bytes((folder / "images" / "b.png").read_bytes()[:20])
    content = document()
    content["images"][0].update(change)
    dataset = opened(folder, content)
    with pytest.raises(DatasetError, match=reason):
        dataset[0]
    assert dataset[1].key == "sub/à"


def test_a_picture_over_the_limit_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anymask.data import files

    monkeypatch.setattr(files.read_bytes, "__defaults__", (100,))
    with pytest.raises(DatasetError, match="limit is 100"):
        opened(folder, document())[0]


def test_a_file_that_changed_after_it_was_opened_is_noticed(folder: Path) -> None:
    dataset = opened(folder, document())
    dataset.annotations.write_text("{}")
    with pytest.raises(DatasetError, match="changed"):
        dataset[0]
    dataset.annotations.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset[0]


def test_opening_a_thousand_images_takes_a_fraction_of_the_file(tmp_path: Path) -> None:
    """1,000 images with 30 polygons of 60 numbers: a bounded peak; loading the file whole takes ten times as much."""
    rng = np.random.default_rng(0)
    outlines = [json.dumps([rng.uniform(0, 200, 60).round(2).tolist()]) for _ in range(30)]
    template = (
        json.dumps(annotation(1, 2, "POLYGON"))
        .replace('"id": 1', '"id": %d')
        .replace('"image_id": 2', '"image_id": %d')
    )
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write('{"annotations": [')
        lines = (template.replace('"POLYGON"', outlines[n % 30]) % (n, n % 1000) for n in range(30_000))
        file.write(",\n".join(lines))
        images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 200, "width": 200} for n in range(1000)]
        file.write(f'], "images": {json.dumps(images)}, "categories": [{{"id": 7, "name": "cat"}}]}}')
    save_picture(tmp_path / "000000000999.jpg", 200, 200)
    peaks = []
    for act in (lambda: CocoDataset(path, tmp_path), lambda: json.loads(path.read_bytes())):
        tracemalloc.start()
        result = act()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        if isinstance(result, CocoDataset):
            assert len(result) == 1000
            assert [record["id"] for record in result[999].annotations] == list(range(999, 30_000, 1000))
            assert len(pickle.dumps(result)) < 16 * 30_000 + 60 * 1000 + 2000
    assert peaks[0] < 4 * 2**20 + 100 * 30_000 + 250 * 1000
    assert peaks[1] > 10 * peaks[0]
