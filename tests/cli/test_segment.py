"""`anymask segment`: good runs write exactly what they say, and it is right."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools import mask as coco

from anymask.cli.arguments import result_names
from anymask.runtime.fake_backend import FakeBackend

KEYS = [
    "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords",
]  # fmt: skip


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def grey(path):
    return np.asarray(PillowImage.open(path))


def test_one_click_writes_three_files(run, photo, tmp_path):
    outcome = run("segment", photo, "--point", "80,60")
    assert (outcome.status, outcome.err) == (0, "")
    assert files_below(tmp_path / "out") == ["photo.json", "photo_mask.png", "photo_overlay.png"]
    for word in ("160 x 120", "score", "area", "box", "encode", "decode", "out/photo_mask.png"):
        assert word in outcome.out
    assert len(outcome.out.splitlines()) <= 6


def test_the_mask_is_the_disc_that_the_backend_draws(run, photo, tmp_path):
    run("segment", photo, "--point", "80,60")
    mask = grey(tmp_path / "out/photo_mask.png")
    assert mask.shape == (120, 160)
    assert set(np.unique(mask)) == {0, 255}
    rows, columns = np.mgrid[:120, :160] + 0.5
    radius = 12.0 * 160 / 128  # network pixels of the best of three candidates, in image pixels
    shift = 2.0 * 160 / 128  # the backend measures from the corners of its cells of four network pixels
    disc = np.hypot(columns - 80 - shift, rows - 60 - shift) < radius
    both, either = ((mask > 0) & disc).sum(), ((mask > 0) | disc).sum()
    assert both / either > 0.9


def test_mask_record_and_json_tell_the_same(run, photo, tmp_path):
    outcome = run("segment", photo, "--point", "80,60", "--json", "--all-candidates")
    told = json.loads(outcome.out)
    record = json.loads((tmp_path / "out/photo.json").read_text())
    assert list(record) == ["image", "annotations"]
    assert record["image"] == {"image_id": 0, "width": 160, "height": 120, "file_name": "photo.png"}
    assert len(record["annotations"]) == 3
    scores = [annotation["predicted_iou"] for annotation in record["annotations"]]
    assert scores == sorted(scores, reverse=True)
    for number, (annotation, mask) in enumerate(
        zip(record["annotations"], told["results"][0]["masks"], strict=True)
    ):
        assert list(annotation) == KEYS
        assert annotation["id"] == number
        assert mask["mask"] == f"out/photo_mask_{number + 1}.png"
        pixels = grey(tmp_path / mask["mask"]) == 255
        np.testing.assert_array_equal(coco.decode(annotation["segmentation"]).astype(bool), pixels)
        assert annotation["area"] == mask["area"] == pixels.sum() > 0
        rows, columns = np.nonzero(pixels)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask["box_xyxy"] == box
        assert annotation["bbox"] == [box[0], box[1], box[2] - box[0] - 1, box[3] - box[1] - 1]
        assert annotation["predicted_iou"] == mask["score"]
        assert annotation["point_coords"] == [[80.0, 60.0]]
        assert annotation["crop_box"] == [0, 0, 160, 120]


def test_json_says_which_model_and_how_long(run, photo):
    told = json.loads(run("segment", photo, "--box", "10,10,90,90", "--json").out)
    assert told["model"]["name"] == "fake"
    assert len(told["model"]["digest"]) == 64
    assert told["failed"] == 0
    (result,) = told["results"]
    assert result["encode_ms"] > 0
    assert result["decode_ms"] > 0
    assert result["overlay"] == "out/photo_overlay.png"
    assert result["record"] == "out/photo.json"


def test_a_box_gives_the_box_and_a_background_click_takes_some_away(run, photo, tmp_path):
    run("segment", photo, "--box", "40,30,120,90")
    whole = grey(tmp_path / "out/photo_mask.png") > 0
    inside = np.zeros_like(whole)
    inside[30:90, 40:120] = True
    assert (whole & inside).sum() / (whole | inside).sum() > 0.85
    run("segment", photo, "--box", "40,30,120,90", "--background", "100,60")
    less = grey(tmp_path / "out/photo_mask.png") > 0
    assert not less[60, 100]
    assert less.sum() < whole.sum()


def test_a_closer_look_is_taken_where_it_is_asked_for(run, photo, tmp_path):
    """The backend's disc is 12 network pixels at first; in the window it grows by what is fed back to it."""
    plain = json.loads(run("segment", photo, "--point", "80,60", "--json").out)
    first = grey(tmp_path / "out/photo_mask.png") > 0
    assert json.loads((tmp_path / "out/photo.json").read_text())["annotations"][0]["crop_box"] == [
        0,
        0,
        160,
        120,
    ]
    told = json.loads(run("segment", photo, "--point", "80,60", "--closer", "--json").out)
    mask = grey(tmp_path / "out/photo_mask.png") > 0
    (record,) = json.loads((tmp_path / "out/photo.json").read_text())["annotations"]
    assert (plain["closer"], told["closer"]) == (False, True)
    assert told["model"] == plain["model"]
    x, y, width, height = record["crop_box"]
    rows, columns = np.nonzero(first)
    assert width == pytest.approx(2.5 * (columns.max() + 1 - columns.min()), abs=2)
    assert height == pytest.approx(2.5 * (rows.max() + 1 - rows.min()), abs=2)
    assert record["predicted_iou"] == plain["results"][0]["masks"][0]["score"]
    assert mask.any()
    assert not np.array_equal(mask, first)
    outside = np.ones_like(mask)
    outside[y : y + height, x : x + width] = False
    assert not mask[outside].any()


