"""Speed and memory of a model, measured in a process of its own so that nothing else is counted."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anymask.errors import ModelError
from anymask.evaluation.subjects import open_subject

__all__ = ["Speed", "measure_speed"]

REPEATS: Final = 15
"""Answers timed for each image, after two that are not."""
_PATIENCE_S: Final = 900.0


@dataclass(frozen=True)
class Speed:
    """What one image and one prompt cost.

    Attributes:
        encode_ms: median over images of a whole embedding, decoding of the file included.
        decode_ms: median of one click's answer at full size from a ready embedding.
        peak_mb: largest resident memory of the process in MiB, interpreter and libraries included.
        start_s: seconds to open the model, its libraries being loaded already.
        threads: asked for; 0 leaves the choice to the engine.
        machine: processor kind and cores.
    """

    encode_ms: float
    decode_ms: float
    peak_mb: float
    start_s: float
    threads: int
    machine: str


def measure_speed(spec: str, images: Sequence[bytes], threads: int = 0) -> Speed:
    """Embed some encoded images and click in the middle of each, in a fresh process.

    Args:
        spec: as `open_subject` takes it.
        images: encoded files, at least one.
        threads: for one inference; 0 leaves the choice to the engine.

    Raises:
        ModelError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(spec, list(images), threads, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(_PATIENCE_S):
            raise ModelError(f"timing {spec!r} took over {_PATIENCE_S:.0f} s; it was stopped")
        answer: Any = receiver.recv()
    except EOFError:
        raise ModelError(f"the process that timed {spec!r} ended without an answer") from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return Speed(**answer)


def _measure(spec: str, images: list[bytes], threads: int, sender: Any) -> None:
    try:
        sender.send(_figures(spec, images, threads))
    except Exception as error:
        sender.send(error)


def _figures(spec: str, images: list[bytes], threads: int) -> dict[str, Any]:
    start = time.perf_counter()
    model = open_subject(spec, threads=threads).model
    ready = time.perf_counter() - start
    encode: list[float] = []
    decode: list[float] = []
    for number, image in enumerate(images):
        for turn in range(4 if number == 0 else 3):  # the first of all warms up, and is not counted
            start = time.perf_counter()
            embedding = model.embed(image)
            if number or turn:
                encode.append(time.perf_counter() - start)
        height, width = embedding.image_size
        for turn in range(REPEATS + 2):
            start = time.perf_counter()
            model.segment(embedding, points=[(width / 2, height / 2)], labels=[1], multimask=False)
            if turn >= 2:
                decode.append(time.perf_counter() - start)
    return {
        "encode_ms": 1e3 * statistics.median(encode),
        "decode_ms": 1e3 * statistics.median(decode),
        "peak_mb": _peak_mb(),
        "start_s": ready,
        "threads": threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _peak_mb() -> float:
    """Peak resident memory of this process alone; what the parent held before it forked does not count."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024
