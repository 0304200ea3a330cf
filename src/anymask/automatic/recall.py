"""What the adaptive grid costs: which of the full grid's masks it finds, and with how many clicks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from anymask.errors import InputError
from anymask.image import ImageSource, read_image
from anymask.masks import rle
from anymask.predict.segmenter import Segmenter
from anymask.types import Mask

from .generator import Generator
from .settings import AutomaticSettings

__all__ = ["AdaptiveRecall", "adaptive_recall", "found_again"]

FOUND_IOU: Final = 0.9
"""A mask is found again when another overlaps it so much."""


@dataclass(frozen=True)
class AdaptiveRecall:
    """The adaptive grid against the full one on one picture.

    Attributes:
        full_masks, adaptive_masks: how many masks each gave.
        found: those of the full grid that the adaptive grid found too.
        full_clicks, adaptive_clicks: clicks decoded.
    """

    full_masks: int
    adaptive_masks: int
    found: int
    full_clicks: int
    adaptive_clicks: int

    @property
    def recall(self) -> float:
        """Share of the full grid's masks found; 1 when there are none."""
        return self.found / self.full_masks if self.full_masks else 1.0

    @property
    def clicks_saved(self) -> float:
        """Share of the full grid's clicks that were not needed."""
        return 1 - self.adaptive_clicks / self.full_clicks


def adaptive_recall(
    segmenter: Segmenter, image: ImageSource, settings: AutomaticSettings, iou: float = FOUND_IOU
) -> AdaptiveRecall:
    """Run both grids with the same settings otherwise, and compare their masks.

    Raises:
        InputError: settings without a grid per side, or an ``iou`` that is not above 0 and at most 1.
        And what `Generator.generate` raises.
    """
    if not 0 < iou <= 1:
        raise InputError(f"the overlap must be above 0 and at most 1, got {iou!r:.40}")
    picture = read_image(image)
    masks, clicks = [], []
    for adaptive in (False, True):
        generator = Generator(segmenter, dataclasses.replace(settings, adaptive=adaptive))
        run = generator.run(picture)
        masks.append(run.masks)
        clicks.append(run.clicks)
    return AdaptiveRecall(
        len(masks[0]), len(masks[1]), found_again(masks[0], masks[1], iou), clicks[0], clicks[1]
    )


def found_again(wanted: Sequence[Mask], found: Sequence[Mask], iou: float = FOUND_IOU) -> int:
    """How many of the ``wanted`` masks overlap one of the ``found`` by ``iou`` or more."""
    areas = [mask.area for mask in found]
    count = 0
    for mask in wanted:
        area = mask.area
        near = [
            other
            for other, size in zip(found, areas, strict=True)
            if min(area, size) >= iou * max(area, size)
        ]
        count += any(rle.iou(mask.counts, other.counts) >= iou for other in near)
    return count
