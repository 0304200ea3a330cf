"""Everything mode as published, step by step in plain torch: what `automatic` and `automatic_memory` compare with.

The order of work and the arrays are those of ``SamAutomaticMaskGenerator``, ``utils/amg.py`` and ``predict_torch`` of
segment_anything: the image's embedding repeated for every click, all planes of a batch of 64 clicks at the image's
size in float32, indexed anew by every filter, counted twice for stability, thresholded, boxed, and brought to run
lengths one by one. Two things are anymask's: the network's layers, and the suppression of boxes, in place of
torchvision's (both are fast; torchvision has no build beside every torch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from anymask.automatic.filters import published_nms
from anymask.automatic.grid import point_grid
from anymask.automatic.settings import AutomaticSettings
from anymask.frame import Frame
from anymask.model.prompt_tensors import PromptTensors
from anymask.predict.prompts import prompt_arrays
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, FloatArray, PromptArrays
from anymask.runtime.torch_backend import TorchBackend
from anymask.types import Prompt

__all__ = ["PlainMask", "PublishedBackend", "plain_generate"]


class PublishedBackend:
    """A SAM in its published form, the embedding repeated for each prompt; a `Backend`."""

    def __init__(self, network: Any, config: Any) -> None:
        """``network`` with its weights in place, and its sizes."""
        self._network = network
        self._published = TorchBackend(network, config, as_published=True)
        self.spec = self._published.spec

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        return self._published.encode(pixels)

    @torch.inference_mode()
    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`; prompts of points only."""
        embedding = torch.from_numpy(features["embedding"].copy()).repeat_interleave(len(prompts), dim=0)
        tensors = PromptTensors.from_padded(
            torch.from_numpy(prompts.points), torch.from_numpy(prompts.labels)
        )
        logits, scores = self._network.decode_features({"embedding": embedding}, tensors)
        return logits.numpy(), scores.numpy()


@dataclass(frozen=True)
class PlainMask:
    """A mask that is left.

    Attributes:
        counts: run lengths, column by column, zeros first.
        score: predicted IoU.
    """

    counts: list[int]
    score: float


@torch.inference_mode()
def plain_generate(
    segmenter: Segmenter, image: np.ndarray[Any, Any], settings: AutomaticSettings
) -> list[PlainMask]:
    """Masks of everything in pixels (H, W, 3) uint8, best first; one grid, no crops and no clean-up."""
    assert settings.points_per_side is not None
    frame = segmenter.frame(image.shape[:2])
    embedding = segmenter.embed(image)
    points = point_grid(settings.points_per_side) * np.array(image.shape[1::-1], dtype=np.float64)
    stride = segmenter.spec.low_res_stride
    low_res = (frame.network_size[0] // stride, frame.network_size[1] // stride)
    scores, boxes, runs = [], [], []
    for start in range(0, len(points), settings.points_per_batch):
        batch = points[start : start + settings.points_per_batch]
        arrays = prompt_arrays([Prompt(points=point[None], labels=[1]) for point in batch], frame, low_res)
        logits, predicted = segmenter.backend.decode(embedding.features, arrays)
        found = _filtered(
            _upsampled(torch.from_numpy(logits[:, 1:]), frame).flatten(0, 1),
            torch.from_numpy(predicted[:, 1:]).flatten(),
            settings,
            segmenter.spec.mask_threshold,
        )
        scores.append(found[0])
        boxes.append(found[1])
        runs += found[2]
    all_scores = torch.cat(scores)
    kept = published_nms(torch.cat(boxes).numpy(), all_scores.numpy(), settings.box_nms_thresh)
    return [PlainMask(runs[index], float(all_scores[index])) for index in kept]


def _upsampled(logits: Tensor, frame: Frame) -> Tensor:
    """(N, 3, h, w) -> (N, 3, H, W), by way of the padded network frame."""
    height, width = frame.resized_size
    network = interpolate(logits, frame.network_size, mode="bilinear", align_corners=False)
    return interpolate(network[..., :height, :width], frame.image_size, mode="bilinear", align_corners=False)


def _filtered(
    planes: Tensor, scores: Tensor, settings: AutomaticSettings, threshold: float
) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Scores (K,), boxes (K, 4) with inclusive maxima and run lengths of the planes (N, H, W) that pass."""
    if settings.pred_iou_thresh > 0:
        good = scores > settings.pred_iou_thresh
        planes, scores = planes[good], scores[good]
    offset = settings.stability_score_offset
    inner, outer = (_pixels(planes > threshold + sign * offset) for sign in (1, -1))
    if settings.stability_score_thresh > 0:
        stable = inner / outer >= settings.stability_score_thresh
        planes, scores = planes[stable], scores[stable]
    masks = planes > threshold
    del planes
    return scores, _boxes(masks), _run_lengths(masks)


def _pixels(masks: Tensor) -> Tensor:
    return masks.sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32)


def _boxes(masks: Tensor) -> Tensor:
    """(N, 4) int64; zeros for a mask without a pixel."""
    sides = []
    for axis in (-2, -1):  # what is left after the maximum: columns, rows
        hit = masks.any(dim=axis)
        places = torch.arange(hit.shape[-1])
        first = torch.where(hit, places, hit.shape[-1]).amin(-1) if hit.shape[0] else places[:0]
        last = (hit * places).amax(-1) if hit.shape[0] else places[:0]
        sides += [first, last]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=-1)
    return boxes * masks.flatten(1).any(-1)[:, None]


def _run_lengths(masks: Tensor) -> list[list[int]]:
    """Of all masks at once where they change, then one by one."""
    flat = masks.permute(0, 2, 1).flatten(1)
    changes = (flat[:, 1:] ^ flat[:, :-1]).nonzero()
    found = []
    for index in range(len(flat)):
        ends = changes[changes[:, 0] == index, 1] + 1
        edges = torch.cat([torch.tensor([0]), ends, torch.tensor([flat.shape[1]])])
        counts = (edges[1:] - edges[:-1]).tolist()
        found.append([0, *counts] if bool(flat[index, 0]) else counts)
    return found
