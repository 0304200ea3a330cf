"""Masks of everything in an image: a grid of clicks, three masks each, and filters that keep the good and distinct.

Source: Kirillov et al., "Segment Anything", 2023, section 5 and appendix B; ``SamAutomaticMaskGenerator`` of
``segment_anything/automatic_mask_generator.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import InputError, LimitError, PromptError
from anymask.frame import CropBox, crop_boxes
from anymask.image import ImageSource, read_image
from anymask.limits import MAX_AUTOMATIC_POINTS
from anymask.masks.boxes import half_open_to_published
from anymask.predict.loading import load
from anymask.predict.segmenter import Segmenter
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

from .adaptive import coarse_to_fine
from .candidates import WAITING_BYTES
from .cleanup import clean_up
from .crops import Clicks, Crop, CropRun
from .filters import published_nms
from .grid import point_grid
from .region import Region
from .settings import AutomaticSettings

__all__ = ["Generator", "Run", "generate"]

PointArray = NDArray[np.float64]
Progress = Callable[[int, int], object]


def generate(
    image: Embedding | ImageSource,
    segmenter: Segmenter | None = None,
    *,
    effort: str = "normal",
    region: ArrayLike | None = None,
    points: ArrayLike | None = None,
    progress: Progress | None = None,
    **parameters: Any,
) -> MaskSet:
    """Masks of everything in an image, best predicted IoU first.

        for mask in anymask.generate("photo.jpg", points_per_side=16):
            print(mask.box_xyxy, mask.score, mask.stability_score, mask.point)

    Args:
        image: a path, bytes, file, Pillow image or array; or, without crops, an embedding by this segmenter.
        segmenter: any `Segmenter`; `anymask.load()` when not given.
        effort: ``fast``, ``normal`` or ``thorough``; see `anymask.automatic.settings.EFFORTS`.
        region, points, progress: see `Generator.generate`.
        parameters: any of `AutomaticSettings`, in place of the effort's.

    Raises as `Generator.generate`, and `InputError` or `LimitError` for a parameter.
    """
    segmenter = load() if segmenter is None else segmenter
    settings = AutomaticSettings.for_effort(effort, segmenter.spec.name, **parameters)
    return Generator(segmenter, settings).generate(image, region, points, progress)


@dataclass(frozen=True)
class Run:
    """What one image gave.

    Attributes:
        masks: in the order of the published records: best first without crops and clean-up; with crops those of the
            smaller crop first; after a clean-up those that did not change first.
        image_size: (height, width).
        clicks: clicks decoded, those decoded twice counted twice.
    """

    masks: list[Mask]
    image_size: tuple[int, int]
    clicks: int


class Generator:
    """Everything mode of one segmenter with fixed settings, for any number of images; safe to share between threads.

    Memory of a call, beside image, embedding and answer: the decoder's answers to ``points_per_batch`` clicks, a
    network frame of float32, seven bytes per pixel of the image (eleven with a mask as region), and `WAITING_BYTES` of
    run lengths. It does not grow with the clicks or the masks found, beyond some hundred bytes for the scores and box
    of each.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        settings: AutomaticSettings | None = None,
        *,
        keep_logits: bool = False,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        """Without ``settings`` those of `AutomaticSettings.for_effort` for this model.

        With ``keep_logits`` masks found in the whole image keep their ``low_res_logits``. ``waiting_bytes`` is the
        memory for masks that may yet be suppressed; with less, more clicks are decoded twice.
        """
        self.segmenter = segmenter
        self.settings = settings or AutomaticSettings.for_effort(model=segmenter.spec.name)
        self._keep_logits, self._waiting_bytes = keep_logits, waiting_bytes

    def __repr__(self) -> str:
        return f"Generator({self.segmenter!r}, {self.settings!r})"

    def generate(
        self,
        image: Embedding | ImageSource,
        region: ArrayLike | None = None,
        points: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> MaskSet:
        """The masks, best predicted IoU first; each holds run lengths, stability, ``point`` and ``crop_box``.

        On the same weights these are the masks of the published generator, with two differences: a mask without a
        pixel is never given (published: with both thresholds 0), and crops that a tiny image leaves empty are left
        out.

        Args:
            image: a path, bytes, file, Pillow image or array; or, without crops, an embedding by this segmenter.
            region: a box (x0, y0, x1, y1) or a bool mask of the image's size: grid points outside are not clicked,
                and masks of which less than half lies inside are not kept.
            points: (N, 2), (x, y) in pixels of the image, clicked beside the grid; the best mask of each passes the
                thresholds of predicted IoU and stability.
            progress: called with the clicks done and the clicks in all.

        Raises:
            InputError: a region or points that do not fit, a region without a grid point, an embedding with crops.
            LimitError: more clicks than `MAX_AUTOMATIC_POINTS`.
            And what `Segmenter.embed` and `Segmenter.check` raise.
        """
        run = self.run(image, region, points, progress)
        return MaskSet(run.masks, run.image_size)

    def run(
        self,
        image: Embedding | ImageSource,
        region: ArrayLike | None = None,
        points: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """As `generate`, with the masks in the order of the published records, and what it took."""
        picture = image if isinstance(image, Embedding) else read_image(image)
        size = picture.image_size if isinstance(picture, Embedding) else picture.size
        place = None if region is None else Region(region, size)
        plan = self._plan(size, place, _wanted(points, size))
        total, done = sum(len(clicks) for _, clicks in plan), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        masks: list[Mask] = []
        decoded = 0
        for box, clicks in plan:
            crop = Crop(box, size, self._embed(picture, box))
            run = CropRun(self.segmenter, self.settings, crop, place, self._keep_logits, self._waiting_bytes)
            masks += run.masks(clicks, advance)
            decoded += run.decoded
        return Run(self._finish(masks), size, decoded)

    def _plan(
        self, size: tuple[int, int], region: Region | None, wanted: PointArray
    ) -> list[tuple[CropBox, Clicks]]:
        """The crops that have clicks, and these."""
        settings = self.settings
        boxes, layers = crop_boxes(size, settings.crop_n_layers, settings.crop_overlap_ratio)
        grids = _layer_grids(settings)
        total = sum(sum(len(level) for level in grids[layer]) for layer in layers) + len(wanted)
        if total > MAX_AUTOMATIC_POINTS:
            raise LimitError(
                f"{len(boxes)} crops with their grids are {total} clicks, over the limit of {MAX_AUTOMATIC_POINTS}; "
                "use fewer points_per_side or crop_n_layers, or a larger crop_n_points_downscale_factor"
            )
        plan = []
        for index, (box, layer) in enumerate(zip(boxes, layers, strict=True)):
            x0, y0, x1, y1 = box
            levels = [level * np.array([x1 - x0, y1 - y0], dtype=np.float64) for level in grids[layer]]
            if region is not None:
                levels = [level[region.holds(level + np.array([x0, y0]))] for level in levels]
            own = wanted if index == 0 else wanted[:0]
            clicks = Clicks(tuple(level for level in levels if len(level)), own)
            if len(clicks):
                plan.append((box, clicks))
        if not plan:
            raise InputError(
                "no point of the grid lies in the region; use more points_per_side, or give points yourself"
            )
        return plan

    def _embed(self, picture: Embedding | Image, box: CropBox) -> Embedding:
        if isinstance(picture, Embedding):
            if self.settings.crop_n_layers:
                raise InputError("crops need the picture, not its embedding; give the image itself")
            self.segmenter.check(picture)
            return picture
        x0, y0, x1, y1 = box
        if (y1 - y0, x1 - x0) == picture.size:
            return self.segmenter.embed(picture)
        return self.segmenter.embed(np.ascontiguousarray(picture.pixels[y0:y1, x0:x1]))

    def _finish(self, masks: list[Mask]) -> list[Mask]:
        """Suppression between crops, which prefers the smaller crop, and the clean-up."""
        settings = self.settings
        if settings.crop_n_layers:
            areas = np.array([_area(mask.crop_box) for mask in masks], dtype=np.float32)
            masks = _suppressed(masks, np.float32(1) / areas, settings.crop_nms_thresh)
        if settings.min_mask_region_area and masks:
            threshold = max(settings.box_nms_thresh, settings.crop_nms_thresh)
            masks = clean_up(masks, settings.min_mask_region_area, threshold)
        return masks


def _layer_grids(settings: AutomaticSettings) -> list[list[PointArray]]:
    """For the image and each layer of crops the clicks in [0, 1], level by level when adaptive."""
    if settings.point_grids is not None:
        return [[np.array(grid, dtype=np.float64).reshape(-1, 2)] for grid in settings.point_grids]
    assert settings.points_per_side is not None
    grids = []
    for layer in range(settings.crop_n_layers + 1):
        per_side = int(settings.points_per_side / settings.crop_n_points_downscale_factor**layer)
        grid = point_grid(per_side)
        grids.append([grid[level] for level in coarse_to_fine(per_side)] if settings.adaptive else [grid])
    return grids


def _wanted(points: ArrayLike | None, size: tuple[int, int]) -> PointArray:
    """A person's points (N, 2), checked."""
    if points is None or np.size(points) == 0:
        return np.zeros((0, 2), dtype=np.float64)
    array = np.asarray(points)
    if array.ndim != 2:
        raise PromptError(f"points must be a list of (x, y) pairs, got an array of shape {array.shape}")
    for point in array:
        Prompt(points=point[None]).validate_for(size[1], size[0])
    return array.astype(np.float64)


def _suppressed(masks: Sequence[Mask], scores: ArrayLike, iou_threshold: float) -> list[Mask]:
    boxes = [half_open_to_published(mask.box_xyxy) for mask in masks]
    return [masks[index] for index in published_nms(boxes, scores, iou_threshold)]


def _area(box: tuple[float, float, float, float] | None) -> float:
    assert box is not None
    return (box[2] - box[0]) * (box[3] - box[1])
