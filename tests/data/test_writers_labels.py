"""Label pictures, tar shards, and the picture of everything: exact, bounded, the same every time."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from odd_masks import HEIGHT, WIDTH, odd_arrays, odd_masks, touching_masks
from PIL import Image as PillowImage

from anymask.automatic.select import label_map
from anymask.data.label_maps import read_label_map
from anymask.data.sa1b import TarShard
from anymask.data.writers.label_map import label_map_files
from anymask.data.writers.picture import Picture
from anymask.data.writers.sa1b import sa1b_file
from anymask.data.writers.shards import write_shards
from anymask.errors import DatasetError, LimitError, MaskError
from anymask.masks.label_overlay import draw_labels, label_colour

PICTURE = Picture(1, "one", "one.png", WIDTH, HEIGHT)


def save_labels(folder: Path, masks, policy: str, picture: Picture = PICTURE) -> Path:
    labels = label_map(masks, policy, (picture.height, picture.width))
    png, record = label_map_files(picture, labels, masks, policy)
    (folder / "one.png").write_bytes(png)
    (folder / "one.json").write_bytes(record)
    return folder / "one.png"


@pytest.mark.parametrize("policy", ["smaller_on_top", "better_on_top"])
def test_each_pixel_has_the_mask_that_the_policy_puts_on_top(tmp_path: Path, policy: str) -> None:
    masks, stack = odd_masks(), np.stack(list(odd_arrays().values()))
    values = np.asarray(PillowImage.open(save_labels(tmp_path, masks, policy)))
    assert values.dtype == np.uint8
    ranks = stack.sum(axis=(1, 2)) if policy == "smaller_on_top" else np.arange(len(stack))
    for row, column in np.ndindex(HEIGHT, WIDTH):
        there = [number for number in range(len(stack)) if stack[number, row, column]]
        best = min(there, key=lambda number: (ranks[number], number), default=-1)
        assert values[row, column] == best + 1


def test_labels_are_read_back_with_their_ids_and_scores(tmp_path: Path) -> None:
    masks = odd_masks()
    path = save_labels(tmp_path, masks, "better_on_top")
    values = np.asarray(PillowImage.open(path))
    found = read_label_map(path)
    assert found.policy == "better_on_top"
    assert found.image == {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "one.png"}
    assert list(found.masks) == list(range(1, 14))
    for label, mask in found.masks.items():
        np.testing.assert_array_equal(mask.array, values == label)
        assert (mask.score, mask.stability_score) == (
            masks[label - 1].score,
            masks[label - 1].stability_score,
        )
    rows = json.loads((tmp_path / "one.json").read_text())["labels"]
    assert [row["area"] for row in rows] == [array.sum() for array in odd_arrays().values()]
    assert [row["visible_area"] for row in rows] == [(values == row["label"]).sum() for row in rows]


@pytest.mark.parametrize(("count", "kind"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_more_than_255_masks_take_16_bits(tmp_path: Path, count: int, kind: type) -> None:
    masks = touching_masks(count)
    path = save_labels(tmp_path, masks, "smaller_on_top", Picture(1, "one", "one.png", count, 2))
    values = np.asarray(PillowImage.open(path))
    assert values.dtype == kind
    np.testing.assert_array_equal(values, [np.arange(1, count + 1), np.zeros(count)])
    assert [mask.area for mask in read_label_map(path).masks.values()] == [1] * count


def test_more_masks_than_a_picture_can_number_are_refused() -> None:
    masks = touching_masks(1) * 65_536
    with pytest.raises(LimitError, match="65535"):
        label_map_files(Picture(1, "a", "a.png", 1, 2), np.zeros((2, 1), dtype=np.int32), masks, "x")


def test_labels_that_do_not_go_with_the_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="from 0 to 0"):
        label_map_files(PICTURE, np.ones((HEIGHT, WIDTH), dtype=np.int32), [], "x")
    path = save_labels(tmp_path, odd_masks(), "smaller_on_top")
    beside = tmp_path / "one.json"
    document = json.loads(beside.read_text())
    for change, words in (
        ({"labels": document["labels"][1:]}, "the label 1, which"),
        (
            {"labels": [{**document["labels"][0], "visible_area": 1}, *document["labels"][1:]]},
            "of label 1 show",
        ),
        ({"image": {**document["image"], "width": 3}}, "says 3 x 40"),
        ({"policy": None, "labels": None}, "is not the record"),
    ):
        beside.write_text(json.dumps({**document, **change}))
        with pytest.raises(DatasetError, match=words):
            read_label_map(path)


def test_a_picture_without_masks(tmp_path: Path) -> None:
    path = save_labels(tmp_path, [], "smaller_on_top")
    assert not np.asarray(PillowImage.open(path)).any()
    assert read_label_map(path).masks == {}


def pairs(count: int, size: int, name: str = "sa_"):
    for number in range(count):
        picture = np.random.default_rng(number).bytes(size)
        yield f"{name}{number}.jpg", picture, f"{name}{number}.json", sa1b_file(PICTURE, odd_masks())


def save_shards(folder: Path, limit: int, *arguments) -> list[str]:
    @contextmanager
    def open_shard(name: str):
        with (folder / name).open("xb") as file:
            yield file

    folder.mkdir()
    return write_shards(pairs(*arguments), open_shard, limit)


def test_shards_hold_every_pair_in_order_and_no_more_than_they_may(tmp_path: Path) -> None:
    names = save_shards(tmp_path / "shards", 40_960, 7, 9_000)
    assert names == [f"sa_{number:06d}.tar" for number in range(len(names))]
    assert len(names) > 1
    wanted = list(pairs(7, 9_000))
    members, samples = [], []
    for name in names:
        path = tmp_path / "shards" / name
        assert path.stat().st_size <= 40_960
        with tarfile.open(path) as archive:
            members += archive.getnames()
            assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in archive)
        samples += list(TarShard(path))
    assert members == [name for pair in wanted for name in (pair[0], pair[2])]
    assert [sample.image for sample in samples] == [pair[1] for pair in wanted]
    assert all(list(sample.annotations) == json.loads(wanted[0][3])["annotations"] for sample in samples)
    sizes = [(tmp_path / "shards" / name).stat().st_size for name in names[:-1]]
    assert all(size + 9_000 > 40_960 - 10_240 for size in sizes)


def test_shards_are_the_same_every_time_and_a_large_pair_gets_its_own(tmp_path: Path) -> None:
    first = save_shards(tmp_path / "a", 1, 3, 500, "é" * 120)
    second = save_shards(tmp_path / "b", 1, 3, 500, "é" * 120)
    assert first == second == ["sa_000000.tar", "sa_000001.tar", "sa_000002.tar"]
    for name in first:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert len(TarShard(tmp_path / "a" / name)) == 1
    assert save_shards(tmp_path / "c", 1, 0, 1) == []


def test_colours_differ_and_do_not_change() -> None:
    colours = [label_colour(label) for label in range(1, 61)]
    assert len(set(colours)) == 60
    assert colours == [label_colour(label) for label in range(1, 61)]
    apart = [np.abs(np.subtract(one, two)).sum() for one, two in pairwise(colours)]
    assert min(apart) > 120


def test_the_overlay_tints_inside_dims_outside_and_brightens_edges() -> None:
    pixels = np.full((80, 120, 3), 100, dtype=np.uint8)
    labels = np.zeros((80, 120), dtype=np.int32)
    labels[20:60, 30:90] = 2
    drawn = draw_labels(pixels, labels)
    assert drawn.shape == pixels.shape
    np.testing.assert_array_equal(drawn[5, 5], [80, 80, 80])
    tint = np.rint(100 * 0.58 + np.array(label_colour(2)) * 0.42)
    np.testing.assert_allclose(drawn[40, 60], tint, atol=1)
    assert drawn[20, 60].astype(int).sum() > drawn[40, 60].astype(int).sum() + 60
    np.testing.assert_array_equal(drawn[19, 60], [80, 80, 80])  # the line lies on the mask's own side
    np.testing.assert_array_equal(pixels, 100)
    plain = draw_labels(pixels, np.zeros((80, 120), dtype=np.int32))
    np.testing.assert_array_equal(plain, 80)
    with pytest.raises(MaskError, match="shape"):
        draw_labels(pixels, labels[1:])
    with pytest.raises(MaskError, match="0 or more"):
        draw_labels(pixels, labels - 1)


def test_the_png_of_labels_is_grey_for_whoever_opens_it(tmp_path: Path) -> None:
    png, _ = label_map_files(PICTURE, label_map(odd_masks()), odd_masks(), "smaller_on_top")
    with PillowImage.open(io.BytesIO(png)) as picture:
        assert picture.mode == "L"
