"""The parity gate of exports: what every engine is asked, how far its answers may lie apart, and the refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.errors import ParityError

PROMPTS = ("points", "labels", "mask_input", "has_mask")

__all__ = [
    "HALF_WEIGHTS",
    "PROMPTS",
    "SAME_WEIGHTS",
    "Parity",
    "PromptTuple",
    "Run",
    "compare_engines",
    "open_session",
    "prompt_suite",
    "random_prompts",
    "refuse_broken",
]


@dataclass(frozen=True)
class Parity:
    """Differences between two engines on the prompt suite: the largest of each kind, and the smallest mask IoU."""

    features: float
    logits: float
    scores: float
    mask_iou: float

    def broken_bounds(self, bounds: Parity | None = None) -> list[str]:
        """Bounds that do not hold, one clause each; `SAME_WEIGHTS` when none are given."""
        bounds = bounds or SAME_WEIGHTS
        faults = [
            f"{name} differ by {seen:.2e}, the bound is {bound:.0e}"
            for name, seen, bound in (
                ("features", self.features, bounds.features),
                ("logits", self.logits, bounds.logits),
                ("scores", self.scores, bounds.scores),
            )
            if not seen <= bound
        ]
        if not self.mask_iou >= bounds.mask_iou:
            faults.append(f"masks agree at IoU {self.mask_iou:.4f}, the bound is {bounds.mask_iou}")
        return faults


SAME_WEIGHTS = Parity(features=1e-4, logits=1e-3, scores=1e-4, mask_iou=0.999)
"""Bounds where the same numbers are computed by another engine."""

HALF_WEIGHTS = Parity(features=1e-2, logits=1e-1, scores=1e-2, mask_iou=0.9)
"""Bounds for weights rounded to half precision. The IoU is the worst mask's of noise pictures, some of a few pixels;
what rounding does to real masks is measured by evaluation."""


def refuse_broken(parity: Parity, name: str, bounds: Parity | None = None) -> None:
    """Raise `ParityError` unless every bound holds; `SAME_WEIGHTS` when none are given."""
    if faults := parity.broken_bounds(bounds):
        raise ParityError(f"The export of {name} was refused: {'; '.join(faults)}.")


PromptTuple = tuple[Tensor, Tensor, Tensor, Tensor]


def random_prompts(height: int, width: int, prompts: int, points: int, seed: int) -> PromptTuple:
    """Foreground and background clicks without boxes or masks, for a frame of height x width."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    coords = torch.rand(prompts, points, 2, generator=generator) * size
    labels = torch.randint(0, 2, (prompts, points), generator=generator).float()
    labels[:, 0] = 1.0
    return coords, labels, torch.zeros(prompts, 1, height // 4, width // 4), torch.zeros(prompts)


def prompt_suite(height: int, width: int) -> list[PromptTuple]:
    """Every kind of prompt the decoder meets, box-only and padded ones included."""
    point = random_prompts(height, width, 1, 1, 1)
    many = random_prompts(height, width, 5, 4, 2)
    padded = random_prompts(height, width, 3, 3, 3)
    padded[1][1, 1:] = -1.0
    padded[0][1, 1:] = 0.0
    corners = torch.tensor([[[0.2, 0.1], [0.7, 0.6]], [[0.0, 0.0], [1.0, 1.0]]]) * torch.tensor(
        [width, height]
    )
    box = (
        corners,
        torch.tensor([[2.0, 3.0]] * 2),
        torch.zeros(2, 1, height // 4, width // 4),
        torch.zeros(2),
    )
    mixed_coords = torch.cat([corners, many[0][:2, :2]], dim=1)
    mixed_labels = torch.cat([box[1], torch.tensor([[1.0, 0.0], [1.0, -1.0]])], dim=1)
    noise = torch.randn(2, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(4)) * 5.0
    with_mask = (mixed_coords, mixed_labels, noise, torch.tensor([1.0, 0.0]))
    mask_only = (torch.zeros(1, 1, 2), -torch.ones(1, 1), noise[:1], torch.ones(1))
    return [point, many, padded, box, (mixed_coords, mixed_labels, box[2], box[3]), with_mask, mask_only]


Run = Callable[[Mapping[str, Any]], dict[str, Any]]


def compare_engines(
    encode: Callable[[Tensor], dict[str, Tensor]],
    decode: Callable[..., tuple[Tensor, Tensor]],
    run_encoder: Run,
    run_decoder: Run,
    pictures: Sequence[Tensor],
    takes_masks: bool = True,
) -> Parity:
    """The largest differences between torch and another engine.

    Args:
        encode: pixels -> named features, in torch.
        decode: features and a `PromptTuple` -> logits and scores, in torch.
        run_encoder, run_decoder: inputs by name -> outputs by name; the decoder is given the encoder's own features.
        pictures: 1 x 3 x H x W each.
        takes_masks: whether the decoder has inputs for mask prompts; else prompts with masks are left out.
    """
    worst = {"features": 0.0, "logits": 0.0, "scores": 0.0}
    overlap = 1.0
    for pixels in pictures:
        with torch.no_grad():
            features = encode(pixels)
        seen = run_encoder({"pixels": pixels.numpy()})
        for key in features:
            scale = max(1.0, float(features[key].abs().max()))
            worst["features"] = max(worst["features"], _difference(seen[key], features[key]) / scale)
        names = PROMPTS if takes_masks else PROMPTS[:2]
        for prompts in prompt_suite(pixels.shape[2], pixels.shape[3]):
            if not takes_masks and prompts[3].any():
                continue
            with torch.no_grad():
                logits, scores = decode(features, *prompts)
            answer = run_decoder({**seen, **{n: p.numpy() for n, p in zip(names, prompts, strict=False)}})
            seen_logits, seen_scores = answer["low_res_logits"], answer["predicted_iou"]
            worst["logits"] = max(worst["logits"], _difference(seen_logits, logits))
            worst["scores"] = max(worst["scores"], _difference(seen_scores, scores))
            if seen_logits.shape == tuple(logits.shape):
                overlap = min(overlap, _smallest_iou(seen_logits > 0, logits.numpy() > 0))
    return Parity(worst["features"], worst["logits"], worst["scores"], overlap)


def open_session(model: bytes | Path) -> Run:
    """An onnxruntime session of bytes, or of a file that we have just written, with its weights beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has a class per status, all outside its public names
        raise _cannot_run(error) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        except Exception as error:
            raise _cannot_run(error) from error

    return run


def _cannot_run(error: Exception) -> ParityError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ParityError(f"the export was refused: onnxruntime cannot run the graphs: {reason:.300}")


def _difference(seen: np.ndarray[Any, Any], expected: Tensor) -> float:
    if seen.shape != tuple(expected.shape) or not np.isfinite(seen).all():
        return float("inf")
    return float(np.abs(seen - expected.numpy()).max())


def _smallest_iou(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    either = (first | second).sum((-2, -1))
    both = (first & second).sum((-2, -1))
    ious = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    return float(ious.min())
