"""Peak memory of `anymask eval` over a generated folder in COCO's layout, and how it grows with the number of images.

    python benchmarks/eval_memory.py --images 1000 --json benchmarks/results/eval_memory.json

Pictures of 480 x 360 with ten polygons each are generated, and the embedded model is measured on one box of each, in a
process of its own. A tenth of the images is measured first: what streams needs about as much for a tenth as for all.
Peak memory is the process's largest resident set, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

SIZE = (360, 480)
POLYGONS = 10


def make_coco(folder: Path, images: int) -> Path:
    """A folder with ``val2017/`` and ``annotations/instances_val2017.json``."""
    pictures = folder / "val2017"
    pictures.mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    height, width = SIZE
    document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    document["categories"].append({"id": 1, "name": "blob"})
    for number in track(
        range(1, images + 1), "generating", console=Console(stderr=True), disable=not sys.stderr.isatty()
    ):
        small = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=80)
        name = f"{number:012d}.jpg"
        (pictures / name).write_bytes(buffer.getvalue())
        document["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for _ in range(POLYGONS):
            angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
            radius = rng.uniform(20, 90) * rng.uniform(0.7, 1.0, 40)
            x = np.clip(rng.uniform(90, width - 90) + radius * np.cos(angles), 0, width)
            y = np.clip(rng.uniform(90, height - 90) + radius * np.sin(angles), 0, height)
            outline = np.stack([x, y], axis=1).round(2)
            box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [outline.ravel().tolist()],
                    "area": box[2] * box[3],
                    "bbox": box,
                }
            )
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder


def peak_mb(data: Path, images: int | None, scratch: Path) -> float:
    """Peak resident memory in MB of one evaluation, which must succeed."""
    command = [sys.executable, "-m", "anymask", "eval", "nano", "--suite", str(data), "--protocol", "box"]
    command += ["--masks", "1", "--no-speed", "--gallery", "0", "--quiet", "--out", str(scratch / "report")]
    command += [] if images is None else ["--images", str(images)]
    environment = {**os.environ, "ANYMASK_CACHE_DIR": str(scratch / f"cache_{images}")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the evaluation ended with status {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    """Run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="images generated (default: 1000)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = make_coco(Path(folder, "coco"), options.images)
        tenth = peak_mb(data, max(1, options.images // 10), Path(folder))
        whole = peak_mb(data, None, Path(folder))
    print(f"{options.images // 10:>6} images: peak {tenth:.0f} MB")
    print(f"{options.images:>6} images: peak {whole:.0f} MB")
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "images": options.images,
            "peak_mb": {"a tenth": tenth, "all": whole},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
