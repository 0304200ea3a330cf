"""From shards to training batches: a pure function of (seed, step).

Each batch is drawn, decoded and augmented on its own, from a random generator keyed by the run's seed and the
step's number. Workers share nothing, any step can be made again, and a resumed run sees exactly the batches the
undisturbed one would have seen.

Masks are kept at the decoder's resolution (a quarter of the image's) as *coverage*: the share of each cell the
object covers, so that the loss still knows where in a cell the boundary lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anymask.data.dataset import Dataset, Sample
from anymask.errors import InputError
from anymask.masks.rle import decode

from .scenes import scene
from .synthesis import (
    Donation,
    Donor,
    Layer,
    composite,
    coverage_of,
    decode_reduced,
    draw_layers,
    hidden_by,
    hide,
    visible_alphas,
    whole_objects,
)

LOW_RES_STRIDE = 4
PADDING_COLOUR = np.array([124, 116, 104], np.uint8)
PASTE_SOURCES = (
    "komahomu",
    "humanseg",
    "ccp:person",
    "class5",
    "cocomini",
    "tinycoco",
    "cocotiny",
    "cocosubset",
    "coco128",
    "balloon",
    "strawberries",
    "plates",
    "nuts",
    "wastebottles",
    "feralcats",
    "firetrucks",
    "cwfid",
    "carparts",
    "lara2018:leaf",
    "ppe:helmet",
)
_TRIES = 8
_PHOTOGRAPHS = 0.6  # share of scenes that get a photograph to cut textures from


@dataclass(frozen=True)
class SamplingConfig:
    """What a batch is made of.

    Attributes:
        images: images per step of the optimiser and batch of accumulation, shared out among the processes.
        masks: masks (each prompted on its own) per image.
        phases: (first step, sizes) in rising order; a batch draws one of its phase's (height, width) in pixels,
            multiples of 32. Small pictures first, larger ones later.
        scale: range of the longer side, in multiples of the batch's longer side, that an image is resized to.
        min_cells: masks that cover fewer cells (of 4 x 4 pixels) are not trained on.
        groups: sources that count as one when drawing.
        weight_power: a source is drawn in proportion to its number of images to this power.
        hold_back: the last of every this many images of a source is never drawn (0: all are), so that choices
            can be made on pictures that training has not seen.
        grey, invert: shares of views without colour and with inverted light.
        paste: share of views of photographs that get cut-outs of other samples pasted on (see `synthesis`).
        paste_sources: sources that cut-outs come from, each a name or "name:category"; those without a shard are
            passed over.
        paste_objects: least and greatest number of cut-outs.
        paste_area: least and greatest share of its own image that a cut-out covers.
        scenes: share of views that are drawn scenes instead of photographs (see `scenes`).

    Raises:
        InputError: a share is outside 0..1, or a range is empty.
    """

    images: int = 8
    masks: int = 5
    phases: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ((0, ((256, 256), (224, 288), (288, 224))),)
    scale: tuple[float, float] = (0.8, 2.0)
    min_cells: float = 3.0
    groups: tuple[tuple[str, ...], ...] = (("cocomini", "tinycoco", "cocotiny", "cocosubset", "coco128"),)
    weight_power: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)
    hold_back: int = 0
    grey: float = 0.15
    invert: float = 0.04
    paste: float = 0.0
    paste_sources: tuple[str, ...] = PASTE_SOURCES
    paste_objects: tuple[int, int] = (1, 4)
    paste_area: tuple[float, float] = (0.01, 0.6)
    scenes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("paste", "scenes"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is a share of views from 0 to 1, got {getattr(self, name)}")
        if not 1 <= self.paste_objects[0] <= self.paste_objects[1]:
            raise InputError(f"paste_objects needs 1 <= least <= greatest, got {self.paste_objects}")
        if not 0.0 <= self.paste_area[0] < self.paste_area[1] <= 1.0:
            raise InputError(f"paste_area needs 0 <= least < greatest <= 1, got {self.paste_area}")


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
        found = [c for c in coverage if _is_trainable(c, self.config)][: self.config.masks]
        return (pixels, _repeated(found, self.config.masks)) if found else None


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Encoded image of a trusted training shard -> (H, W, 3) uint8 RGB."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(bgr, dtype=np.uint8)[..., ::-1])


def augmented_view(
    sample: Sample,
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
    donor: Donor | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """One random view of a sample and some of its masks, with cut-outs from ``donor`` pasted on where drawn.

    Returns:
        pixels (height, width, 3) uint8 and coverage (M, height/4, width/4) uint8, or None when no mask is in view.
    """
    if not sample.annotations:
        return None
    image = decode_image(sample.image)
    for _ in range(_TRIES):
        matrix = random_affine(sample, image.shape[:2], height, width, config, rng)
        found = _visible_masks(sample, matrix, height, width, config, rng)
        if not found:
            continue
        view, coverage = _warp(image, matrix, height, width), [cells for _, cells in found]
        inside = _inside(image.shape[:2], matrix, height, width)
        if donor is not None and config.paste > 0 and rng.random() < config.paste:
            layers = draw_layers(view, donor, config.paste_objects, inside, rng)
            view, coverage = composite(view, layers), _coverage_below(found, layers, matrix, config, rng)
            if not coverage:
                continue
        return _fill_outside(photometric(view, config, rng), inside), _repeated(coverage, config.masks)
    return None


def random_affine(
    sample: Sample,
    image_size: tuple[int, int],
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """2 x 3 matrix from image to view pixels (pixel-corner coordinates): scale, aspect, flip, and a window.

    The window is placed so that the centre of a randomly drawn mask is in view.
    """
    image_h, image_w = image_size
    scale = max(height, width) / max(image_h, image_w) * float(np.exp(rng.uniform(*np.log(config.scale))))
    aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
    scale_x, scale_y = scale * aspect, scale / aspect
    x, y, w, h = sample.annotations[int(rng.integers(len(sample.annotations)))]["bbox"]
    shift = []
    for extent, view, centre in (
        (image_w * scale_x, width, (x + w * rng.uniform(0.2, 0.8)) * scale_x),
        (image_h * scale_y, height, (y + h * rng.uniform(0.2, 0.8)) * scale_y),
    ):
        room = extent - view
        if room <= 0:  # the whole side fits: leave it anywhere in the view, most often at the origin
            shift.append(0.0 if rng.random() < 0.7 else rng.uniform(room, 0.0))
        else:
            shift.append(float(np.clip(centre - rng.uniform(0.15, 0.85) * view, 0.0, room)))
    matrix = np.array([[scale_x, 0.0, -shift[0]], [0.0, scale_y, -shift[1]]])
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width
    return matrix


def _warp(
    image: npt.NDArray[Any], matrix: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[Any]:
    """Resample under a corner-coordinate matrix, averaging when shrinking; zero outside the image."""
    shrink = float(np.sqrt(abs(matrix[0, 0] * matrix[1, 1])))
    if shrink < 0.75:  # area-average first, so that the warp does not alias
        small_h = max(1, round(image.shape[0] * shrink))
        small_w = max(1, round(image.shape[1] * shrink))
        scale_back = np.diag([image.shape[1] / small_w, image.shape[0] / small_h, 1.0])
        image = cv2.resize(image, (small_w, small_h), interpolation=cv2.INTER_AREA)
        matrix = matrix @ scale_back
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5  # OpenCV's pixel centres are at integers
    return cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR)


def _inside(
    image_size: tuple[int, int], matrix: npt.NDArray[np.float64], height: int, width: int
) -> tuple[slice, slice]:
    """Rows and columns of the view that the image fills."""
    corners = np.array([[0.0, 0.0, 1.0], [image_size[1], image_size[0], 1.0]]) @ matrix.T
    x, y = np.round([corners.min(0), corners.max(0)]).astype(int).T
    (x0, x1), (y0, y1) = np.clip(x, 0, width).tolist(), np.clip(y, 0, height).tolist()
    return slice(y0, y1), slice(x0, x1)


def _fill_outside(view: npt.NDArray[np.uint8], inside: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
    """Paint what lies outside the image in the mean colour, which is zero after normalisation, as at inference."""
    filled = np.empty_like(view)
    filled[:] = PADDING_COLOUR
    filled[inside] = view[inside]
    return filled


def _visible_masks(
    sample: Sample,
    matrix: npt.NDArray[np.float64],
    height: int,
    width: int,
    config: SamplingConfig,
    rng: np.random.Generator,
) -> list[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]]:
    """Up to ``config.masks`` randomly chosen annotations that are in view, and their coverage."""
    low_h, low_w = height // LOW_RES_STRIDE, width // LOW_RES_STRIDE
    low_matrix = matrix / LOW_RES_STRIDE
    found: list[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]] = []
    for index in rng.permutation(len(sample.annotations)):
        annotation = sample.annotations[int(index)]
        if not _box_in_view(annotation["bbox"], matrix, height, width):
            continue
        mask = decode(annotation["segmentation"])
        coverage = _warp(mask.view(np.uint8) * np.uint8(255), low_matrix, low_h, low_w)
        if _is_trainable(coverage, config):
            found.append((annotation, coverage))
        if len(found) == config.masks:
            break
    return found


def _is_trainable(coverage: npt.NDArray[np.uint8], config: SamplingConfig) -> bool:
    """True when a mask covers neither too few cells nor nearly all."""
    cells = float(coverage.sum(dtype=np.int64)) / 255.0
    return config.min_cells <= cells <= 0.95 * coverage.size


def _repeated(coverage: Sequence[npt.NDArray[np.uint8]], count: int) -> npt.NDArray[np.uint8]:
    """Stack ``count`` masks, going round when there are fewer."""
    return np.stack([coverage[i % len(coverage)] for i in range(count)])


def _coverage_below(
    found: Sequence[tuple[Mapping[str, Any], npt.NDArray[np.uint8]]],
    layers: Sequence[Layer],
    matrix: npt.NDArray[np.float64],
    config: SamplingConfig,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.uint8]]:
    """Coverage of up to ``config.masks`` of the pasted objects and of the view's own masks, less what is covered."""
    height, width = (side * LOW_RES_STRIDE for side in found[0][1].shape)
    hidden = hidden_by(layers, height, width)
    hidden_cells = coverage_of(hidden, LOW_RES_STRIDE)
    coverage = [
        coverage_of(alpha, LOW_RES_STRIDE)
        for alpha in visible_alphas(layers, height, width)
        if alpha is not None
    ]
    for annotation, cells in found:
        if not np.minimum(cells, hidden_cells).any():
            coverage.append(cells)
            continue
        mask = decode(annotation["segmentation"]).view(np.uint8) * np.uint8(255)
        left = hide(_warp(mask, matrix, height, width), hidden)
        if left is not None:
            coverage.append(coverage_of(left, LOW_RES_STRIDE))
    coverage = [cells for cells in coverage if _is_trainable(cells, config)]
    return [coverage[i] for i in rng.permutation(len(coverage))[: config.masks]]


