"""Do two backends of one model answer alike, and how long do they take? One picture, every kind of prompt.

Used where an engine is chosen or a graph is rewritten: what does not agree is not used. Bounds are those of the parity
ladder: in float32 features 1e-4 of their range, logits 1e-3, scores 1e-4, masks at IoU 0.999; in bfloat16 half of the
masks at IoU 0.99 or better; in int8 half of them at 0.95 or better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from anymask.errors import PromptError
from anymask.frame import Frame
from anymask.runtime.backend import Backend, Features, FloatArray, ModelSpec, PromptArrays
from anymask.runtime.checks import low_res_size

MEDIAN_IOU: Final = {"bf16": 0.99, "int8": 0.95}
PATIENCE_S: Final = 2.0
"""A first run longer than this is not repeated to be timed without the engine's preparation."""


@dataclass(frozen=True)
class Agreement:
    """The largest differences between two backends, and the overlap of their masks."""

    features: float
    logits: float
    scores: float
    smallest_iou: float
    median_iou: float

    def faults(self, precision: str = "fp32") -> list[str]:
        """The bounds for this precision that do not hold, in words."""
        if precision != "fp32":
            bound = MEDIAN_IOU[precision]
            if self.median_iou >= bound:
                return []
            return [f"half of the masks agree at IoU {self.median_iou:.4f} or less, the bound is {bound}"]
        faults = [
            f"{name} differ by {seen:.2e}, the bound is {bound:.0e}"
            for name, seen, bound in (
                ("features", self.features, 1e-4),
                ("logits", self.logits, 1e-3),
                ("scores", self.scores, 1e-4),
            )
            if not seen <= bound
        ]
        if not self.smallest_iou >= 0.999:
            faults.append(f"masks agree at IoU {self.smallest_iou:.4f}, the bound is 0.999")
        return faults


@dataclass(frozen=True)
class Answers:
    """What one backend said, and its seconds for one image and for all prompts."""

    features: dict[str, FloatArray]
    decoded: list[tuple[FloatArray, FloatArray] | None]
    """Logits and scores of each batch; None where the model takes no such prompts."""
    encode_s: float
    decode_s: float


def ask(backend: Backend) -> Answers:
    """Run a backend on the trial picture and prompts."""
    spec = backend.spec
    pixels = trial_pixels(spec)
    encode_s, features = _timed(lambda: backend.encode(pixels))
    if encode_s < PATIENCE_S:
        encode_s, features = _timed(lambda: backend.encode(pixels))
    batches = list(trial_prompts(spec, pixels.shape[2:], low_res_size(spec, features)))
    backend.decode(features, batches[0])
    decode_s, decoded = _timed(lambda: [_decode(backend, features, batch) for batch in batches])
    return Answers(dict(features), decoded, encode_s, decode_s)


def _decode(
    backend: Backend, features: Features, batch: PromptArrays
) -> tuple[FloatArray, FloatArray] | None:
    try:
        return backend.decode(features, batch)
    except PromptError:
        return None


def agreement(reference: Answers, other: Answers) -> Agreement:
    """Compare two backends' answers; what has another shape, or is not finite, differs without end."""
    features = max(
        _difference(other.features[name], array) / max(1.0, float(np.abs(array).max()))
        for name, array in reference.features.items()
    )
    logits, scores = 0.0, 0.0
    ious: list[float] = []
    for wanted, seen in zip(reference.decoded, other.decoded, strict=True):
        if wanted is None and seen is None:
            continue
        if wanted is None or seen is None:
            return Agreement(features, float("inf"), float("inf"), 0.0, 0.0)
        logits = max(logits, _difference(seen[0], wanted[0]))
        scores = max(scores, _difference(seen[1], wanted[1]))
        ious += _ious(seen[0] > 0, wanted[0] > 0)
    return Agreement(features, logits, scores, min(ious), float(np.median(ious)))


def trial_pixels(spec: ModelSpec) -> FloatArray:
    """A picture of gradients, discs, a box and some noise in the network's frame, an eighth of it padding."""
    long = spec.long_side
    height = max(1, long * 7 // 8)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :long] / long
    picture = np.stack([200 * x, 200 * y, 120 + 60 * np.sin(9 * x + 4 * y)], axis=-1)
    for colour in ((230, 40, 50), (30, 90, 220), (240, 220, 60), (20, 160, 80)):
        cx, cy, radius = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.7), rng.uniform(0.06, 0.15)
        picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = colour
    picture[(abs(x - 0.75) < 0.12) & (abs(y - 0.3) < 0.08)] = (250, 250, 250)
    picture += rng.normal(0, 8, picture.shape)
    frame = Frame((height, long), long, spec.pad, spec.resize, spec.normalisation)
    return frame.to_network(picture.clip(0, 255).astype(np.uint8), spec.pixel_mean, spec.pixel_std)


def trial_prompts(
    spec: ModelSpec, network_size: tuple[int, ...], mask_size: tuple[int, int]
) -> Iterator[PromptArrays]:
    """One click, boxes alone, a padded mix, a mask alone, and sixteen objects at once."""
    height, width = network_size[0], network_size[1]
    side = np.array([width, height], dtype=np.float32)
    rng = np.random.default_rng(1)

    def batch(points: Any, labels: Any, fed: int = 0) -> PromptArrays:
        coords = (np.asarray(points, dtype=np.float32) * side).astype(np.float32)
        kinds = np.asarray(labels, dtype=np.float32)
        masks = np.zeros((len(kinds), 1, *mask_size), dtype=np.float32)
        masks[:fed] = rng.normal(0, 4, masks[:fed].shape)
        has_mask = (np.arange(len(kinds)) < fed).astype(np.float32)
        return PromptArrays(coords, kinds, masks, has_mask)

    yield batch([[[0.4, 0.4], [0, 0]]], [[1, -1]])
    yield batch([[[0.2, 0.1], [0.7, 0.6]], [[0.6, 0.2], [0.9, 0.4]]], [[2, 3]] * 2)
    mixed = [[[0.3, 0.3], [0.5, 0.5], [0.1, 0.6], [0, 0]], [[0.5, 0.2], [0.2, 0.1], [0.8, 0.7], [0, 0]]]
    yield batch(mixed, [[1, 0, 1, -1], [1, 2, 3, -1]], fed=1)
    yield batch([[[0, 0]]], [[-1]], fed=1)
    many = np.zeros((16, 2, 2))
    many[:, 0] = rng.uniform(0.05, 0.8, (16, 2))
    yield batch(many, [[1, -1]] * 16)


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def _difference(seen: FloatArray, wanted: FloatArray) -> float:
    if seen.shape != wanted.shape or not np.isfinite(seen).all():
        return float("inf")
    return float(np.abs(seen - wanted).max())


def _ious(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> list[float]:
    """IoU of each pair of masks; two empty ones agree."""
    if first.shape != second.shape:
        return [0.0]
    either = (first | second).sum((-2, -1)).ravel()
    both = (first & second).sum((-2, -1)).ravel()
    return [float(b / e) if e else 1.0 for b, e in zip(both, either, strict=True)]
