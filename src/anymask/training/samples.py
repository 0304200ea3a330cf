"""From shards to training batches: a pure function of (seed, step).

Each batch is drawn, decoded and augmented on its own, from a random generator keyed by the run's seed and the
step's number. Workers share nothing, any step can be made again, and a resumed run sees exactly the batches the
undisturbed one would have seen. What happens to one sample is in `augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anymask.data.dataset import Dataset, Sample
from anymask.errors import InputError

from .augmentation import LOW_RES_STRIDE, augmented_view, is_trainable, repeated
from .sampling_config import SamplingConfig
from .scenes import scene
from .synthesis import Donation, coverage_of, decode_reduced, whole_objects

_TRIES = 8
_PHOTOGRAPHS = 0.6  # share of scenes that get a photograph to cut textures from


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        pixels: (B, 3, H, W) uint8 RGB.
        coverage: (B, M, H/4, W/4) uint8, 255 where the object covers the whole cell.
    """

    pixels: Tensor
    coverage: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return Batch(self.pixels.to(device, non_blocking=True), self.coverage.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Lay the tensors in page-locked memory (called by the data loader)."""
        return Batch(self.pixels.pin_memory(), self.coverage.pin_memory())


def source_probabilities(
    shards: Sequence[tuple[str, int]], config: SamplingConfig
) -> npt.NDArray[np.float64]:
    """Probability of each shard, from (source, images) pairs; grouped sources share one group's weight."""
    group_of = {name: i for i, group in enumerate(config.groups) for name in group}
    totals: dict[Any, int] = {}
    for name, count in shards:
        totals[group_of.get(name, name)] = totals.get(group_of.get(name, name), 0) + count
    weights = []
    for name, count in shards:
        total = totals[group_of.get(name, name)]
        weights.append(total**config.weight_power * count / total * config.weights.get(name, 1.0))
    array = np.asarray(weights, dtype=np.float64)
    probabilities: npt.NDArray[np.float64] = array / array.sum()
    return probabilities


def is_held_back(index: int, hold_back: int) -> bool:
    """True when the image of this index in its source is kept from training (see `SamplingConfig.hold_back`)."""
    return hold_back > 0 and index % hold_back == hold_back - 1


class BatchSource(TorchDataset[Batch]):
    """Batches by number; ``per_step`` of them make one step of the optimiser.

    Raises:
        InputError: cut-outs are to be pasted and none of their sources has a shard.
    """

    def __init__(
        self,
        shards: Sequence[Dataset],
        names: Sequence[str],
        config: SamplingConfig,
        seed: int,
        per_step: int = 1,
    ) -> None:
        self.per_step = per_step
        self.shards = list(shards)
        self.config = config
        self.seed = seed
        self._probabilities = source_probabilities(
            [(n, len(s)) for n, s in zip(names, shards, strict=True)], config
        )
        self._donors = [
            (names.index(name), category or None)
            for name, _, category in (entry.partition(":") for entry in config.paste_sources)
            if name in names
        ]
        if config.paste > 0 and not self._donors:
            raise InputError(
                f"paste is {config.paste} but none of its sources {', '.join(config.paste_sources)} has a shard"
            )
        self._donor_probabilities = source_probabilities(
            [(names[shard], len(shards[shard])) for shard, _ in self._donors], config
        )

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng([self.seed, number])
        sizes = [sizes for first, sizes in self.config.phases if first <= number // self.per_step][-1]
        height, width = sizes[int(rng.integers(len(sizes)))]
        pixels: list[npt.NDArray[np.uint8]] = []
        coverage: list[npt.NDArray[np.uint8]] = []
        while len(pixels) < self.config.images:
            if self.config.scenes > 0 and rng.random() < self.config.scenes:
                view = self._scene(height, width, rng)
            else:
                sample = self._sample(rng)
                if sample is None:
                    continue
                view = augmented_view(sample, height, width, self.config, rng, self._donate)
            if view is not None:
                pixels.append(view[0])
                coverage.append(view[1])
        return Batch(
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(coverage)),
        )

    def _sample(self, rng: np.random.Generator) -> Sample | None:
        """A random sample; None when the draw falls on one that is held back."""
        shard = self.shards[int(rng.choice(len(self.shards), p=self._probabilities))]
        index = int(rng.integers(len(shard)))
        return None if is_held_back(index, self.config.hold_back) else shard[index]

    def _donate(self, rng: np.random.Generator) -> Donation | None:
        """A random sample of `SamplingConfig.paste_sources` with whole objects, never one that is held back."""
        for _ in range(_TRIES):
            shard, category = self._donors[int(rng.choice(len(self._donors), p=self._donor_probabilities))]
            index = int(rng.integers(len(self.shards[shard])))
            if not is_held_back(index, self.config.hold_back):
                sample = self.shards[shard][index]
                objects = whole_objects(sample, self.config.paste_area, category)
                if objects:
                    return sample, objects
        return None

    def _scene(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
        """A drawn scene, perhaps with textures from a photograph, and the coverage of some of its masks."""
        sample = self._sample(rng) if rng.random() < _PHOTOGRAPHS else None
        photographs = [] if sample is None else [decode_reduced(sample.image, 2)]
        pixels, masks = scene(rng, height, width, photographs)
        sizes = np.array([cv2.sumElems(mask)[0] for mask in masks])
        order = np.argsort(rng.exponential(size=len(masks)) / np.sqrt(sizes))  # mostly the larger ones first
        coverage = (coverage_of(masks[i], LOW_RES_STRIDE) for i in order)
        found = [c for c in coverage if is_trainable(c, self.config)][: self.config.masks]
        return (pixels, repeated(found, self.config.masks)) if found else None
