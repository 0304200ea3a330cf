"""Masks of everything in an image: a grid of clicks, three masks each, and filters that keep the good and distinct.

Source: Kirillov et al., "Segment Anything", 2023, section 5 and appendix B; ``SamAutomaticMaskGenerator`` of
``segment_anything/automatic_mask_generator.py``.
"""

from __future__ import annotations

import collections.abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anymask.errors import AnymaskError, InputError, LimitError, PromptError
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
from .encoding import embed_many, images_per_encode
from .filters import published_nms
from .grid import point_grid
from .region import Region
from .settings import AutomaticSettings
from .streaming import Run, Streamed, looked_ahead

__all__ = ["Generator", "Run", "Streamed", "generate"]

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


@dataclass
class _Begun:
    """One image with its crops to do.

    Attributes:
        picture: the image, or its embedding.
        size: (height, width) of the image.
        place: the region in it.
        segmenter: in the frame that its clicks are asked in.
        plan: its crops and their clicks.
        given_up: after an error no more of its crops are encoded.
    """

    picture: Embedding | Image
    size: tuple[int, int]
    place: Region | None
    segmenter: Segmenter
    plan: list[tuple[CropBox, Clicks]]
    given_up: bool = False


@dataclass(frozen=True)
class _Step:
    """What the thread ahead has made for one image.

    Attributes:
        index: of the image.
        image: None where it could not be read.
        begun: None where it could not be begun.
        made: the number of a crop and its embedding, or what went wrong.
    """

    index: int
    image: Image | None
    begun: _Begun | None
    made: tuple[int, Embedding] | AnymaskError


