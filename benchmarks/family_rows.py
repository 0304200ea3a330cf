"""What `families.py` measures: the errors of one comparison beside the ladder's bounds, and our networks in both forms.

Every comparison holds for the network as published and as it is run (`TorchBackend`: norms folded into convolutions,
the fast decoder); a row has the larger error of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.model.network import LOW_RES_STRIDE, NetworkConfig
from anymask.model.prompt_tensors import NOT_A_POINT, PromptTensors
from anymask.runtime.backend import PromptArrays
from anymask.runtime.torch_backend import TorchBackend

BOUNDS = {
    "embedding": 1e-4,
    "cosine": 0.999999,
    "logits": 1e-3,
    "scores": 1e-4,
    "iou": 0.999,
    "flip": 1e-2,
}
"""The ladder: largest error, smallest cosine, smallest mask IoU, farthest flipped pixel from the threshold."""
AT_LEAST = ("cosine", "iou")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison; None where it has no such value.

    Attributes:
        family: as the tables call it.
        against: what it was compared with.
        network: sizes of the network, and of its frame.
        case: the prompts, or the picture's width x height.
        kind: "points", "boxes", "masks", "mixes", "many objects", "embedding" or "picture".
        objects: prompts of one call.
        embedding: largest error of any feature map.
        cosine: smallest, over the cells of all feature maps.
        logits, scores: largest errors.
        iou: smallest, of masks cut at 0.
        flip: the largest size of an expected logit whose pixel is on the other side in our mask; 0 without one.
        reach: the largest size of an expected logit, so that the errors can be judged.
        note: what else there is to say.
    """

    family: str
    against: str
    network: str
    case: str
    kind: str
    objects: int = 1
    embedding: float | None = None
    cosine: float | None = None
    logits: float | None = None
    scores: float | None = None
    iou: float | None = None
    flip: float | None = None
    reach: float | None = None
    note: str = ""

    def broken(self) -> list[str]:
        """The bounds that do not hold; a NaN holds none."""
        broken = []
        for name, bound in BOUNDS.items():
            value = getattr(self, name)
            kept = value is None or (value >= bound if name in AT_LEAST else value <= bound)
            if not kept:
                broken.append(name)
        return broken


@dataclasses.dataclass(frozen=True)
class Answer:
    """Logits B x M x h x w and scores B x M."""

    logits: Tensor
    scores: Tensor

    def picked(self, cells: Callable[[Tensor], Tensor]) -> Answer:
        """The same with some of the cells only."""
        return Answer(cells(self.logits), self.scores)


def kind_of(case: str) -> str:
    """The kind of prompt a case is about."""
    parts = [part for part in ("point", "box", "mask") if part in case]
    if case.startswith(("ragged", "all ")):
        return "many objects"
    return "mixes" if len(parts) > 1 else {"point": "points", "box": "boxes", "mask": "masks"}[parts[0]]


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; shapes must be the same."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)} cannot be compared")
    return float((ours - theirs).abs().max())


def errors(ours: Answer, theirs: Answer) -> dict[str, float]:
    """Logits, scores, IoU, flip and reach of one answer."""
    drawn, expected = ours.logits > 0, theirs.logits > 0
    return {
        "logits": largest(ours.logits, theirs.logits),
        "scores": largest(ours.scores, theirs.scores),
        "reach": float(theirs.logits.abs().max()),
        **mask_errors(drawn, expected, theirs.logits),
    }


def mask_errors(drawn: Tensor, expected: Tensor, logits: Tensor) -> dict[str, float]:
    """IoU and flip of bool masks ... x H x W; ``logits`` are the expected ones."""
    union = (drawn | expected).sum((-1, -2))
    iou = torch.where(union > 0, (drawn & expected).sum((-1, -2)) / union.clamp(min=1), 1.0)
    flipped = logits[drawn != expected].abs()
    return {"iou": float(iou.min()), "flip": float(flipped.max()) if flipped.numel() else 0.0}


def feature_errors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Embedding and cosine over the feature maps E x C x h x w that ``theirs`` has."""
    cosines = [
        torch.nn.functional.cosine_similarity(ours[name].double(), map_.double(), dim=1).min()
        for name, map_ in theirs.items()
    ]
    return {
        "embedding": max(largest(ours[name], map_) for name, map_ in theirs.items()),
        "cosine": float(min(cosines)),
    }


def worst(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The worst value of each name."""
    merged: dict[str, float] = {}
    for values in found:
        for name, value in values.items():
            pick = min if name in AT_LEAST else max
            known = merged.get(name, value)
            merged[name] = value if value != value else pick(known, value)  # a NaN stays
    return merged


class Ours:
    """One of our networks in both forms, looking at one image."""

    def __init__(self, network: Any, config: NetworkConfig) -> None:
        self.network, self.config = network.eval(), config
        self.backend = TorchBackend(network, config)
        self.features: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def look(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """Features of normalised pixels 1 x 3 x S x S, as published and as run."""
        running = self.backend.encode(pixels.numpy())
        self.features = [
            self.network.encode_features(pixels),
            {name: torch.from_numpy(np.array(map_)) for name, map_ in running.items()},
        ]
        return self.features

    @torch.no_grad()
    def ask(self, prompts: PromptTensors, running: bool = True) -> list[Answer]:
        """All four masks of every prompt, each form from its own features."""
        answers = [Answer(*self.network.decode_features(self.features[0], prompts))]
        if running:
            features = {name: map_.numpy() for name, map_ in self.features[1].items()}
            logits, scores = self.backend.decode(features, self._arrays(prompts))
            answers.append(Answer(torch.from_numpy(logits), torch.from_numpy(scores)))
        return answers

    def _arrays(self, prompts: PromptTensors) -> PromptArrays:
        count, side = len(prompts), self.config.image_size // LOW_RES_STRIDE
        coords, labels = prompts.coords.float(), prompts.labels.float()
        if prompts.present is not None:
            labels = labels.masked_fill(~prompts.present, NOT_A_POINT)
        if labels.shape[1] == 0:  # a mask alone
            coords, labels = torch.zeros(count, 1, 2), torch.full((count, 1), float(NOT_A_POINT))
        masks = torch.zeros(count, 1, side, side) if prompts.masks is None else prompts.masks
        has_mask = torch.full((count,), float(prompts.masks is not None))
        if prompts.has_mask is not None:
            has_mask = prompts.has_mask.float()
        return PromptArrays(*(t.numpy() for t in (coords, labels, masks.float(), has_mask)))


def disturb(network: Any, moved: Sequence[tuple[str, float]]) -> None:
    """Adds to the first number of each named weight that the network has: what a fault in the weights looks like."""
    weights = network.state_dict()
    with torch.no_grad():
        for name, amount in moved:
            if name in weights:
                weights[name].view(-1)[0] += amount
