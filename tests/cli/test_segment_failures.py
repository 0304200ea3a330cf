"""Every kind of bad input ends in one sentence on standard error, the stated status, and nothing written."""

from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage


def everything_below(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def refused(run, tmp_path):
    """Run, expect a status and words in one sentence on standard error, and no file made."""

    def check(status, words, *arguments):
        before = everything_below(tmp_path)
        outcome = run("segment", *arguments)
        assert outcome.status == status, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("anymask: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert "Traceback" not in outcome.err
        assert words in outcome.err
        assert everything_below(tmp_path) == before
        return outcome

    return check


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--point", "12"], "--point must be 2 numbers written x,y"),
        (["--point", "1,2,3"], "--point must be 2 numbers written x,y"),
        (["--point", "a,b"], "got 'a,b'"),
        (["--point", ""], "--point must be 2 numbers"),
        (["--point", "nan,1"], "finite"),
        (["--point", "1,inf"], "finite"),
        (["--point", "1e400,1"], "finite"),
        (["--background", "1;2"], "--background must be 2 numbers"),
        (["--point", "500,10"], "outside the 160 x 120 image"),
        (["--point", "-5,3"], "outside the 160 x 120 image"),
        (["--point", "10,10", "--background", "1e300,3"], "outside"),
        (["--box", "10,10,5"], "--box must be 4 numbers written x1,y1,x2,y2"),
        (["--box", "50,50,10,90"], "x0 < x1"),
        (["--box", "10,10,10,20"], "x0 < x1"),
        (["--box", "0,0,161,50"], "reaches outside"),
        (["--box", "nan,0,1,1"], "finite"),
        ([], "say what to segment"),
    ],
)
def test_prompts(refused, photo, options, words):
    refused(4, words, photo, *options)


def test_more_points_than_allowed(refused, photo):
    refused(4, "1024", photo, *(["--point", "1,1"] * 1025))


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 3, "empty"),
        (b"hello, I am a text", 3, "not one of JPEG, PNG, WEBP, TIFF"),
        (b"GIF89a" + bytes(64), 3, "not one of"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 3, "not one of"),
        (b"\x89PNG\r\n\x1a\n", 3, "cut short or damaged"),
    ],
)
def test_files_that_are_no_images(refused, tmp_path, content, status, words):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    refused(status, words, path, "--point", "1,1")


def test_a_truncated_image(refused, tmp_path, make_photo):
    whole = make_photo(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    outcome = refused(3, "cut short or damaged", tmp_path / "cut.jpg", "--point", "1,1")
    assert "cut.jpg" in outcome.err


def test_a_bomb(refused, tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "bomb.png").write_bytes(data)
    refused(3, "limit", tmp_path / "bomb.png", "--point", "1,1")


def test_a_missing_image_and_a_folder(refused, tmp_path):
    refused(7, "there is no image file", tmp_path / "nothing.png", "--point", "1,1")
    refused(7, "there is no image file", tmp_path, "--point", "1,1")


def test_a_name_that_would_steer_the_terminal(refused, tmp_path):
    outcome = refused(7, "there is no image file", tmp_path / "\x1b[2Jgone\n.png", "--point", "1,1")
    assert "\x1b" not in outcome.err


@pytest.fixture
def mask_file(tmp_path):
    def make(array):
        PillowImage.fromarray(array).save(tmp_path / "mask.png")
        return tmp_path / "mask.png"

    return make


def test_mask_prompts(refused, photo, mask_file, tmp_path):
    refused(4, "80 x 60", photo, "--mask", mask_file(np.full((60, 80), 255, dtype=np.uint8)))
    refused(4, "all black", photo, "--mask", mask_file(np.zeros((120, 160), dtype=np.uint8)))
    refused(4, "(37, 37, 37)", photo, "--mask", mask_file(np.full((120, 160), 37, dtype=np.uint8)))
    refused(
        4,
        "RGB value (255, 0, 0)",
        photo,
        "--mask",
        mask_file(np.full((120, 160, 3), (255, 0, 0), dtype=np.uint8)),
    )
    refused(7, "there is no image file", photo, "--mask", tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("not a mask")
    refused(3, "text.png", photo, "--mask", tmp_path / "text.png")


def test_an_output_folder_that_is_a_file(refused, photo, tmp_path):
    (tmp_path / "taken").write_text("mine")
    refused(11, "is no folder", photo, "--point", "1,1", "--out", tmp_path / "taken")
    refused(11, "is no folder", photo, "--point", "1,1", "--out", tmp_path / "taken/below")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(refused, photo, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(11, "no permission", photo, "--point", "1,1", "--out", tmp_path / "locked/out")


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_disk_that_fills_leaves_the_old_files(run, photo, tmp_path, monkeypatch, fails_at):
    run("segment", photo, "--point", "80,60")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("anymask.atomic.os.fsync", fsync)
    outcome = run("segment", photo, "--point", "20,20")
    assert outcome.status == 11
    assert "No space left" in outcome.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(refused, photo, monkeypatch):
    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anymask.atomic.os.fsync", fsync)
    refused(11, "No space left", photo, "--point", "20,20")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-such-option"], "no such option"),
        (["--threads", "many"], "--threads"),
        (["--threads"], "requires an argument"),
    ],
)
def test_usage(refused, photo, options, words):
    assert "--help" in refused(2, words, photo, "--point", "1,1", *options).err


def test_no_image_at_all(refused):
    refused(2, "IMAGE", "--point", "1,1")


def test_settings(refused, photo):
    refused(13, "threads", photo, "--point", "1,1", "--threads", "-3")
    refused(13, "backend", photo, "--point", "1,1", "--backend", "abacus")


def test_several_images_with_a_bad_one(run, tmp_path, make_photo):
    good, also = make_photo(tmp_path / "good.png"), make_photo(tmp_path / "also.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    outcome = run("segment", good, tmp_path / "bad.png", also, "--point", "20,20")
    assert outcome.status == 3
    lines = outcome.err.splitlines()
    assert len(lines) == 2
    assert "bad.png" in lines[0]
    assert lines[1] == "anymask: 1 of 3 images failed"
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {
        f"{name}{ending}" for name in ("good", "also") for ending in (".json", "_mask.png", "_overlay.png")
    }


def test_failures_of_different_kinds_end_in_one(run, tmp_path, make_photo):
    small = make_photo(tmp_path / "small.png", 10, 10)
    outcome = run("segment", small, tmp_path / "gone.png", "--point", "50,50", "--json")
    assert outcome.status == 1
    told = json.loads(outcome.out)
    assert told["failed"] == 2
    assert [result["error"]["code"] for result in told["results"]] == ["prompt", "not_found"]


def test_a_bug_is_one_sentence_too(run, photo, monkeypatch):
    def explode(*_):
        raise RuntimeError("the sky fell")

    monkeypatch.setattr("anymask.image.read_image", explode)
    outcome = run("segment", photo, "--point", "1,1")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "the sky fell" in outcome.err
    assert "bug" in outcome.err
    with pytest.raises(RuntimeError):
        run("segment", photo, "--point", "1,1", "-v")
