"""Time after the decoder in everything mode: the published way, written plainly, against the generator's.

    python benchmarks/automatic_speed.py photo.jpg --json benchmarks/results/automatic_speed.json

Both get the same answers of the decoder, computed once beforehand, and both must give the same masks. Times are CPU
seconds of one process with one thread; the plain way upsamples with torch.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

import anymask
from anymask.automatic.generator import Generator
from anymask.automatic.records import published_records
from anymask.automatic.settings import AutomaticSettings
from anymask.image import read_image
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Backend, Features, FloatArray, PromptArrays


class Remembering:
    """A backend that answers again what it was asked before."""

    def __init__(self, backend: Backend) -> None:
        self.spec, self._backend = backend.spec, backend
        self._features: dict[bytes, Features] = {}
        self._answers: dict[bytes, tuple[FloatArray, FloatArray]] = {}

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        key = pixels.tobytes()
        if key not in self._features:
            self._features[key] = self._backend.encode(pixels)
        return self._features[key]

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        key = prompts.points.tobytes()
        if key not in self._answers:
            self._answers[key] = self._backend.decode(features, prompts)
        return self._answers[key]


def plain_generator() -> ModuleType:
    """The plain implementation that the tests compare with."""
    path = Path(__file__).parents[1] / "tests" / "automatic" / "reference_generator.py"
    spec = importlib.util.spec_from_file_location("reference_generator", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(work: Any, rounds: int) -> tuple[Any, float]:
    """The answer, and the median of the CPU seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        answer = work()
        seconds.append(time.process_time() - start)
    return answer, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--pred-iou-thresh", type=float)
    parser.add_argument("--stability-score-thresh", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    loaded = anymask.load(options.model, threads=1)
    segmenter = Segmenter(Remembering(loaded.backend))
    image = read_image(options.image)
    given = {
        name: getattr(options, name)
        for name in ("pred_iou_thresh", "stability_score_thresh")
        if getattr(options, name) is not None
    }
    settings = AutomaticSettings.for_effort(
        model=loaded.spec.name, points_per_side=options.points_per_side, points_per_batch=16, **given
    )
    generator = Generator(segmenter, settings)
    decoding = time.process_time()
    generator.run(image)
    decoding = time.process_time() - decoding
    ours, fast = timed(lambda: generator.run(image).masks, options.rounds)
    plain = plain_generator()
    parameters = {
        name: getattr(settings, name)
        for name in (
            "points_per_side",
            "points_per_batch",
            "pred_iou_thresh",
            "stability_score_thresh",
            "stability_score_offset",
            "box_nms_thresh",
        )
    }
    theirs, slow = timed(lambda: plain.reference_generate(segmenter, image.pixels, **parameters), 1)
    result = {
        "image": f"{image.size[1]} x {image.size[0]}",
        "model": loaded.spec.name,
        "clicks": options.points_per_side**2,
        "thresholds": [settings.pred_iou_thresh, settings.stability_score_thresh],
        "masks": [len(ours), len(theirs)],
        "worst_iou": worst_iou(published_records(ours), theirs),
        "first_run_with_decoder_s": decoding,
        "generator_s": fast,
        "plain_s": slow,
        "ratio": slow / fast,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
    }
    for name, value in result.items():
        print(f"{name:26} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def worst_iou(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Over masks in their order; 0 when there are not as many."""
    if len(ours) != len(theirs):
        return 0.0
    overlaps = [
        np.count_nonzero(a["segmentation"] & b["segmentation"])
        / max(np.count_nonzero(a["segmentation"] | b["segmentation"]), 1)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return float(min(overlaps, default=1.0))


if __name__ == "__main__":
    main()