def test_only_answers_that_are_written_are_looked_at(run, tmp_path, make_photo, monkeypatch):
    """Discs of 48, 96 and 160 pixels' radius in the photo's corner; the windows go from there."""
    encoded = []
    encode = FakeBackend.encode
    monkeypatch.setattr(
        FakeBackend, "encode", lambda self, pixels: (encoded.append(1), encode(self, pixels))[1]
    )
    big = make_photo(tmp_path / "big.png", 512, 512)
    for options, encodes in (([], 1), (["--closer"], 2), (["--closer", "--all-candidates"], 4)):
        encoded.clear()
        assert run("segment", big, "--point", "20,20", *options).status == 0
        assert len(encoded) == encodes + 1  # and the one that warms up
    records = json.loads((tmp_path / "out/big.json").read_text())["annotations"]
    sides = [record["crop_box"][2] for record in records]
    shift = 2 * 512 / 128  # the backend measures from the corners of its cells
    assert sides == pytest.approx([(0.5 + 1.25) * (20 + shift + radius) for radius in (48, 96, 160)], abs=2)


def test_a_rough_mask_is_followed(run, photo, tmp_path):
    rough = np.zeros((120, 160), dtype=np.uint8)
    rough[20:70, 30:100] = 255
    PillowImage.fromarray(rough).save(tmp_path / "rough.png")
    assert run("segment", photo, "--mask", tmp_path / "rough.png").status == 0
    seen, wanted = grey(tmp_path / "out/photo_mask.png") > 0, rough > 0
    assert (seen & wanted).sum() > 0.8 * wanted.sum()  # the backend wants cells that are nearly full
    assert not (seen & ~wanted)[:16].any()
    assert (seen & ~wanted).sum() < 0.1 * wanted.sum()


def test_the_overlay_has_the_photo_s_size_and_the_mark_in_its_place(run, photo, tmp_path):
    run("segment", photo, "--point", "80,60")
    drawn = grey(tmp_path / "out/photo_overlay.png")
    assert drawn.shape == (120, 160, 3)
    assert tuple(drawn[60, 80]) == (34, 197, 94)


def test_all_candidates_are_drawn_beside_each_other(run, photo, tmp_path):
    run("segment", photo, "--point", "80,60", "--all-candidates")
    names = ["photo.json", "photo_mask_1.png", "photo_mask_2.png", "photo_mask_3.png", "photo_overlay.png"]
    assert files_below(tmp_path / "out") == names
    sheet = grey(tmp_path / "out/photo_overlay.png")
    assert sheet.shape[1] > 3 * 160


def test_a_huge_photo_gets_a_smaller_overlay_and_a_whole_mask(run, tmp_path, make_photo):
    big = make_photo(tmp_path / "big.png", 3000, 1500)
    assert run("segment", big, "--point", "1500,750", "-q").status == 0
    assert grey(tmp_path / "out/big_mask.png").shape == (1500, 3000)
    drawn = grey(tmp_path / "out/big_overlay.png")
    assert drawn.shape == (1280, 2560, 3)
    assert tuple(drawn[640, 1280]) == (34, 197, 94)


def test_quiet_says_nothing_and_verbose_speaks_on_standard_error(run, photo):
    assert run("segment", photo, "--point", "80,60", "-q").out == ""
    assert run("-q", "segment", photo, "--point", "80,60").out == ""
    loud = run("segment", photo, "--point", "80,60", "-v")
    assert "digest" in loud.err
    assert "digest" not in loud.out


def test_a_second_run_replaces_the_first(run, photo, tmp_path):
    run("segment", photo, "--point", "80,60")
    first = (tmp_path / "out/photo_mask.png").read_bytes()
    run("segment", photo, "--point", "20,20")
    assert (tmp_path / "out/photo_mask.png").read_bytes() != first
    assert len(files_below(tmp_path / "out")) == 3


def test_same_names_from_different_folders_do_not_meet(run, tmp_path, make_photo):
    one, two = make_photo(tmp_path / "a/cat.png"), make_photo(tmp_path / "b/cat.png", 80, 60)
    three = make_photo(tmp_path / "c/CAT.jpg", 50, 50)
    assert run("segment", one, two, three, "--point", "20,20").status == 0
    assert grey(tmp_path / "out/cat_mask.png").shape == (120, 160)
    assert grey(tmp_path / "out/cat_2_mask.png").shape == (60, 80)
    assert grey(tmp_path / "out/CAT_3_mask.png").shape == (50, 50)
    ids = [json.loads((tmp_path / "out" / name).read_text())["image"] for name in ("cat.json", "cat_2.json")]
    assert [image["image_id"] for image in ids] == [0, 1]
    assert [image["file_name"] for image in ids] == ["cat.png", "cat.png"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "z/a.png"], ["a", "a_2", "a_3"]),
        (["x/a.jpg", "y/a.jpg", "a_2.jpg"], ["a", "a_3", "a_2"]),
        (["A.jpg", "a.jpg"], ["A", "a_2"]),
    ],
)
def test_names_of_results(paths, names):
    assert result_names(paths) == names


def test_many_names_stay_different_and_short():
    names = result_names([f"{folder}/{'é' * 300}.jpg" for folder in range(40)] + ["..."] * 3)
    assert len({name.casefold() for name in names}) == 43
    assert all(len(os.fsencode(name)) < 200 for name in names)