class Generator:
    """Everything mode of one segmenter with fixed settings, for any number of images; safe to share between threads.

    Memory of a call, beside image and answer: the decoder's answers to ``points_per_batch`` clicks; a network frame of
    float32, seven bytes per pixel of the image (eleven with a mask as region), and `WAITING_BYTES` of low-resolution
    planes and run lengths; and the embeddings and network frames of as many crops as are encoded at a time, one unless
    the backend wants more (`anymask.automatic.encoding`). It does not grow with the clicks or the masks found, beyond
    some hundred bytes for the scores and boxes of each. `stream` has the image and the embeddings of one such batch
    more.
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
        begun = self._begin(image, region, points)
        advance = _counted(begun.plan, progress)
        found = [
            self._crop_run(begun, number, embedding, advance) for number, embedding in self._embeddings(begun)
        ]
        return self._finished(begun, found)

    def stream(
        self, images: Iterable[Embedding | ImageSource], region: ArrayLike | None = None
    ) -> collections.abc.Generator[Streamed, None, None]:
        """As `run` for each of many images, in their order; while one is decoded the next is read and encoded.

            for found in generator.stream(paths):
                if found.error is None:
                    print(paths[found.index], len(found.masks))
                else:
                    print(paths[found.index], found.error)

        An image that fails stops no other. ``images`` is asked for the next one on another thread, one image ahead and
        no more; results wait for none that come after, and are those of `run`. ``region`` is as in `generate`, the same
        for every image.
        """
        found: list[tuple[list[Mask], int]] = []
        failed = -1
        with closing(looked_ahead(self._steps(images, region))) as steps:
            for step in steps:
                if step.index == failed:
                    continue
                begun, answer = step.begun, None
                try:
                    if isinstance(step.made, AnymaskError):
                        raise step.made
                    assert begun is not None
                    found.append(self._crop_run(begun, *step.made, None))
                    if len(found) == len(begun.plan):
                        answer = Streamed(step.index, step.image, self._finished(begun, found))
                except AnymaskError as error:
                    answer, failed = Streamed(step.index, step.image, None, error), step.index
                    if begun is not None:
                        begun.given_up = True
                if answer is not None:
                    found = []
                    yield answer

    def _steps(
        self, images: Iterable[Embedding | ImageSource], region: ArrayLike | None
    ) -> collections.abc.Generator[_Step, None, None]:
        for index, source in enumerate(images):
            image, begun = None, None
            try:
                picture = source if isinstance(source, Embedding) else read_image(source)
                image = picture if isinstance(picture, Image) else None
                begun = self._begin(picture, region, None)
                for made in self._embeddings(begun):
                    yield _Step(index, image, begun, made)
                    if begun.given_up:
                        break
            except AnymaskError as error:
                yield _Step(index, image, begun, error)

    def _begin(
        self, image: Embedding | ImageSource, region: ArrayLike | None, points: ArrayLike | None
    ) -> _Begun:
        picture = image if isinstance(image, Embedding) else read_image(image)
        size = _size_of(picture)
        place = None if region is None else Region(region, size)
        plan = self._plan(size, place, _wanted(points, size))
        return _Begun(picture, size, place, self._in_frame(picture), plan)

    def _in_frame(self, picture: Embedding | Image) -> Segmenter:
        """The segmenter in the settings' frame, unless the picture is an embedding of its own."""
        framed = self.segmenter.in_frame(self.settings.frame_side)
        if isinstance(picture, Embedding) and picture.preprocessing != framed.spec.preprocessing:
            return self.segmenter
        return framed

    def _embeddings(self, begun: _Begun) -> Iterator[tuple[int, Embedding]]:
        """The numbers of the crops of an image and their embeddings, crops of one size a few at a time."""
        picture = begun.picture
        if isinstance(picture, Embedding):
            if self.settings.crop_n_layers:
                raise InputError("crops need the picture, not its embedding; give the image itself")
            begun.segmenter.check(picture)
            yield 0, picture
            return
        together = images_per_encode(begun.segmenter)
        sizes = [begun.segmenter.frame((y1 - y0, x1 - x0)).network_size for (x0, y0, x1, y1), _ in begun.plan]
        start = 0
        for _, alike in itertools.groupby(sizes):
            end = start + len(list(alike))
            for first in range(start, end, together):
                numbers = range(first, min(first + together, end))
                crops = [_cut(picture, begun.plan[number][0]) for number in numbers]
                yield from zip(numbers, embed_many(begun.segmenter, crops), strict=True)
            start = end

    def _crop_run(
        self, begun: _Begun, number: int, embedding: Embedding, advance: Callable[[int], object] | None
    ) -> tuple[list[Mask], int]:
        """The masks of one crop and the clicks it took."""
        box, clicks = begun.plan[number]
        crop = Crop(box, begun.size, embedding)
        run = CropRun(
            begun.segmenter, self.settings, crop, begun.place, self._keep_logits, self._waiting_bytes
        )
        return run.masks(clicks, advance), run.decoded

    def _finished(self, begun: _Begun, found: Sequence[tuple[list[Mask], int]]) -> Run:
        masks = [mask for masks, _ in found for mask in masks]
        return Run(self._finish(masks), begun.size, sum(decoded for _, decoded in found))

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
            clicks = Clicks(tuple(level for level in levels if len(level)), own, _per_side(settings, layer))
            if len(clicks):
                plan.append((box, clicks))
        if not plan:
            raise InputError(
                "no point of the grid lies in the region; use more points_per_side, or give points yourself"
            )
        return plan

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


def _counted(
    plan: Sequence[tuple[CropBox, Clicks]], progress: Progress | None
) -> Callable[[int], object] | None:
    """``progress`` for the clicks of one crop after the other."""
    if progress is None:
        return None
    total, done = sum(len(clicks) for _, clicks in plan), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return advance


def _size_of(picture: Embedding | Image) -> tuple[int, int]:
    return picture.image_size if isinstance(picture, Embedding) else picture.size


def _cut(picture: Image, box: CropBox) -> ImageSource:
    x0, y0, x1, y1 = box
    if (y1 - y0, x1 - x0) == picture.size:
        return picture
    return np.ascontiguousarray(picture.pixels[y0:y1, x0:x1])


def _layer_grids(settings: AutomaticSettings) -> list[list[PointArray]]:
    """For the image and each layer of crops the clicks in [0, 1], level by level when adaptive."""
    if settings.point_grids is not None:
        return [[np.array(grid, dtype=np.float64).reshape(-1, 2)] for grid in settings.point_grids]
    grids = []
    for layer in range(settings.crop_n_layers + 1):
        per_side = _per_side(settings, layer)
        grid = point_grid(per_side)
        grids.append([grid[level] for level in coarse_to_fine(per_side)] if settings.adaptive else [grid])
    return grids


def _per_side(settings: AutomaticSettings, layer: int) -> int:
    """Clicks in a row of a crop's grid; 0 where a person gave the grids."""
    if settings.points_per_side is None:
        return 0
    return int(settings.points_per_side / settings.crop_n_points_downscale_factor**layer)


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
