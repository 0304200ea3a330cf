"""`anymask auto` killed at random moments until it is done, against a run that nobody disturbed.

    python benchmarks/auto_kill.py --images 200 --kills 50 --json benchmarks/results/auto_kill.json

Pictures are drawn from a seed, some of them damaged. The program runs once undisturbed with every format; then again
into another folder, where each process gets SIGKILL after a random time, drawn so that about ``--kills`` of them fall
before the end, with one worker and with two in turn. At the end both folders must hold the same names with the same
bytes, and the journal must tell of every picture once. The exit status is 1 when they do not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

START_S = 0.5
"""What a process needs before its first picture, roughly; kills are drawn from a little before that on."""


def main() -> int:
    """Run, print, and save what came out."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        photos = make_photos(base / "photos", options.images, options.seed)
        began = time.perf_counter()
        process = start(photos, base / "whole", base, options.points_per_side, 1)
        process.communicate()
        undisturbed_s = time.perf_counter() - began
        share = max(0.05, (undisturbed_s - START_S) / options.kills)
        kills = disturb(photos, base / "out", base, options, share)
        wanted, seen = files_below(base / "whole"), files_below(base / "out")
        differing = sorted(name for name in wanted.keys() | seen.keys() if wanted.get(name) != seen.get(name))
        ids = [json.loads(line).get("id") for line in journal(base / "out")][:-1]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join(["python", *sys.argv]),
        "images": options.images,
        "undisturbed_s": round(undisturbed_s, 1),
        "kills": kills,
        "files": len(wanted),
        "differing": differing,
        "every_image_once": ids == list(range(1, options.images + 1)),
    }
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if not differing and result["every_image_once"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50, help="about so many")
    parser.add_argument("--points-per-side", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_photos(folder: Path, count: int, seed: int) -> Path:
    """Blobs on a plain ground, every fiftieth file cut short."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        height, width = (int(side) for side in rng.integers(40, 97, 2))
        rows, columns = np.mgrid[:height, :width]
        pixels = np.full((height, width, 3), rng.integers(0, 90, 3), dtype=np.uint8)
        for _ in range(4):
            y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(5, 20)
            pixels[np.hypot(rows - y, columns - x) < radius] = rng.integers(100, 256, 3)
        path = folder / f"{number:05d}.png"
        PillowImage.fromarray(pixels).save(path)
        if number % 50 == 49:
            path.write_bytes(path.read_bytes()[:20])
    return folder


def start(photos: Path, out: Path, home: Path, points_per_side: int, workers: int) -> subprocess.Popen[bytes]:
    """The program with every format."""
    command = [sys.executable, "-m", "anymask.cli.main", "auto", str(photos), "--out", str(out), "--overlay"]
    command += ["--format", "sa1b,coco,png,yolo,labelmap", "--shards", "1", "--copy-images", "--threads", "1"]
    command += ["--points-per-side", str(points_per_side), "--workers", str(workers)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYMASK_")}
    return subprocess.Popen(
        command,
        env=environment | {"HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def disturb(photos: Path, out: Path, home: Path, options: argparse.Namespace, share: float) -> int:
    """Start and kill until a process comes to its end; how many were killed.

    Each may run some random time of ``share`` seconds on average after it has started. Should they all die before they
    have got anywhere, the time grows.
    """
    chance = random.Random(options.seed)
    kills = idle = 0
    while True:
        before = len(journal(out))
        process = start(photos, out, home, options.points_per_side, 1 + kills % 2)
        try:
            process.wait(timeout=0.8 * START_S + chance.expovariate(1.0 / share) * 1.5**idle)
            return kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += 1
        idle = idle + 1 if len(journal(out)) <= before else 0


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def journal(out: Path) -> list[bytes]:
    """Its lines."""
    path = out / ".anymask-auto/journal.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
