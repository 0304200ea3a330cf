"""SA-1B records, COCO and folders of PNG files, read by others and by our own readers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odd_masks import HEIGHT, WIDTH, odd_arrays, odd_masks
from pictures_on_disk import save_picture
from PIL import Image as PillowImage
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from anymask.data.coco import CocoDataset
from anymask.data.png_folder import read_png_folder
from anymask.data.sa1b_folder import Sa1bFolder
from anymask.data.writers.coco import coco_polygons, write_coco
from anymask.data.writers.picture import Picture, picture_file
from anymask.data.writers.png_folder import png_folder_files
from anymask.data.writers.sa1b import sa1b_document, sa1b_file
from anymask.errors import DatasetError
from anymask.image import read_image
from anymask.masks import rle
from anymask.types import Mask, MaskSet

PICTURE = Picture(7, "one", "sub/one.png", WIDTH, HEIGHT)
ANY_MASK = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def coco_file(path: Path, masks: list[Mask], picture: Picture = PICTURE, **options: object):
    """The file written, with what `write_coco` said of it."""
    with path.open("wb") as file:
        record = sa1b_document(picture, masks)
        return write_coco(file, [picture], lambda _: record["annotations"], **options)


def as_read_by_pycocotools(path: Path) -> tuple[COCO, list[dict]]:
    coco = COCO(str(path))
    return coco, coco.loadAnns(sorted(coco.getAnnIds()))


def test_a_record_has_the_published_fields_in_their_order_and_decodes() -> None:
    masks = odd_masks()
    document = json.loads(sa1b_file(PICTURE, masks))
    assert list(document) == ["image", "annotations"]
    assert document["image"] == {"image_id": 7, "width": WIDTH, "height": HEIGHT, "file_name": "one.png"}
    for number, (annotation, array) in enumerate(
        zip(document["annotations"], odd_arrays().values(), strict=True)
    ):
        assert list(annotation) == [
            "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords",
        ]  # fmt: skip
        assert annotation["id"] == number
        assert isinstance(annotation["segmentation"]["counts"], str)
        np.testing.assert_array_equal(coco_masks.decode(annotation["segmentation"]) == 1, array)
        rows, columns = np.nonzero(array)
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == [columns.min(), rows.min(), columns.max(), rows.max()]
        assert annotation["area"] == array.sum()
        assert annotation["point_coords"] == [[number + 0.5, 2.25]]
        assert annotation["crop_box"] == ([0, 0, WIDTH, HEIGHT] if number % 2 else [10, 5, 45, 35])


def test_a_record_beside_its_picture_is_read_back(tmp_path: Path) -> None:
    data = save_picture(tmp_path / "one.png", HEIGHT, WIDTH)
    (tmp_path / "one.json").write_bytes(sa1b_file(PICTURE, odd_masks()))
    (sample,) = Sa1bFolder(tmp_path)
    assert (sample.image, sample.width, sample.height) == (data, WIDTH, HEIGHT)
    for annotation, array in zip(sample.annotations, odd_arrays().values(), strict=True):
        np.testing.assert_array_equal(rle.decode(annotation["segmentation"]), array)


def test_pycocotools_reads_what_is_written_pixel_for_pixel(tmp_path: Path) -> None:
    tally = coco_file(tmp_path / "instances.json", odd_masks())
    coco, annotations = as_read_by_pycocotools(tmp_path / "instances.json")
    assert (tally.images, tally.annotations, tally.polygons, tally.kept_as_rle) == (1, 13, 0, 0)
    assert coco.loadImgs([7]) == [
        {"id": 7, "file_name": "sub/one.png", "width": WIDTH, "height": HEIGHT, "license": 0}
    ]
    assert [annotation["id"] for annotation in annotations] == list(
        range(1, 14)
    )  # 0 means "no match" to COCOeval
    for annotation, array in zip(annotations, odd_arrays().values(), strict=True):
        assert annotation["iscrowd"] == 0
        np.testing.assert_array_equal(coco.annToMask(annotation) == 1, array)
        box = coco_masks.toBbox(coco_masks.encode(np.asfortranarray(array, dtype=np.uint8)))
        assert annotation["bbox"] == box.tolist()
        assert annotation["area"] == array.sum()
        assert coco.loadCats([annotation["category_id"]])[0]["name"] == "object"


def test_polygons_hold_what_they_can_and_the_rest_stays_run_lengths(tmp_path: Path) -> None:
    tally = coco_file(tmp_path / "instances.json", odd_masks(), polygons=True)
    coco, annotations = as_read_by_pycocotools(tmp_path / "instances.json")
    kept = set()
    for annotation, (name, array) in zip(annotations, odd_arrays().items(), strict=True):
        seen = coco.annToMask(annotation) == 1
        assert (seen & array).sum() >= 0.99 * (seen | array).sum(), name
        if isinstance(annotation["segmentation"], dict):
            np.testing.assert_array_equal(seen, array)
            kept.add(name)
    assert {"hole", "island in a hole", "small hole"} <= kept
    assert {"disc", "two parts", "everything", "box at the corner", "box at the far corner"}.isdisjoint(kept)
    assert (tally.polygons, tally.kept_as_rle) == (13 - len(kept), len(kept))


@given(ANY_MASK, st.sampled_from([0.0, 0.7, 2.0]))
def test_no_polygon_is_written_that_pycocotools_reads_otherwise(array: np.ndarray, tolerance: float) -> None:
    parts = coco_polygons(Mask(array, 0.5), tolerance)
    if parts is not None:
        height, width = array.shape
        seen = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(parts, height, width))) == 1
        assert (seen & array).sum() >= 0.99 * (seen | array).sum()


def test_thinner_outlines_have_fewer_vertices() -> None:
    disc = Mask(np.hypot(*np.mgrid[-99.5:100, -99.5:100]) < 80, 0.5)
    (exact,), (thin,) = coco_polygons(disc), coco_polygons(disc, 1.0)
    assert len(thin) < len(exact) / 3


def test_our_reader_gives_the_masks_of_several_pictures_back(tmp_path: Path) -> None:
    pictures = [Picture(1, "a", "a.png", WIDTH, HEIGHT), Picture(2, "b", "b.png", 5, 4)]
    small = [Mask(np.eye(4, 5, dtype=bool), 0.5), Mask(np.zeros((4, 5), dtype=bool), 0.4)]
    records = {1: sa1b_document(pictures[0], odd_masks()), 2: sa1b_document(pictures[1], small)}
    for picture in pictures:
        save_picture(tmp_path / "images" / picture.file, picture.height, picture.width)
    with (tmp_path / "instances.json").open("wb") as file:
        tally = write_coco(file, pictures, lambda picture: records[picture.id]["annotations"])
    first, second = CocoDataset(tmp_path / "instances.json", tmp_path / "images")
    for record, array in zip(first.annotations, odd_arrays().values(), strict=True):
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), array)
        assert record["category"] == "object"
    (only,) = second.annotations  # an empty mask is no instance
    np.testing.assert_array_equal(rle.decode(only["segmentation"]), np.eye(4, 5, dtype=bool))
    assert tally.annotations == 14


def test_a_file_without_a_picture_or_a_mask_is_still_one(tmp_path: Path) -> None:
    with (tmp_path / "none.json").open("wb") as file:
        write_coco(file, [], lambda _: [])
    assert json.loads((tmp_path / "none.json").read_text())["annotations"] == []
    coco_file(tmp_path / "empty.json", [])
    coco, annotations = as_read_by_pycocotools(tmp_path / "empty.json")
    assert (coco.getImgIds(), annotations) == ([7], [])


def save_folder(folder: Path, masks: list[Mask]) -> None:
    folder.mkdir()
    for name, data in png_folder_files(masks):
        (folder / name).write_bytes(data)


def test_the_folder_has_the_published_table_and_pictures(tmp_path: Path) -> None:
    save_folder(tmp_path / "one", odd_masks())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "one/metadata.csv").read_text())))
    assert ",".join(rows[0]) == (
        "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
        "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
    )
    for number, (row, array) in enumerate(zip(rows, odd_arrays().values(), strict=True)):
        seen = np.asarray(PillowImage.open(tmp_path / f"one/{number}.png"))
        np.testing.assert_array_equal(seen, np.where(array, 255, 0))
        ys, xs = np.nonzero(array)
        assert [int(row[f"bbox_{part}"]) for part in ("x0", "y0", "w", "h")] == [
            xs.min(), ys.min(), xs.max() - xs.min(), ys.max() - ys.min(),
        ]  # fmt: skip
        assert (row["id"], int(row["area"])) == (str(number), array.sum())
        assert float(row["predicted_iou"]) == 0.99 - number / 100


def test_the_folder_is_read_back_whole(tmp_path: Path) -> None:
    masks = [*odd_masks(), Mask(np.zeros((HEIGHT, WIDTH), dtype=bool), 0.1)]
    save_folder(tmp_path / "one", masks)
    for seen, mask in zip(read_png_folder(tmp_path / "one"), masks, strict=True):
        assert rle.iou(seen.counts, mask.counts) == 1.0
        assert seen.to_record(0) == mask.to_record(0)
    save_folder(tmp_path / "none", [])
    assert read_png_folder(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("crop_box_h", "height", "lacks the column 'crop_box_h'"),
        ("\n0,", "\n4,", "its id is '4'"),
        ("0.99", "nan", "must be finite"),
        ("0.99", "good", "could not convert"),
        (",63,", ",64,", "its area is 64 and the picture's 63"),
    ],
)
def test_a_table_that_does_not_go_with_the_pictures_is_refused(tmp_path, old, new, words) -> None:
    save_folder(tmp_path / "one", odd_masks(lambda name: name == "box at the corner"))
    table = tmp_path / "one/metadata.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=words):
        read_png_folder(tmp_path / "one")


def test_missing_and_odd_pictures_are_refused(tmp_path: Path) -> None:
    save_folder(tmp_path / "one", odd_masks(lambda name: name == "disc"))
    path = tmp_path / "one/0.png"
    PillowImage.fromarray(np.full((HEIGHT, WIDTH), 9, dtype=np.uint8)).save(path)
    with pytest.raises(DatasetError, match="of 0 and 255"):
        read_png_folder(tmp_path / "one")
    path.unlink()
    with pytest.raises(DatasetError, match="no file"):
        read_png_folder(tmp_path / "one")


def test_an_upright_picture_stays_as_it_is_and_a_turned_one_is_turned(tmp_path: Path) -> None:
    plain = save_picture(tmp_path / "plain.jpg", 6, 9)
    assert picture_file(tmp_path / "plain.jpg", "x") == ("x.jpg", plain)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.open(tmp_path / "plain.jpg").save(tmp_path / "turned.jpg", exif=exif)
    name, data = picture_file(tmp_path / "turned.jpg", "y")
    raw = np.asarray(PillowImage.open(io.BytesIO(data)))
    assert (name, raw.shape) == ("y.png", (9, 6, 3))
    np.testing.assert_array_equal(raw, read_image(tmp_path / "turned.jpg").pixels)
    PillowImage.open(tmp_path / "plain.jpg").save(tmp_path / "other.webp")
    assert picture_file(tmp_path / "other.webp", "z")[0] == "z.png"


def test_scores_keep_the_order_of_a_mask_set() -> None:
    masks = MaskSet(odd_masks())
    scores = [annotation["predicted_iou"] for annotation in sa1b_document(PICTURE, masks)["annotations"]]
    assert scores == sorted(scores, reverse=True)
