"""DAVIS, ADE20K and plain mask folders against what was painted into the files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures_on_disk import save_mask, save_picture
from PIL import Image as PillowImage
from scipy import ndimage

from anymask.data.dataset import Dataset
from anymask.data.mask_folders import Ade20kDataset, DavisDataset, MaskFolder
from anymask.data.records import label_counts
from anymask.errors import DatasetError
from anymask.masks import rle

HEIGHT, WIDTH = 12, 17


def masks_of(sample: Any) -> dict[int, np.ndarray]:
    return {record["id"]: rle.decode(record["segmentation"]) for record in sample.annotations}


def assert_masks(sample: Any, expected: dict[int, np.ndarray]) -> None:
    got = masks_of(sample)
    assert list(got) == list(expected)
    for id, mask in expected.items():
        np.testing.assert_array_equal(got[id], mask)
    for record in sample.annotations:
        rows, columns = np.nonzero(expected[record["id"]])
        assert record["area"] == rows.size
        assert record["bbox"][:2] == [columns.min(), rows.min()]
        assert record["bbox"][2:] == [np.ptp(columns), np.ptp(rows)]


def painted(values: list[int], seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    """Noise of those values, so that every mask has many regions."""
    return np.random.default_rng(seed).choice(np.array(values, dtype=dtype), (HEIGHT, WIDTH))


LABELS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: arrays(np.uint16, size, elements=st.sampled_from([0, 1, 2, 255, 40_000]))
)


@settings(deadline=None)
@given(LABELS)
def test_the_runs_of_every_value_are_those_of_its_mask(labels: np.ndarray) -> None:
    found = dict(label_counts(labels, (0, 255)))
    assert list(found) == [value for value in np.unique(labels).tolist() if value not in (0, 255)]
    for value, counts in found.items():
        np.testing.assert_array_equal(counts, rle.encode_counts(labels == value))


class TestDavis:
    def make(self, root: Path, resolution: str = "480p") -> dict[str, np.ndarray]:
        frames = {}
        for number, key in enumerate(("bear/00000", "bear/00001", "camel/00000")):
            frames[key] = painted([0, 1, 3, 255], number)
            save_picture(root / "JPEGImages" / resolution / f"{key}.jpg", HEIGHT, WIDTH, number)
            save_mask(root / "Annotations" / resolution / f"{key}.png", frames[key], palette=True)
        save_picture(
            root / "JPEGImages" / resolution / "bear/00002.jpg", HEIGHT, WIDTH
        )  # a frame without annotation
        return frames

    @pytest.mark.parametrize("resolution", ["480p", ""])
    def test_one_mask_per_object_in_every_annotated_frame(self, tmp_path: Path, resolution: str) -> None:
        frames = self.make(tmp_path, resolution)
        dataset = DavisDataset(tmp_path)
        assert isinstance(dataset, Dataset)
        assert dataset.keys() == list(frames)
        for key, sample in zip(frames, dataset, strict=True):
            assert (sample.key, sample.height, sample.width) == (key, HEIGHT, WIDTH)
            assert sample.image == (tmp_path / "JPEGImages" / resolution / f"{key}.jpg").read_bytes()
            assert_masks(sample, {id: frames[key] == id for id in (1, 3)})

    def test_a_list_chooses_the_videos(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        (tmp_path / "ImageSets/2017").mkdir(parents=True)
        (tmp_path / "ImageSets/2017/val.txt").write_text("camel\n")
        (tmp_path / "ImageSets/2017/both.txt").write_text("camel\r\nbear\n")
        assert DavisDataset(tmp_path, year=2017).keys() == ["camel/00000"]
        assert len(DavisDataset(tmp_path, year="2017", list_name="both")) == 3

    @pytest.mark.parametrize(
        "line", ["../bear", "/etc", "bear/00000", "..", "a\\b", "lost", "\0", "x" * 5000]
    )
    def test_a_hostile_or_stray_line_is_refused(self, tmp_path: Path, line: str) -> None:
        self.make(tmp_path)
        (tmp_path / "ImageSets/2017").mkdir(parents=True)
        (tmp_path / "ImageSets/2017/val.txt").write_text(f"bear\n{line}\n")
        with pytest.raises(DatasetError):
            DavisDataset(tmp_path, year=2017)

    def test_the_grey_pictures_of_2016_hold_one_object(self, tmp_path: Path) -> None:
        values = painted([0, 255])
        save_picture(tmp_path / "JPEGImages/480p/bear/00000.jpg", HEIGHT, WIDTH)
        save_mask(tmp_path / "Annotations/480p/bear/00000.png", values)
        assert_masks(DavisDataset(tmp_path)[0], {1: values == 255})

    def test_a_frame_without_its_picture_and_a_list_that_is_not_there(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        with pytest.raises(DatasetError, match=r"val\.txt"):
            DavisDataset(tmp_path, year=2017)
        (tmp_path / "JPEGImages/480p/bear/00001.jpg").unlink()
        with pytest.raises(DatasetError, match="bear/00001"):
            DavisDataset(tmp_path)
        with pytest.raises(DatasetError):
            DavisDataset(tmp_path / "nowhere")


class TestAde20k:
    @pytest.mark.parametrize("place", ["images/ADE/validation/urban/street", "images/validation/s/street"])
    def test_one_mask_per_class_and_instance(self, tmp_path: Path, place: str) -> None:
        classes, instances = painted([0, 5, 1300], 1, np.int32), painted([0, 1, 2], 2, np.int32)
        seg = np.stack([classes // 256 * 10, classes % 256, instances], axis=-1).astype(np.uint8)
        folder = tmp_path / place
        save_picture(folder / "X_1.jpg", HEIGHT, WIDTH)
        save_mask(folder / "X_1_seg.png", seg)
        save_mask(folder / "X_1_parts_1.png", seg[::-1])
        save_mask(folder / "X_1" / "instance_000_X_1_seg.png", painted([0, 255]))  # must not be entered
        dataset = Ade20kDataset(tmp_path)
        assert dataset.keys() == [f"{place.split('validation/')[1]}/X_1"]
        pairs = [(c, i) for c in (5, 1300) for i in (0, 1, 2)]
        expected = {n: (classes == c) & (instances == i) for n, (c, i) in enumerate(pairs, 1)}
        assert_masks(dataset[0], expected)
        assert [record["category"] for record in dataset[0].annotations] == [str(c) for c, _ in pairs]

    def test_scene_parsing_gives_the_regions_of_every_class(self, tmp_path: Path) -> None:
        values = painted([0, 1, 150, 150], 3)
        save_picture(tmp_path / "images/validation/a.jpg", HEIGHT, WIDTH)
        save_mask(tmp_path / "annotations/validation/a.png", values)
        sample = Ade20kDataset(tmp_path)[0]
        expected = {}
        for value in (1, 150):
            regions, number = ndimage.label(values == value, structure=np.ones((3, 3)))
            for region in range(1, number + 1):
                expected[((regions == region).tobytes(), str(value))] = True
        got = {
            (rle.decode(record["segmentation"]).tobytes(), record["category"]): True
            for record in sample.annotations
        }
        assert got == expected
        assert len(sample.annotations) == len(expected)
        assert [record["id"] for record in sample.annotations] == list(range(1, len(expected) + 1))

    def test_a_split_and_a_kind_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no picture"):
            Ade20kDataset(tmp_path)
        save_picture(tmp_path / "images/ADE/training/a.jpg", HEIGHT, WIDTH)
        save_mask(tmp_path / "images/ADE/training/a_seg.png", painted([0, 1]))
        with pytest.raises(DatasetError, match="RGB"):
            Ade20kDataset(tmp_path, "training")[0]


class TestMaskFolder:
    def make(self, root: Path, values: np.ndarray, palette: bool = False) -> MaskFolder:
        save_picture(root / "images/a.jpg", HEIGHT, WIDTH)
        save_mask(root / "masks/a.png", values, palette)
        return MaskFolder(root / "images", root / "masks")

    @pytest.mark.parametrize("top", [1, 255])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_black_and_white_is_one_mask(self, tmp_path: Path, top: int, channels: int) -> None:
        values = painted([0, top])
        stored = values if channels == 1 else np.repeat(values[..., None], 3, axis=2)
        assert_masks(self.make(tmp_path, stored)[0], {1: values == top})

    def test_one_bit_is_one_mask(self, tmp_path: Path) -> None:
        values = painted([0, 1]).astype(bool)
        assert_masks(self.make(tmp_path, values)[0], {1: values})

    @pytest.mark.parametrize(
        ("values", "dtype", "palette", "ids"),
        [
            ([0, 1, 2], np.uint8, False, [1, 2]),
            ([0, 7, 255], np.uint8, False, [7, 255]),
            ([0, 7, 255], np.uint8, True, [7]),
            ([0, 1], np.uint8, True, [1]),
            ([0, 255], np.uint8, True, []),
            ([0, 3, 255, 256, 65535], np.uint16, False, [3, 255, 256, 65535]),
        ],
    )
    def test_other_pictures_hold_a_mask_per_value(
        self, tmp_path: Path, values: list[int], dtype: Any, palette: bool, ids: list[int]
    ) -> None:
        labels = painted(values, 4, dtype)
        assert_masks(self.make(tmp_path, labels, palette)[0], {id: labels == id for id in ids})

    def test_a_folder_holds_one_object_a_file(self, tmp_path: Path) -> None:
        objects = [painted([0, 255], seed) for seed in range(3)]
        objects[1][:] = 0
        save_picture(tmp_path / "images/a.jpg", HEIGHT, WIDTH)
        for name, values in zip(("x", "y", "z"), objects, strict=True):
            save_mask(tmp_path / f"masks/a/{name}.png", values)
        folder = MaskFolder(tmp_path / "images", tmp_path / "masks")
        assert_masks(folder[0], {1: objects[0] > 0, 3: objects[2] > 0})
        save_mask(tmp_path / "masks/a/x.png", painted([0, 1, 2]))
        with pytest.raises(DatasetError, match="one object a file"):
            folder[0]

    def test_the_order_is_that_of_the_names_and_hidden_files_are_passed_over(self, tmp_path: Path) -> None:
        for name in ("c.PNG", "a.jpg", "b.tif", "._a.jpg"):
            save_picture(tmp_path / "images" / name, 3, 4)
        for name in ("b", "c", "a", "unused"):
            save_mask(tmp_path / f"masks/{name}.png", np.ones((3, 4), dtype=np.uint8))
        (tmp_path / "images/notes.txt").write_text("no picture")
        folder = MaskFolder(tmp_path / "images", tmp_path / "masks", "mine")
        assert folder.keys() == ["a", "b", "c"]
        assert {sample.source for sample in folder} == {"mine"}
        assert list(pickle.loads(pickle.dumps(folder))) == list(folder)

    def test_a_photo_that_is_turned_by_exif_has_masks_of_the_upright_size(self, tmp_path: Path) -> None:
        folder = self.make(tmp_path, painted([0, 1]))
        exif = PillowImage.Exif()
        exif[0x0112] = 6
        PillowImage.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images/a.jpg", exif=exif)
        assert (folder[0].height, folder[0].width) == (HEIGHT, WIDTH)

    def test_what_does_not_fit_is_refused_when_opened(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="as a folder"):
            MaskFolder(tmp_path / "images", tmp_path / "masks")
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        with pytest.raises(DatasetError, match="no picture"):
            MaskFolder(tmp_path / "images", tmp_path / "masks")
        save_picture(tmp_path / "images/a.jpg", 3, 4)
        with pytest.raises(DatasetError, match="without a mask"):
            MaskFolder(tmp_path / "images", tmp_path / "masks")
        save_mask(tmp_path / "masks/a.png", np.ones((3, 4), dtype=np.uint8))
        (tmp_path / "masks/a").mkdir()
        with pytest.raises(DatasetError, match="both a file and a folder"):
            MaskFolder(tmp_path / "images", tmp_path / "masks")
        save_picture(tmp_path / "images/a.png", 3, 4)
        with pytest.raises(DatasetError, match=r"both 'a\.jpg' and 'a\.png'"):
            MaskFolder(tmp_path / "images", tmp_path / "masks")

    @pytest.mark.parametrize("length", [0, 8, 20, 40, 70])
    def test_a_mask_cut_short_names_the_picture(self, tmp_path: Path, length: int) -> None:
        folder = self.make(tmp_path, painted([0, 1, 2]))
        data = (tmp_path / "masks/a.png").read_bytes()
        (tmp_path / "masks/a.png").write_bytes(data[:length])
        with pytest.raises(DatasetError, match=r"images/a\.jpg"):
            folder[0]

    @pytest.mark.parametrize(
        ("mode", "size", "reason"),
        [
            ("RGBA", (WIDTH, HEIGHT), "mode RGBA"),
            ("LA", (WIDTH, HEIGHT), "mode LA"),
            ("L", (HEIGHT, WIDTH), "must be equal"),
        ],
    )
    def test_masks_of_another_kind_or_size_are_refused(
        self, tmp_path: Path, mode: str, size: tuple[int, int], reason: str
    ) -> None:
        folder = self.make(tmp_path, painted([0, 1]))
        PillowImage.new(mode, size).save(tmp_path / "masks/a.png")
        with pytest.raises(DatasetError, match=reason):
            folder[0]

    def test_coloured_masks_and_other_formats_are_refused(self, tmp_path: Path) -> None:
        folder = self.make(
            tmp_path, np.random.default_rng(0).integers(0, 9, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        )
        with pytest.raises(DatasetError, match="coloured"):
            folder[0]
        PillowImage.new("L", (WIDTH, HEIGHT)).save(tmp_path / "masks/a.png", format="JPEG")
        with pytest.raises(DatasetError, match="as PNG"):
            folder[0]
