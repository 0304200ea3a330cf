"""`anymask auto`: every format holds what was found, a run goes on where it was, bad input is one sentence."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from anymask import atomic
from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.cli import console
from anymask.cli.main import main
from anymask.data.label_maps import read_label_map
from anymask.data.layouts import open_labelled
from anymask.data.png_folder import read_png_folder
from anymask.data.yolo import YoloDataset
from anymask.image import read_image
from anymask.masks import rle
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.locks import only_one

EVERY = (
    "--format",
    "sa1b,coco,png",
    "--format",
    "yolo",
    "--format",
    "labelmap",
    "--overlay",
    "--shards",
    "1",
)
COARSE = ("--points-per-side", "3", "--pred-iou-thresh", "0.3", "--stability-score-thresh", "0.3")


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def found_directly(path: Path) -> list:
    """What the generator says of a picture, without the command."""
    settings = AutomaticSettings.for_effort(
        "normal", "fake", points_per_side=3, pred_iou_thresh=0.3, stability_score_thresh=0.3
    )
    return list(Generator(Segmenter(FakeBackend()), settings).generate(path))


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    """A folder of three photos of different sizes, one of them deeper."""
    make_photo(tmp_path / "photos/b.png", 90, 70)
    make_photo(tmp_path / "photos/a.jpg", 64, 48)
    make_photo(tmp_path / "photos/deep/a.png", 50, 80)
    (tmp_path / "photos/notes.txt").write_text("no picture")
    (tmp_path / "photos/.hidden.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_every_format_holds_the_masks_that_were_found(run, photos, tmp_path):
    outcome = run("auto", photos, "--recursive", *EVERY, *COARSE)
    assert (outcome.status, outcome.err) == (0, "")
    assert "3 images, " in outcome.out
    out = tmp_path / "out"
    with (out / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["name"], row["file"]) for row in rows] == [
        ("1", "a", "a.jpg"), ("2", "b", "b.png"), ("3", "a_2", "deep/a.png"),
    ]  # fmt: skip
    coco = COCO(str(out / "coco/annotations/instances.json"))
    for row in rows:
        masks = found_directly(photos / row["file"])
        assert int(row["masks"]) == len(masks) > 3
        name, size = row["name"], (int(row["height"]), int(row["width"]))
        record = json.loads((out / f"sa1b/{name}.json").read_text())
        assert record["annotations"] == json.loads(json.dumps([m.to_record(i) for i, m in enumerate(masks)]))
        assert record["image"]["image_id"] == int(row["id"])
        for annotation, mask in zip(
            coco.loadAnns(coco.getAnnIds(imgIds=[int(row["id"])])), masks, strict=True
        ):
            np.testing.assert_array_equal(coco.annToMask(annotation) == 1, mask.array)
        for seen, mask in zip(read_png_folder(out / f"png/{name}"), masks, strict=True):
            np.testing.assert_array_equal(seen.array, mask.array)
        labels = read_label_map(out / f"labelmap/{name}.png")
        on_top = sorted(range(len(masks)), key=lambda index: (masks[index].area, index))
        covered = np.zeros(size, dtype=bool)
        for index in on_top:
            np.testing.assert_array_equal(labels.masks[index + 1].array, masks[index].array & ~covered)
            covered |= masks[index].array
        with PillowImage.open(out / f"overlays/{name}.jpg") as overlay:
            assert overlay.size == size[::-1]
    (shard,) = open_labelled(out / "shards")
    assert shard.dataset.keys() == ["a", "a_2", "b"]
    assert [sample.image for sample in shard.dataset] == [
        (photos / file).read_bytes() for file in ("a.jpg", "deep/a.png", "b.png")
    ]


def test_copied_images_make_sets_that_the_readers_open(run, photos, tmp_path):
    assert run("auto", photos, "--format", "sa1b,coco,yolo", "--copy-images", *COARSE).status == 0
    masks = [found_directly(photos / name) for name in ("a.jpg", "b.png")]
    (sa1b,), (coco,) = open_labelled(tmp_path / "out/sa1b"), open_labelled(tmp_path / "out/coco")
    for dataset in (sa1b.dataset, coco.dataset):
        for sample, wanted in zip(dataset, masks, strict=True):
            assert (
                sample.image
                == (photos / f"{sample.key}{'.jpg' if sample.key == 'a' else '.png'}").read_bytes()
            )
            for record, mask in zip(sample.annotations, wanted, strict=True):
                np.testing.assert_array_equal(rle.decode(record["segmentation"]), mask.array)
    yolo = YoloDataset(tmp_path / "out/yolo")
    dropped = {(row[0], int(row[2])) for row in dropped_rows(tmp_path) if row[1] == "left_out"}
    for sample, wanted in zip(yolo, masks, strict=True):
        kept = [mask for number, mask in enumerate(wanted) if (sample.key, number) not in dropped]
        for record, mask in zip(sample.annotations, kept, strict=True):
            seen = rle.decode(record["segmentation"])
            assert (seen & mask.array).sum() >= 0.99 * (seen | mask.array).sum()


def dropped_rows(tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "out/yolo/dropped.csv"
    return [line.split(",") for line in path.read_text().splitlines()[1:]] if path.is_file() else []


def test_the_summary_for_machines(run, photos, tmp_path):
    outcome = run("auto", photos, "--json", "--format", "coco", "--polygons", *COARSE)
    told = json.loads(outcome.out)
    assert (told["images"], told["done"], told["done_before"], told["failed"]) == (2, 2, 0, 0)
    assert told["model"]["name"] == "fake"
    assert told["formats"] == {"coco": "out/coco/annotations/instances.json"}
    document = json.loads((tmp_path / "out/coco/annotations/instances.json").read_text())
    assert told["masks"] == len(document["annotations"]) == told["held"]["coco"]["annotations"]
    kinds = [type(annotation["segmentation"]) for annotation in document["annotations"]]
    assert kinds.count(list) == told["held"]["coco"]["polygons"] > 0
    assert kinds.count(dict) == told["held"]["coco"]["kept_as_rle"]


def test_parameters_reach_the_generator(run, photo, tmp_path):
    run("auto", photo, "--roi", "0,0,80,60", "--max-area", "0.2", "--out", "one", *COARSE)
    annotations = json.loads((tmp_path / "one/sa1b/photo.json").read_text())["annotations"]
    assert annotations
    for annotation in annotations:
        mask = coco_masks.decode(annotation["segmentation"])
        assert mask[:60, :80].sum() >= mask.sum() / 2
        assert mask.sum() <= 0.2 * 160 * 120
    run("auto", photo, "--effort", "fast", "--out", "two", *COARSE, "--full-grid")
    run("auto", photo, "--out", "three", *COARSE)
    assert (tmp_path / "two/sa1b/photo.json").read_bytes() == (
        tmp_path / "three/sa1b/photo.json"
    ).read_bytes()


@pytest.mark.parametrize("option", [["--workers", "3"], ["--points-per-batch", "2"], ["--threads", "1"]])
def test_workers_and_batches_change_no_byte(run, photos, tmp_path, option):
    run("auto", photos, "--recursive", *EVERY, *COARSE)
    first = files_below(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run("auto", photos, "--recursive", *EVERY, *COARSE, *option)
    assert files_below(tmp_path / "out") == first


def test_a_dry_run_writes_nothing(run, photos, tmp_path):
    outcome = run("auto", photos, *EVERY, "--dry-run", "--effort", "thorough")
    assert outcome.status == 0
    assert "2 images into out, 0 of them done before" in outcome.out
    assert "crop_n_layers                    1" in outcome.out
    assert not (tmp_path / "out").exists()
    run("auto", photos, *COARSE)
    told = json.loads(run("auto", photos, *COARSE, "--dry-run", "--json").out)
    assert (told["images"], told["done_before"]) == (2, 2)


def test_a_finished_run_does_nothing_again(run, photos, tmp_path, monkeypatch):
    run("auto", photos, *EVERY, *COARSE)
    first = files_below(tmp_path / "out")
    monkeypatch.setattr(Generator, "generate", lambda *_, **__: pytest.fail("an image was done twice"))
    outcome = run("auto", photos, *EVERY, *COARSE)
    assert (outcome.status, outcome.err) == (0, "")
    assert "2 of them done before" in outcome.out
    assert files_below(tmp_path / "out") == first


def test_what_was_taken_away_is_made_again(run, photos, tmp_path):
    run("auto", photos, *EVERY, *COARSE)
    first = files_below(tmp_path / "out")
    (tmp_path / "out/sa1b/a.json").unlink()
    shutil.rmtree(tmp_path / "out/png/b")
    assert run("auto", photos, *EVERY, *COARSE).status == 0
    assert files_below(tmp_path / "out") == first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--points-per-side", "4"], "points_per_side 3, not 4"),
        (["--roi", "0,0,9,9"], "roi null, not [0.0, 0.0, 9.0, 9.0]"),
        (["--format", "coco"], 'formats ["sa1b"], not ["sa1b", "coco"]'),
        (["--overlay"], "overlay false, not true"),
        (["--recursive"], "other images"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(run, photos, tmp_path, change, words):
    run("auto", photos, "--format", "sa1b", *COARSE)
    first = files_below(tmp_path / "out")
    outcome = run("auto", photos, "--format", "sa1b", *COARSE, *change)
    assert outcome.status == 11
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert files_below(tmp_path / "out") == first


def test_two_at_once_in_one_folder_are_refused(run, photos, tmp_path):
    run("auto", photos, *COARSE)
    first = files_below(tmp_path / "out")
    with only_one(tmp_path / "out/.anymask-auto/run"):
        outcome = run("auto", photos, *COARSE)
    assert (outcome.status, outcome.err.count("\n")) == (11, 1)
    assert "another anymask auto is at work in 'out'" in outcome.err
    assert files_below(tmp_path / "out") == first


def test_a_folder_with_files_of_others_is_refused(run, photos, tmp_path):
    (tmp_path / "out/sa1b").mkdir(parents=True)
    (tmp_path / "out/sa1b/mine.json").write_text("{}")
    outcome = run("auto", photos, *COARSE)
    assert (outcome.status, outcome.out) == (11, "")
    assert "already holds 'sa1b'" in outcome.err
    assert list(files_below(tmp_path / "out")) == ["sa1b/mine.json"]


def test_a_photo_that_fails_is_told_and_the_others_go_on(run, photos, tmp_path, make_photo):
    (photos / "aa.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "c.jpg").write_bytes(b"no picture")
    outcome = run("auto", photos, *EVERY, *COARSE)
    assert outcome.status == 3
    assert [line.split(": ")[1].rsplit("/", 1)[-1] for line in outcome.err.splitlines()[:2]] == [
        "aa.png",
        "c.jpg",
    ]
    assert outcome.err.splitlines()[2] == "anymask: 2 of 4 images failed"
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert [(each["id"], each["file"], each["code"]) for each in failures] == [
        (2, "aa.png", "image_truncated"), (4, "c.jpg", "image_format"),
    ]  # fmt: skip
    coco = COCO(str(tmp_path / "out/coco/annotations/instances.json"))
    assert coco.getImgIds() == [1, 3]
    make_photo(photos / "aa.png", 40, 40)
    shutil.copy(photos / "a.jpg", photos / "c.jpg")
    told = json.loads(run("auto", photos, *EVERY, *COARSE, "--json").out)
    assert (told["done"], told["done_before"], told["failed"]) == (4, 2, 0)
    assert not (tmp_path / "out/failures.jsonl").exists()
    again = files_below(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run("auto", photos, *EVERY, *COARSE)
    assert files_below(tmp_path / "out") == again


def test_failures_of_several_kinds_end_in_1(run, photos, tmp_path):
    (photos / "c.jpg").write_bytes(b"no picture")
    outcome = run("auto", photos, photos / "gone.png", *COARSE, "--json")
    assert outcome.status == 1
    assert [each["code"] for each in json.loads(outcome.out)["failures"]] == ["image_format", "not_found"]


def test_the_same_file_twice_is_one_image(run, photos):
    told = json.loads(run("auto", photos, photos / "a.jpg", photos, *COARSE, "--json").out)
    assert told["images"] == 2


def test_the_run_s_own_folder_is_not_looked_into(run, photos):
    run("auto", photos, "--recursive", "--out", photos / "out", "--overlay", *COARSE)
    told = json.loads(
        run("auto", photos, "--recursive", "--out", photos / "out", "--overlay", *COARSE, "--json").out
    )
    assert (told["images"], told["done_before"]) == (3, 3)


def test_a_turned_photo_is_upright_in_every_format(run, tmp_path, make_photo):
    exif = PillowImage.Exif()
    exif[0x0112] = 8
    with PillowImage.open(make_photo(tmp_path / "plain.png", 90, 60)) as plain:
        plain.save(tmp_path / "turned.jpg", exif=exif)
    run("auto", tmp_path / "turned.jpg", *EVERY, "--copy-images", *COARSE)
    out = tmp_path / "out"
    upright = read_image(tmp_path / "turned.jpg").pixels
    assert upright.shape == (90, 60, 3)
    for copy in (out / "sa1b/turned.png", out / "coco/images/turned.png", out / "yolo/images/turned.png"):
        with PillowImage.open(copy) as picture:  # as a reader that knows nothing of EXIF
            np.testing.assert_array_equal(np.asarray(picture), upright)
    record = json.loads((out / "sa1b/turned.json").read_text())
    assert record["annotations"][0]["segmentation"]["size"] == [90, 60]
    assert record["image"]["file_name"] == "turned.png"


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--format", "voc"], 2, "--format is one of sa1b, coco, png, yolo, labelmap, not 'voc'"),
        (["--effort", "lazy"], 2, "fast, normal, thorough"),
        (["--box-nms-thresh", "1.5"], 2, "box_nms_thresh must be a number, 0 to 1"),
        (["--pred-iou-thresh", "2"], 2, "pred_iou_thresh must be a number, 0 to 1"),
        (["--max-area", "-1"], 2, "max_area_share"),
        (["--roi", "1,2,3"], 4, "--roi must be 4 numbers"),
        (["--roi", "5,5,1,9"], 2, "--roi needs 0 <= x0 < x1"),
        (["--on-top", "worse"], 2, "--on-top is smaller or better"),
        (["--tolerance", "nan"], 2, "--tolerance must be 0 or more"),
        (["--shards", "0"], 2, "--shards must be 1 MB or more"),
        (["--workers", "0"], 8, "--workers must be from 1"),
    ],
)
def test_bad_options_are_one_sentence_and_nothing_is_written(run, photo, tmp_path, options, status, words):
    outcome = run("auto", photo, *options)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1)
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_known_leaves_no_folder(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["auto", str(photo), "--model", "no such"]) == 7
    assert "'no such'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_photos(run, tmp_path, make_photo):
    make_photo(tmp_path / "photos/deep/a.png")
    outcome = run("auto", tmp_path / "photos")
    assert outcome.status == 2
    assert "--recursive looks into its subfolders too" in outcome.err


def test_a_full_disk_leaves_whole_files_and_the_run_goes_on_later(run, photos, tmp_path, monkeypatch):
    run("auto", photos, *EVERY, *COARSE)
    wanted = files_below(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    real = os.fsync
    for room in (0, 1, 7, 20, 40):
        left = room

        def fsync(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(atomic.os, "fsync", fsync)
        outcome = run("auto", photos, *EVERY, *COARSE)
        monkeypatch.setattr(atomic.os, "fsync", real)
        if outcome.status == 0:
            break
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (11, "", 1), outcome
        assert "No space left on device" in outcome.err
        for name, data in files_below(tmp_path / "out").items():
            assert name.endswith("journal.jsonl") or data == wanted[name], name
    assert run("auto", photos, *EVERY, *COARSE).status == 0
    assert files_below(tmp_path / "out") == wanted


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bar_shows_on_a_terminal(run, photos, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    many = run("auto", photos, *COARSE, "--workers", workers)
    assert many.status == 0
    assert "finding masks" in many.err
    (tmp_path / "out/sa1b/a.json").unlink()
    one = run("auto", photos, *COARSE)
    assert one.status == 0
    assert "clicks" in one.err


def test_help_is_in_groups(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = run("auto", "--help").out
    headings = ["Options:", "What is written:", "Where to look:", "What to keep:", "Model and machine:"]
    places = [text.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert text.index("--stability-score-thresh") > text.index("What to keep:")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("journal.jsonl", b"{}\n", "line 1 of"),
        ("journal.jsonl", b"[1]\n", "line 1 of"),
        ("journal.jsonl", b'{"finished": null}\n', "line 1 of"),
        ("run.json", b"{", "is damaged"),
        ("run.json", b"[]", "is damaged"),
    ],
)
def test_a_damaged_state_is_one_sentence(run, photos, tmp_path, name, data, words):
    run("auto", photos, *COARSE)
    (tmp_path / "out/.anymask-auto" / name).write_bytes(data)
    first = files_below(tmp_path / "out")
    outcome = run("auto", photos, *COARSE)
    assert (outcome.status, outcome.err.count("\n")) == (11, 1)
    assert words in outcome.err
    assert files_below(tmp_path / "out") == first


def test_the_python_of_the_how_to_runs(photo, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs/how-to/automatic.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    shutil.move(photo, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos/a.jpg")
    (tmp_path / "photos/b.jpg").write_bytes(b"no picture")
    exec(compile("\n".join(blocks), str(page), "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"photos/a.jpg \d+", first)
    assert second.startswith("photos/b.jpg ")
    record = json.loads((tmp_path / "photo.json").read_text())
    assert record["image"]["width"] == 160
    assert (tmp_path / "labels.png").is_file()
