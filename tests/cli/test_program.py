"""The real program in its own process, over a real model."""

from __future__ import annotations

import array
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools import mask as coco

HEAVY = ("torch", "onnxruntime", "cv2", "numpy", "PIL", "rich")


def test_help_answers_at_once(program, tmp_path):
    """Processor time, which is what a person waits for on a machine that is not busy; the best of five."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert program("--help", cwd=tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys; from anymask.cli.main import main; main(['segment', '--help']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    modules = done.stdout.splitlines()[-1]
    assert not [name for name in HEAVY if f"'{name}'" in modules]


def test_a_photo_from_end_to_end(program, photo, model_folder, tmp_path):
    options = ["--point", "80,60", "--model", model_folder, "--threads", 1]
    done = program("segment", "photo.png", *options, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (mask,) = told["results"][0]["masks"]
    pixels = np.asarray(PillowImage.open(tmp_path / mask["mask"])) == 255
    record = json.loads((tmp_path / "out/photo.json").read_text())
    np.testing.assert_array_equal(coco.decode(record["annotations"][0]["segmentation"]).astype(bool), pixels)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo.json", "photo_mask.png", "photo_overlay.png",
    ]  # fmt: skip


def test_torch_is_not_needed(photo, model_folder, tmp_path):
    code = (
        "import sys; from anymask.cli.main import main; "
        f"status = main(['segment', 'photo.png', '--point', '80,60', '-q', '--model', {str(model_folder)!r}]); "
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "False"]


def test_a_list_on_standard_input(program, make_photo, model_folder, tmp_path):
    for name in ("one.png", "two.png", "sp ace.png"):
        make_photo(tmp_path / name)
    listed = b"one.png\r\n\nsp ace.png\n"
    done = program(
        "segment",
        "two.png",
        "-",
        "--point",
        "80,60",
        "--model",
        model_folder,
        "--json",
        cwd=tmp_path,
        stdin=listed,
    )
    assert done.returncode == 0, done.stderr
    assert [result["image"] for result in json.loads(done.stdout)["results"]] == [
        "two.png",
        "one.png",
        "sp ace.png",
    ]
    assert len(list((tmp_path / "out").iterdir())) == 9


def test_an_empty_list(program, tmp_path):
    done = program("segment", "-", "--point", "1,1", cwd=tmp_path, stdin=b"\n")
    assert done.returncode == 2
    assert done.stderr == b"anymask: standard input named no image; give one path a line\n"


def test_bad_input_has_no_traceback(program, model_folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = program("segment", "bad.png", "--point", "1,1", "--model", model_folder, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_undecodable_name(program, make_photo, model_folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        make_photo(tmp_path / "plain.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    listed = os.fsencode(name) + b"\n"
    done = program("segment", "-", "--point", "1,1", "--model", model_folder, cwd=tmp_path, stdin=listed)
    assert done.returncode == 0, done.stderr
    assert (os.fsencode(tmp_path) + b"/out/caf\xe9_mask.png") in [
        os.fsencode(path) for path in (tmp_path / "out").iterdir()
    ]


def feed_until_read(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to a process and return when it has taken every byte: it has started and reads its list."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    left = array.array("i", [len(data)])
    while left[0]:
        assert process.poll() is None, "it ended before it read"
        time.sleep(0.01)
        fcntl.ioctl(process.stdin, termios.FIONREAD, left)


def test_control_c_ends_in_130_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "anymask.cli.main", "segment", "-", "--point", "1,1"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background job ignores it otherwise
    ) as process:
        feed_until_read(process, b"photo.png\n")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == b"anymask: interrupted"


def test_a_reader_that_goes_away_is_no_traceback(program, tmp_path):
    command = f"{sys.executable} -m anymask.cli.main segment --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
