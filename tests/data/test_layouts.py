"""Every layout is recognised by what lies in the folder, and read as its own reader reads it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import save_mask, save_picture

from anymask.data import layouts
from anymask.data.layouts import NamedDataset, open_labelled
from anymask.errors import DatasetError

SQUARE = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
MASK = np.pad(np.ones((3, 3), dtype=np.uint8), 2)


def write_tar(path: Path, names: tuple[str, ...] = ("a",)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name in names:
            record = json.dumps({"image": {"width": 7, "height": 7}, "annotations": []}).encode()
            for member, data in ((f"{name}.jpg", b"picture"), (f"{name}.json", record)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_coco(path: Path, *names: str) -> Path:
    """Annotations with one square in each picture."""
    images = [{"id": n, "file_name": name, "height": 7, "width": 7} for n, name in enumerate(names)]
    squares = [{"id": n, "image_id": n, "category_id": 1, "segmentation": SQUARE} for n in range(len(names))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"images": images, "annotations": squares, "categories": [{"id": 1, "name": "cat"}]})
    )
    return path


def summary(found: list[NamedDataset]) -> list[tuple[str, str, int]]:
    """Name, layout and number of samples, each of which has been read."""
    for each in found:
        for index in range(len(each.dataset)):
            assert each.dataset[index].width == 7
    return [(each.name, each.layout, len(each.dataset)) for each in found]


def test_a_shard_and_a_folder_of_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", ("x", "y"))
    write_tar(tmp_path / "a.tar")
    (tmp_path / "a_raw.tar").write_bytes(b"not even a tar")
    assert summary(open_labelled(tmp_path)) == [("a", "sa1b", 1), ("b", "sa1b", 2)]
    assert summary(open_labelled(str(tmp_path / "b.tar"))) == [("b", "sa1b", 2)]


def test_a_shard_without_samples_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ())
    with pytest.raises(DatasetError, match="no image"):
        open_labelled(tmp_path)


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(b"picture")
        (tmp_path / f"{name}.json").write_text('{"image": {"width": 7, "height": 7}, "annotations": []}')
    assert summary(open_labelled(tmp_path)) == [(tmp_path.name, "sa1b", 2)]


@pytest.mark.parametrize("place", ["val2017", "images/val2017", "images"])
def test_a_coco_folder_opens_what_has_pictures(tmp_path: Path, place: str) -> None:
    write_coco(tmp_path / "annotations/instances_val2017.json", "a.jpg", "b.jpg")
    (tmp_path / "annotations/captions_val2017.json").write_text("{broken")
    (tmp_path / "annotations/person_keypoints_val2017.json").write_text("{broken")
    if place != "images":
        (tmp_path / "annotations/instances_train2017.json").write_text(
            "{broken: pictures not there, not read"
        )
    for name in ("a", "b"):
        save_picture(tmp_path / place / f"{name}.jpg", 7, 7)
    found = open_labelled(tmp_path)
    assert summary(found) == [("instances_val2017", "coco", 2)]
    assert [record["category"] for record in found[0].dataset[0].annotations] == ["cat"]
    assert summary(open_labelled(tmp_path / "annotations/instances_val2017.json")) == summary(found)


def test_lvis_beside_the_folders_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "annotations/lvis_v1_val.json"
    write_coco(path, "unused")
    content = json.loads(path.read_text())
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000025.jpg"
    path.write_text(json.dumps(content))
    (tmp_path / "val2017").mkdir()
    save_picture(tmp_path / "train2017/000000000025.jpg", 7, 7)
    assert summary(open_labelled(tmp_path)) == [("lvis_v1_val", "coco", 1)]


def test_other_names_of_annotation_files(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_coco(tmp_path / f"annotations/{name}.json", f"{name}.jpg")
        save_picture(tmp_path / f"images/{name}.jpg", 7, 7)
    assert summary(open_labelled(tmp_path)) == [("test", "coco", 1), ("train", "coco", 1)]


def test_a_json_file_with_its_pictures_elsewhere(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "here/set.json", "a.jpg")
    save_picture(tmp_path / "there/a.jpg", 7, 7)
    assert summary(open_labelled(path, tmp_path / "there")) == [("set", "coco", 1)]
    with pytest.raises(DatasetError, match="give it as images="):
        open_labelled(path)
    with pytest.raises(DatasetError, match="no folder of pictures"):
        open_labelled(path, tmp_path / "nowhere")
    write_coco(tmp_path / "annotations/instances_val2017.json", "a.jpg")
    with pytest.raises(DatasetError, match="give it as images="):
        open_labelled(tmp_path)
    assert summary(open_labelled(tmp_path, tmp_path / "there")) == [("instances_val2017", "coco", 1)]


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", ""])
def test_davis_takes_the_validation_videos_where_they_are_listed(tmp_path: Path, resolution: str) -> None:
    for video in ("bear", "camel"):
        save_picture(tmp_path / "davis/JPEGImages" / resolution / video / "00000.jpg", 7, 7)
        save_mask(tmp_path / "davis/Annotations" / resolution / video / "00000.png", MASK, palette=True)
    assert summary(open_labelled(tmp_path / "davis")) == [("davis", "davis", 2)]
    for year, video in (("2016", "bear"), ("2017", "camel")):
        (tmp_path / "davis/ImageSets" / year).mkdir(parents=True)
        (tmp_path / "davis/ImageSets" / year / "val.txt").write_text(video)
    found = open_labelled(tmp_path / "davis")
    assert summary(found) == [("davis_2017_val", "davis", 1)]
    assert found[0].dataset[0].key == "camel/00000"


def test_ade20k_in_both_layouts(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        save_picture(tmp_path / "full/images/ADE" / split / "street/a.jpg", 7, 7)
        save_mask(
            tmp_path / "full/images/ADE" / split / "street/a_seg.png", np.repeat(MASK[..., None], 3, axis=2)
        )
        assert summary(open_labelled(tmp_path / "full")) == [(f"full_{split}", "ade20k", 1)]
    save_picture(tmp_path / "scene/images/validation/a.jpg", 7, 7)
    save_mask(tmp_path / "scene/annotations/validation/a.png", MASK)
    assert summary(open_labelled(tmp_path / "scene")) == [("scene_validation", "ade20k", 1)]


def test_images_beside_masks_and_masks_alone(tmp_path: Path) -> None:
    save_picture(tmp_path / "set/images/a.jpg", 7, 7)
    save_mask(tmp_path / "set/masks/a.png", MASK)
    assert summary(open_labelled(tmp_path / "set")) == [("set", "masks", 1)]
    found = open_labelled(tmp_path / "set/masks", tmp_path / "set/images")
    assert summary(found) == [("masks", "masks", 1)]


def test_what_is_not_known_is_said_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "a.jpg"):
        with pytest.raises(DatasetError, match="none of the known layouts") as caught:
            open_labelled(path)
        for word in (".tar", "SA-1B", "COCO", "LVIS", "DAVIS", "ADE20K", "masks/"):
            assert word in str(caught.value)
    with pytest.raises(DatasetError, match="no dataset"):
        open_labelled(tmp_path / "nowhere")


def test_looking_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotation files that are found are handed on by name alone."""
    files = [write_coco(tmp_path / f"annotations/{name}_val2017.json") for name in ("instances", "captions")]
    for path in files:
        path.unlink()
        path.mkdir()  # cannot be read
    assert layouts._instance_files(tmp_path / "annotations") == files[:1]
