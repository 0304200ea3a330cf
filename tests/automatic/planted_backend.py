"""A backend whose masks are rich and known: blobs with holes and islands, scores with ties."""

from __future__ import annotations

import hashlib

import numpy as np

from anymask.runtime.backend import NUM_MASKS, Features, ModelSpec, Needed, Promising, PromptArrays
from anymask.runtime.checks import low_res_size
from anymask.runtime.fake_backend import FakeBackend


class PlantedBackend(FakeBackend):
    """For each click three fields of a few waves around it, seeded by where it is; the same for every batch.

    Neighbouring clicks share the waves of their neighbourhood, so many masks are near duplicates. Scores are multiples
    of 1/20.
    """

    def __init__(self, long_side: int = 128, steepness: float = 6.0, neighbourhood: float = 40.0) -> None:
        super().__init__(long_side)
        self.steepness, self.neighbourhood = steepness, neighbourhood
        digest = hashlib.sha256(f"planted {long_side} {steepness} {neighbourhood}".encode()).hexdigest()
        self.spec = ModelSpec(name="planted", digest=digest, long_side=long_side, pad=32)
        self.decoded: list[int] = []

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.decode`."""
        height, width = low_res_size(self.spec, features)
        self.decoded.append(len(prompts))
        y, x = np.mgrid[:height, :width] * float(self.spec.low_res_stride)
        logits = np.zeros((len(prompts), NUM_MASKS, height, width), dtype=np.float32)
        scores = np.zeros((len(prompts), NUM_MASKS), dtype=np.float32)
        for index, point in enumerate(prompts.points[:, 0].astype(np.float64)):
            home = np.floor(point / self.neighbourhood)
            for mask in range(NUM_MASKS):
                chance = np.random.default_rng([mask, *home.astype(int).tolist(), 1])
                waves = sum(
                    np.cos((x * chance.normal() + y * chance.normal()) / 9 + chance.uniform(0, 6))
                    for _ in range(5)
                )
                centre = (home + 0.5) * self.neighbourhood
                reach = 10.0 + 14.0 * mask
                distance = np.hypot(x - centre[0], y - centre[1])
                nudge = 0.3 * np.sin(point.sum() + mask)
                logits[index, mask] = self.steepness * (1 + nudge + 0.4 * waves - distance / reach)
                own = np.random.default_rng([mask, *(point * 16).astype(int).tolist()])
                scores[index, mask] = own.integers(10, 21) / 20
        return logits, scores


class ScreeningBackend(PlantedBackend):
    """Draws no masks of clicks that promise no more than was asked for, and nonsense where there is no picture.

    `withheld` counts the clicks without masks.
    """

    withheld = 0

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """See `Screens.decode_promising`."""
        logits, scores = self.decode(features, prompts)
        drawn = np.flatnonzero(scores[:, 1:].max(axis=1) > needed.least_iou)
        self.withheld += len(prompts) - len(drawn)
        if needed.picture is not None:
            rows, columns = (-(-side // self.spec.low_res_stride) + 1 for side in needed.picture)
            logits[..., rows:, :] = logits[..., columns:] = 50.0
        return Promising(logits[drawn], scores, drawn)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured noise (H, W, 3) uint8, so that crops differ."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
