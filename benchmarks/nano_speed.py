"""How long the embedded model takes: encode, decode of one prompt, decode of sixteen; and how large its files are.

    python benchmarks/nano_speed.py --json benchmarks/results/nano_speed.json

Square, wide and tall pictures of noise (the time does not depend on content) are measured in turn, round after round,
so that a drift of the machine's speed falls on all alike. Figures are medians and 90th percentiles in milliseconds;
resizing the image and turning logits into a mask are included in "embed" and "segment".
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import anymask
from anymask.predict.prompts import prompt_arrays

CLICKS = 5
"""Prompts asked one after another in each round, as a person would; their median counts."""
SIZES = {"square": (1024, 1024), "wide": (720, 1280), "tall": (1600, 900)}


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds an action took, and what it gave."""
    started = time.perf_counter()
    result = action()
    return (time.perf_counter() - started) * 1e3, result


def one_round(segmenter: anymask.Segmenter, size: tuple[int, int], seed: int) -> dict[str, float]:
    """Every figure once, on one picture of (height, width)."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    backend, spec = segmenter.backend, segmenter.spec
    frame = segmenter.frame(size)
    pixels = frame.to_network(picture, spec.pixel_mean, spec.pixel_std)
    low_res = tuple(side // spec.low_res_stride for side in frame.network_size)
    prompts = [anymask.Prompt(points=rng.uniform(0, min(size), (1, 2))) for _ in range(16)]
    one = prompt_arrays(prompts[:1], frame, (low_res[0], low_res[1]))
    many = prompt_arrays(prompts, frame, (low_res[0], low_res[1]))
    embed, embedding = timed(lambda: segmenter.embed(picture))
    encode, features = timed(lambda: backend.encode(pixels))
    decode = float(np.median([timed(lambda: backend.decode(features, one))[0] for _ in range(CLICKS)]))
    batch, _ = timed(lambda: backend.decode(features, many))
    segment, _ = timed(lambda: segmenter.segment_many(embedding, prompts[:1], multimask=True))
    return {
        "embed": embed,
        "encode": encode,
        "decode": decode,
        "decode16_each": batch / 16,
        "segment": segment,
    }


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="model name or path (default: the embedded nano)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    segmenter = anymask.load(options.model, threads=options.threads)
    for size in SIZES.values():
        one_round(segmenter, size, 0)  # first calls lay out memory
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in SIZES}
    for turn in range(options.rounds):
        for name, size in SIZES.items():
            rows[name].append(one_round(segmenter, size, turn))
    figures = {
        name: {
            key: {
                "p50": float(np.median([r[key] for r in runs])),
                "p90": float(np.percentile([r[key] for r in runs], 90)),
            }
            for key in runs[0]
        }
        for name, runs in rows.items()
    }
    keys = list(next(iter(figures.values())))
    print(f"{segmenter.spec.name}, {options.threads} threads, ms: p50 (p90)")
    print(f"{'':<8}" + "".join(f"{key:>18}" for key in keys))
    for name, cells in figures.items():
        print(
            f"{name:<8}"
            + "".join(f"{cells[k]['p50']:>10.1f} ({cells[k]['p90']:.1f})".rjust(18) for k in keys)
        )
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": options.threads,
            "model_digest": segmenter.spec.digest,
            "milliseconds": figures,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
