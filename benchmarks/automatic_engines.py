"""How each contender of `automatic` is opened, and the process in which it waits for its turn."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.image import read_image
from anymask.masks.rle import counts_to_string
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import (
    Backend,
    Features,
    FloatArray,
    Needed,
    Promising,
    PromptArrays,
    decode_promising,
)
from anymask.types import Mask
from automatic_contenders import (
    AFTER_DECODER,
    CONTENDERS,
    INT8,
    PEER,
    PLAIN,
    POINTS_PER_BATCH,
    Contender,
    Job,
    masks_file,
    save_masks,
)

__all__ = ["READY", "peak_mb", "work"]

READY: Final = "ready"
WARM_UP: Final = 8
"""Clicks per side that every contender answers before its first turn."""
Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    """Of one photograph: the masks, best first, and the clicks decoded where it is known."""

    masks: list[Mask]
    clicks: int | None = None


Generate = Callable[[Pixels, AutomaticSettings], Answer]
"""Pixels (H, W, 3) uint8 -> masks of everything."""


class Timed:
    """A backend that sums up the seconds of what it is asked."""

    def __init__(self, backend: Backend) -> None:
        self.spec, self._backend = backend.spec, backend
        self.seconds = {"encode": 0.0, "decode": 0.0}

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        features: Features = self._timed("encode", self._backend.encode, pixels)
        return features

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        answer: tuple[FloatArray, FloatArray] = self._timed("decode", self._backend.decode, features, prompts)
        return answer

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """See `Screens.decode_promising`; a backend that cannot choose draws all."""
        answer: Promising = self._timed("decode", decode_promising, self._backend, features, prompts, needed)
        return answer

    def _timed(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self.seconds[name] += time.perf_counter() - start


def open_backend(contender: Contender, folder: Path, threads: int) -> Backend:
    """The engine of one that splits into encoder and decoder."""
    if contender.name == PLAIN:
        from anymask.runtime.torch_backend import load_any
        from automatic_plain import PublishedBackend

        return PublishedBackend(*load_any(folder / "weights.safetensors"))
    if contender.model == "nano":
        import anymask

        return anymask.load("nano", backend=contender.engine, threads=threads, precision="fp32").backend
    if contender.engine == "onnx":
        from anymask.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(folder / "graphs", threads)
    from anymask.runtime.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(
        folder / (INT8 if contender.precision == "int8" else "graphs"), threads, contender.precision
    )


def open_contender(contender: Contender, folder: Path, job: Job) -> tuple[Generate, Timed | None]:
    """How it finds everything, and where its times can be read."""
    if contender.name == PEER:
        return _open_peer(folder, job.threads), None
    if contender.name == PLAIN:
        _use_torch_threads(job.threads)
    backend = Timed(open_backend(contender, folder, job.threads))
    segmenter = Segmenter(backend)
    if contender.name == PLAIN:
        from automatic_plain import plain_generate

        def plain(pixels: Pixels, settings: AutomaticSettings) -> Answer:
            found = plain_generate(segmenter, pixels, settings)
            height, width = pixels.shape[:2]
            assert settings.points_per_side is not None
            masks = [
                Mask.from_rle(
                    {"size": [height, width], "counts": counts_to_string(np.array(mask.counts))}, mask.score
                )
                for mask in found
            ]
            return Answer(masks, settings.points_per_side**2)

        return plain, backend

    def ours(pixels: Pixels, settings: AutomaticSettings) -> Answer:
        run = Generator(segmenter, settings).run(pixels)
        return Answer(run.masks, run.clicks)

    return ours, backend


def _open_peer(folder: Path, threads: int) -> Generate:
    """transformers' ``mask-generation`` with the same weights, its attention as it chooses.

    Its suppression of boxes is torchvision's, which has no build beside every torch: ours, of the same arithmetic,
    takes its place. It gives arrays, as it always does; they become run lengths after the clock has stopped.
    """
    import transformers
    from PIL import Image
    from transformers.models.sam import image_processing_pil_sam as peer

    from anymask.automatic.filters import published_nms
    from anymask.model.variants import SamConfig
    from anymask.runtime.torch_backend import load_any
    from sam_parity import transformers_peer

    class Processor(peer.SamImageProcessorPil):
        def post_process_for_mask_generation(
            self, masks: Any, scores: Any, boxes: Any, threshold: float
        ) -> Any:
            kept = published_nms(boxes.float().numpy(), scores.numpy(), threshold).tolist()
            rles = [masks[index] for index in kept]
            return [peer._rle_to_mask(rle) for rle in rles], scores[kept], rles, boxes[kept]

    _use_torch_threads(threads)
    network, config = load_any(folder / "weights.safetensors")
    assert isinstance(config, SamConfig)
    eager = transformers_peer(network, config)
    make: Callable[..., Any] = transformers.SamModel._from_config
    model = make(eager.config, attn_implementation="sdpa")
    model.load_state_dict(eager.state_dict())
    model.eval()
    del network, eager
    side = config.image_size
    processor = Processor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    pipeline = transformers.pipeline("mask-generation", model=model, image_processor=processor, device="cpu")

    def run(pixels: Pixels, settings: AutomaticSettings) -> Answer:
        found = pipeline(
            Image.fromarray(pixels),
            points_per_batch=settings.points_per_batch,
            points_per_crop=settings.points_per_side,
            pred_iou_thresh=settings.pred_iou_thresh,
            stability_score_thresh=settings.stability_score_thresh,
            stability_score_offset=settings.stability_score_offset,
            crops_nms_thresh=settings.box_nms_thresh,
        )
        pairs = zip(found["masks"], found["scores"].tolist(), strict=True)
        return Answer([Mask(np.asarray(mask, dtype=np.bool_), score) for mask, score in pairs])

    return run


def _use_torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def work(name: str, folder: Path) -> None:
    """A contender's process: opens it, then answers the number of a photograph with a line of figures."""
    import cv2

    job = Job.load(folder)
    cv2.setNumThreads(job.threads)
    photographs = [read_image(path).pixels for path in job.photographs]
    after = name == AFTER_DECODER
    answer = _after_decoder(folder, job) if after else _run_of(CONTENDERS[name], folder, job, photographs[0])
    print(READY, flush=True)
    for line in sys.stdin:
        index = int(line)
        print(json.dumps(answer(index, photographs[index])), flush=True)