def _box_in_view(bbox: Sequence[float], matrix: npt.NDArray[np.float64], height: int, width: int) -> bool:
    """True when at least a third of the box lies in the view."""
    x, y, w, h = bbox
    corners = np.array([[x, y, 1.0], [x + w, y + h, 1.0]]) @ matrix.T
    low, high = corners.min(0), corners.max(0)
    inside = np.clip(np.minimum(high, [width, height]) - np.maximum(low, 0.0), 0.0, None)
    return bool(inside.prod() >= (high - low).prod() / 3.0)


def photometric(
    image: npt.NDArray[np.uint8], config: SamplingConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Brightness, contrast, gamma and saturation jitter; sometimes grey, rarely inverted, sometimes blurred."""
    x = image.astype(np.float32) * np.float32(1.0 / 255.0)
    if rng.random() < config.grey:
        x = np.repeat(x.mean(2, keepdims=True), 3, axis=2)
    else:
        x = x.mean(2, keepdims=True) + (x - x.mean(2, keepdims=True)) * np.float32(rng.uniform(0.5, 1.5))
        x *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    x = (x - 0.5) * np.float32(rng.uniform(0.7, 1.3)) + np.float32(0.5 + rng.uniform(-0.15, 0.15))
    x = np.clip(x, 0.0, 1.0) ** np.float32(np.exp(rng.uniform(-0.3, 0.3)))
    if rng.random() < config.invert:
        x = 1.0 - x
    if rng.random() < 0.1:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.2)))
    jittered: npt.NDArray[np.uint8] = (x * 255.0 + 0.5).astype(np.uint8)
    return jittered
