"""`anymask auto` killed at any moment and started again: byte for byte the folder of an undisturbed run.

`test_every_step` ends a forked process, without a word of farewell, at the n-th thing it asks of the disk.
`test_sigkill` kills the real program with the embedded model. `ANYMASK_KILL_IMAGES=200` makes that one longer;
`benchmarks/auto_kill.py` does it at random moments and keeps a record.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.cli.main import main
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.locks import only_one

IMAGES = int(os.environ.get("ANYMASK_KILL_IMAGES", "20"))
EVERY = ("--format", "sa1b,coco,png,yolo,labelmap", "--overlay", "--shards", "1", "--copy-images")
STEPS = ("open", "write", "fsync", "replace", "mkdir", "rmdir", "unlink", "ftruncate")
"""What `os` is asked for; beside these, files are written through buffers that the steps enclose."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def make_photos(folder: Path, count: int) -> Path:
    """Small pictures of blobs, no two alike; the third is damaged."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        rows, columns = np.mgrid[:48, : 56 + number % 9]
        pixels = np.full((*rows.shape, 3), rng.integers(0, 90, 3), dtype=np.uint8)
        for _ in range(3):
            y, x, radius = rng.integers(5, 43), rng.integers(5, 50), rng.integers(5, 14)
            pixels[np.hypot(rows - y, columns - x) < radius] = rng.integers(100, 256, 3)
        PillowImage.fromarray(pixels).save(folder / f"{number:03d}.png")
    if count > 2:
        (folder / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def folders_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_dir())


def journal(folder: Path) -> list[bytes]:
    """Whole lines."""
    path = folder / ".anymask-auto/journal.jsonl"
    return (
        [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")] if path.exists() else []
    )


@pytest.fixture
def small_run(tmp_path, monkeypatch, capfd):
    """``small_run(out)`` runs the command over the fake model in this process and says which photos it looked at."""
    seen: list[tuple[int, ...]] = []

    class Watched(FakeBackend):
        def encode(self, pixels):
            seen.append(pixels.shape)
            return super().encode(pixels)

    monkeypatch.setattr("anymask.predict.loading.load_backend", lambda *_: Watched())
    monkeypatch.setenv("HOME", str(tmp_path))
    photos = make_photos(tmp_path / "photos", 4)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # it matters to a loss of power, not to a kill

    def run(out: Path) -> list[tuple[int, ...]]:
        seen.clear()
        options = ("--points-per-side", "2", "--pred-iou-thresh", "0.3", "--stability-score-thresh", "0.3")
        assert main(["auto", str(photos), "--out", str(out), "-q", *EVERY, *options]) == 3  # one is damaged
        capfd.readouterr()
        return list(seen)

    return run


def steps_until_death(run, out: Path, last: int) -> int | None:
    """Run in a child that dies at its ``last``-th step; the number of steps when it came to its end, else None."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        return int(told) if told else None
    try:
        taken, tell = 0, os.write

        def counted(name, real):
            def step(*arguments, **options):
                nonlocal taken
                taken += 1
                if taken == last:
                    if name == "write":  # half a line of the journal
                        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    os._exit(9)
                return real(*arguments, **options)

            return step

        for name in STEPS:
            setattr(os, name, counted(name, getattr(os, name)))
        run(out)
        tell(write, str(taken).encode())
    finally:
        os._exit(0)


def test_every_step(small_run, tmp_path):
    small_run(tmp_path / "whole")
    wanted, folders = files_below(tmp_path / "whole"), folders_below(tmp_path / "whole")
    steps = steps_until_death(small_run, tmp_path / "counted", 0)
    assert steps is not None
    assert steps > 100
    out = tmp_path / "out"
    stride = max(1, steps // 22) | 1  # odd, so that all kinds of steps are met
    for last in [1, 2, 3, *range(4, steps, stride), steps]:
        shutil.rmtree(out, ignore_errors=True)
        assert steps_until_death(small_run, out, last) is None
        for name, data in files_below(out).items():  # what is in its place is whole
            assert "/stage/" in name or name.endswith("journal.jsonl") or data == wanted[name], (last, name)
        before = [json.loads(line) for line in journal(out)]
        done = {entry["id"] for entry in before if "id" in entry and entry["error"] is None}
        assert len(small_run(out)) == 3 - len(done), last  # none twice, none lost
        assert files_below(out) == wanted, last
        assert folders_below(out) == folders, last


def test_death_after_death(small_run, tmp_path):
    small_run(tmp_path / "whole")
    out = tmp_path / "out"
    for last in (9, 40, 77, 120, 40):
        steps_until_death(small_run, out, last)
    small_run(out)
    assert files_below(out) == files_below(tmp_path / "whole")


@pytest.mark.parametrize("cut", [1, -1])
def test_a_torn_line_is_cut_off_before_the_next(small_run, tmp_path, cut):
    small_run(tmp_path / "out")
    wanted = files_below(tmp_path / "out")
    first, second, *_ = journal(tmp_path / "out")
    (tmp_path / "out/.anymask-auto/journal.jsonl").write_bytes(first + second[:cut])
    steps = 20
    while len(journal(tmp_path / "out")) < 3:  # die once more, after lines that follow the torn one
        assert steps_until_death(small_run, tmp_path / "out", steps) is None
        steps += 10
    small_run(tmp_path / "out")
    assert files_below(tmp_path / "out") == wanted


def start(photos: Path, out: Path, home: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYMASK_")}
    command = [sys.executable, "-m", "anymask.cli.main", "auto", str(photos), "--out", str(out), *EVERY]
    command += ["--points-per-side", "4", "--threads", "1", *options]
    return subprocess.Popen(
        command,
        env=environment | {"HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def kill_after(process: subprocess.Popen[bytes], out: Path, lines: int) -> bool:
    """SIGKILL as soon as the journal has so many lines, with 0 as soon as there is a run; False if it ended before."""
    ready = out / ".anymask-auto/run.json"
    while process.poll() is None and (len(journal(out)) < lines or not ready.exists()):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_sigkill(tmp_path):
    photos = make_photos(tmp_path / "photos", IMAGES)
    undisturbed = start(photos, tmp_path / "whole", tmp_path)
    _, errors = undisturbed.communicate(timeout=500)
    assert undisturbed.returncode == 3, errors.decode()
    assert b"002.png: the image's header is cut short" in errors
    wanted = files_below(tmp_path / "whole")
    assert len(journal(tmp_path / "whole")) == IMAGES + 1
    out = tmp_path / "out"
    killed = []
    for lines, options in ((0, ()), (IMAGES // 3, ()), (2 * IMAGES // 3, ("--workers", "2"))):
        killed.append(kill_after(start(photos, out, tmp_path, *options), out, lines))
        assert len(journal(out)) >= lines
    assert any(killed)
    with only_one(out / ".anymask-auto/run"):
        refused = start(photos, out, tmp_path)
        _, errors = refused.communicate(timeout=500)
    assert (refused.returncode, errors.count(b"\n")) == (11, 1), errors.decode()
    last = start(photos, out, tmp_path, "--json")
    told, errors = last.communicate(timeout=500)
    assert last.returncode == 3, errors.decode()
    assert json.loads(told)["done_before"] >= 2 * IMAGES // 3 - 1  # the damaged one is looked at again
    assert files_below(out) == wanted
    assert folders_below(out) == folders_below(tmp_path / "whole")