def _run_of(
    contender: Contender, folder: Path, job: Job, first: Pixels
) -> Callable[[int, Pixels], dict[str, Any]]:
    """A run's figures; its masks go to a file. A few clicks on the first photograph warm it up."""
    generate, timed = open_contender(contender, folder, job)
    settings = job.settings(contender)
    generate(first, dataclasses.replace(settings, points_per_side=WARM_UP, adaptive=False))

    def run(index: int, pixels: Pixels) -> dict[str, Any]:
        before = dict(timed.seconds) if timed else {}
        start = time.perf_counter()
        found = generate(pixels, settings)
        seconds = time.perf_counter() - start
        peak = peak_mb()
        save_masks(masks_file(folder, contender.name, index), found.masks)
        parts = {key: value - before[key] for key, value in timed.seconds.items()} if timed else {}
        if parts:
            parts["rest"] = seconds - sum(parts.values())
        return {
            "seconds": seconds,
            **parts,
            "masks": len(found.masks),
            "clicks": found.clicks,
            "peak_mb": peak,
        }

    return run


def _after_decoder(folder: Path, job: Job) -> Callable[[int, Pixels], dict[str, Any]]:
    """Both ways from the same remembered answers of the decoder: seconds, and processor's seconds."""
    from automatic_plain import plain_generate
    from automatic_speed import Remembering

    _use_torch_threads(job.threads)
    contender = CONTENDERS["onnxruntime"]
    settings = dataclasses.replace(job.settings(contender), points_per_batch=POINTS_PER_BATCH)
    backend = open_backend(contender, folder, job.threads)

    def run(index: int, pixels: Pixels) -> dict[str, Any]:
        segmenter = Segmenter(Remembering(backend))
        generator = Generator(segmenter, settings)
        generator.run(pixels)  # fills the memory
        ours = [_clocked(lambda: generator.run(pixels).masks) for _ in range(3)]
        masks, wall, cpu = sorted(ours, key=lambda run: run[1])[1]
        theirs, plain_wall, plain_cpu = _clocked(lambda: plain_generate(segmenter, pixels, settings))
        return {
            "ours_s": wall,
            "ours_cpu_s": cpu,
            "plain_s": plain_wall,
            "plain_cpu_s": plain_cpu,
            "masks": [len(masks), len(theirs)],
        }

    return run


def _clocked(call: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = call()
    return answer, time.perf_counter() - wall, time.process_time() - cpu


def peak_mb() -> float:
    """The most memory this process has held, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1.024e-3
