"""Batches of pictures without masks: a pure function of (seed, number), as those of `samples` are.

Pictures are those of the training shards that are not held back, and any photographs given beside them, which count
as one more source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anymask.data.dataset import Dataset
from anymask.data.photographs import Photographs
from anymask.errors import DatasetError, ImageError
from anymask.image import read_image

from .augmentation import decode_image, photometric, warp
from .masked_images import draw_hidden
from .samples import is_held_back, source_probabilities
from .sampling_config import SamplingConfig

_TRIES = 20
_ASPECT = 0.15  # spread of the logarithm of a window's stretch, as for labelled views


@dataclass(frozen=True)
class MaskedBatch:
    """One step's input.

    Attributes:
        pixels: (B, 3, H, W) uint8 RGB.
        hidden: (B, H/P, W/P) bool, patches to be predicted.
    """

    pixels: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> MaskedBatch:
        """Move to a device."""
        return MaskedBatch(
            self.pixels.to(device, non_blocking=True), self.hidden.to(device, non_blocking=True)
        )

    def pin_memory(self) -> MaskedBatch:
        """Lay the tensors in page-locked memory (called by the data loader)."""
        return MaskedBatch(self.pixels.pin_memory(), self.hidden.pin_memory())


@dataclass(frozen=True)
class HidingConfig:
    """What is hidden of a view, and how the view is cut.

    Attributes:
        patch: side of a patch in pixels, a divisor of the views' sides.
        share: share of patches that are hidden.
        zoom: range of an image's scale, in multiples of the least at which it fills the view.
    """

    patch: int = 32
    share: float = 0.6
    zoom: tuple[float, float] = (1.0, 2.2)


class MaskedBatchSource(TorchDataset[MaskedBatch]):
    """Batches by number; ``per_step`` of them make one step of the optimiser.

    Of ``sampling``, what concerns sources, sizes and light is used; there are no masks, pastes or scenes.
    """

    def __init__(
        self,
        shards: Sequence[Dataset],
        names: Sequence[str],
        photographs: Photographs | None,
        sampling: SamplingConfig,
        hiding: HidingConfig,
        seed: int,
        per_step: int = 1,
    ) -> None:
        self.shards = list(shards)
        self.photographs = photographs
        self.sampling, self.hiding = sampling, hiding
        self.seed, self.per_step = seed, per_step
        sources = [(name, len(shard)) for name, shard in zip(names, shards, strict=True)]
        if photographs is not None:
            sources.append((photographs.source, len(photographs)))
        self._probabilities = source_probabilities(sources, sampling)

    def __getitem__(self, number: int) -> MaskedBatch:
        rng = np.random.default_rng([self.seed, number])
        sizes = [sizes for first, sizes in self.sampling.phases if first <= number // self.per_step][-1]
        height, width = sizes[int(rng.integers(len(sizes)))]
        views, hidden = [], []
        for _ in range(self.sampling.images):
            views.append(self._view(height, width, rng))
            rows, columns = height // self.hiding.patch, width // self.hiding.patch
            hidden.append(draw_hidden(rows, columns, self.hiding.share, rng))
        return MaskedBatch(
            torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(hidden)),
        )

    def _view(self, height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        image = self._image(rng)
        matrix = random_window((image.shape[0], image.shape[1]), height, width, self.hiding.zoom, rng)
        return photometric(warp(image, matrix, height, width), self.sampling, rng)

    def _image(self, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A random picture that is not held back; photographs that cannot be read are passed over."""
        problem: Exception | None = None
        for _ in range(_TRIES):
            source = int(rng.choice(len(self._probabilities), p=self._probabilities))
            if source < len(self.shards):
                shard = self.shards[source]
                index = int(rng.integers(len(shard)))
                if not is_held_back(index, self.sampling.hold_back):
                    return decode_image(shard[index].image)
            elif self.photographs is not None:
                try:
                    index = int(rng.integers(len(self.photographs)))
                    return read_image(self.photographs[index]).pixels
                except (ImageError, DatasetError) as error:
                    problem = error
        reason = f"the last could not be read: {problem}" if problem else "all of them are held back"
        raise DatasetError(f"none of {_TRIES} pictures drawn can be used; {reason}")


def random_window(
    image_size: tuple[int, int],
    height: int,
    width: int,
    zoom: tuple[float, float],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """2 x 3 matrix from image to view pixels (pixel-corner coordinates): a random window that the image fills.

    Args:
        image_size: (height, width) of the image.
        height, width: of the view.
        zoom: range of the scale, in multiples of the least at which the image fills the view.
        rng: where the draws come from: scale, stretch, place across, place down, flip.
    """
    image_h, image_w = image_size
    scale = max(height / image_h, width / image_w) * float(np.exp(rng.uniform(*np.log(zoom))))
    stretch = float(np.exp(rng.uniform(-_ASPECT, _ASPECT)))
    scale_x = max(scale * stretch, width / image_w)
    scale_y = max(scale / stretch, height / image_h)
    x = rng.uniform(0.0, 1.0) * (image_w * scale_x - width)
    y = rng.uniform(0.0, 1.0) * (image_h * scale_y - height)
    matrix = np.array([[scale_x, 0.0, -x], [0.0, scale_y, -y]])
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width
    return matrix
