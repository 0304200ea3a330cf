"""What training batches are made of: sizes, sources, and how often which augmentation happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anymask.errors import InputError

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
