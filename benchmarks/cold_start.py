"""From process start to a mask file on disk: `anymask segment` against the same job through HF transformers.

    python benchmarks/cold_start.py --rounds 2 --json benchmarks/results/cold_start.json

Both start a fresh Python process, read the same photograph, segment one click and write one PNG. The peer is
`transformers.SamModel` with the sizes of ViT-B and random weights (time and memory do not depend on their values; a
published checkpoint of the same size would have to be read too). The peer's weights are created once, saved to a
temporary folder, and loaded from there as a user would load them. Runs alternate A B A B; wall seconds and peak
memory (maximum resident set of the process) are medians.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER_MAKE = """
import sys
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor
SamModel(SamConfig()).save_pretrained(sys.argv[1])
SamProcessor(SamImageProcessor()).save_pretrained(sys.argv[1])
"""

PEER_RUN = """
import sys
import numpy as np
import torch
from PIL import Image
from transformers import SamModel, SamProcessor
folder, photo, x, y, out = sys.argv[1:6]
model = SamModel.from_pretrained(folder).eval()
processor = SamProcessor.from_pretrained(folder)
image = Image.open(photo).convert("RGB")
inputs = processor(image, input_points=[[[float(x), float(y)]]], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
masks = processor.image_processor.post_process_masks(
    outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
)[0]
best = int(outputs.iou_scores[0, 0].argmax())
Image.fromarray(masks[0, best].numpy().astype(np.uint8) * 255).save(out)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MB of one process, which must succeed."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command[:3]} failed: {errors.read().decode()[-2000:]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return seconds, _peak(usage) * scale / 1e6


def _peak(usage: resource.struct_rusage) -> float:
    return float(usage.ru_maxrss)


def main() -> None:
    """Run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", type=Path, default=Path(__file__).parent.parent / "examples" / "photo.jpg")
    parser.add_argument("--point", default="300,170", help="x,y of the click (default: 300,170)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, in turn (default: 2)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    x, y = options.point.split(",")
    runs: dict[str, list[tuple[float, float]]] = {"anymask": [], "transformers": []}
    with tempfile.TemporaryDirectory() as folder:
        peer, out = Path(folder, "peer"), Path(folder, "out")
        subprocess.run([sys.executable, "-c", PEER_MAKE, str(peer)], check=True, capture_output=True)
        peer_command = [
            sys.executable,
            "-c",
            PEER_RUN,
            str(peer),
            str(options.photo),
            x,
            y,
            str(Path(folder, "m.png")),
        ]
        ours = [
            sys.executable,
            "-m",
            "anymask",
            "segment",
            str(options.photo),
            "--point",
            options.point,
            "--out",
            str(out),
        ]
        measure(ours)  # warms the disk cache for both: the photograph, Python, numpy
        for turn in range(options.rounds):
            runs["anymask"].append(measure(ours))
            runs["transformers"].append(measure(peer_command))
            print(
                f"round {turn + 1}: anymask {runs['anymask'][-1][0]:.2f} s, "
                f"transformers {runs['transformers'][-1][0]:.2f} s",
                file=sys.stderr,
            )
    median = {
        name: {
            "seconds": statistics.median(r[0] for r in rows),
            "peak_mb": statistics.median(r[1] for r in rows),
        }
        for name, rows in runs.items()
    }
    ratio = {k: median["transformers"][k] / median["anymask"][k] for k in ("seconds", "peak_mb")}
    print(f"{'':<14}{'seconds':>10}{'peak MB':>10}")
    for name, figures in median.items():
        print(f"{name:<14}{figures['seconds']:>10.2f}{figures['peak_mb']:>10.0f}")
    print(f"{'ratio':<14}{ratio['seconds']:>9.1f}x{ratio['peak_mb']:>9.1f}x")
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "runs": runs,
            "median": median,
            "ratio": ratio,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
