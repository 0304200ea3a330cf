"""What may be set for masks of everything: the published parameters, and what was added to them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from anymask.errors import InputError, LimitError
from anymask.limits import (
    MAX_CROP_LAYERS,
    MAX_IMAGE_PIXELS,
    MAX_NETWORK_SIDE,
    MAX_OBJECTS_PER_CALL,
    MAX_POINTS_PER_SIDE,
)
from anymask.predict.segmenter import PROMPTS_PER_DECODE

__all__ = ["EFFORTS", "MODEL_DEFAULTS", "AutomaticSettings", "PointGrid"]

PointGrid = tuple[tuple[float, float], ...]

_SHARES: Final = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_nms_thresh",
    "max_area_share",
    "least_promise",
)

EFFORTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "fast": MappingProxyType(
            {"points_per_side": 16, "adaptive": True, "enough_clicks": 3, "least_promise": 0.65}
        ),
        "normal": MappingProxyType({}),
        "thorough": MappingProxyType(
            {
                "crop_n_layers": 1,
                "crop_n_points_downscale_factor": 2,
                "min_mask_region_area": 100,
                "frame_side": None,
            }
        ),
    }
)
"""How much to look for: a quarter of the clicks, and those only where they may find something new; the published grid;
and crops as well, in the model's own frame, with masks cleaned up."""

MODEL_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "nano": MappingProxyType(
            {
                "pred_iou_thresh": 0.6,
                "stability_score_thresh": 0.3,
                "enough_clicks": 8,
                "least_promise": 0.4,
                "frame_side": 512,
            }
        )
    }
)
"""What suits a model better than the published defaults, by its name.

No mask of the embedded model reaches the published thresholds: its scores are on another scale than SAM's. Its own were
chosen on pictures held back from training (`benchmarks/automatic_quality.py --thresholds`); lower ones find more, and
more that is nothing. Its adaptive grid gives up less easily, as its scores lie close together. A thousand clicks are
asked in a smaller frame than its own, which they were all chosen in.
"""


@dataclass(frozen=True)
class AutomaticSettings:
    """The parameters of the published generator, with its names and defaults, and five more; checked at birth.

    Attributes:
        points_per_side: clicks in a row and in a column; None when ``point_grids`` says where to click.
        points_per_batch: clicks decoded together; more need more memory and change no result.
        pred_iou_thresh: masks stay whose predicted IoU is above it; 0 keeps all.
        stability_score_thresh: masks stay whose stability is not below it; 0 keeps all.
        stability_score_offset: how far, in logits, the cut moves up and down when stability is measured.
        box_nms_thresh: of two masks of one crop whose boxes overlap more (IoU), the better stays.
        crop_n_layers: layers of crops after the whole image; layer n has 4^n of them.
        crop_nms_thresh: of two masks of different crops whose boxes overlap more, that of the smaller crop stays.
        crop_overlap_ratio: overlap of the crops of layer 1, as a share of the image's shorter side; halved layer by
            layer.
        crop_n_points_downscale_factor: each layer has that many times fewer clicks per side than the one before.
        point_grids: for the image and each layer of crops clicks (N, 2), (x, y) in [0, 1]; instead of
            ``points_per_side``.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed; 0 leaves masks as they are.
        max_area_share: masks that cover a larger share of the whole image are dropped, before they can suppress others.
        adaptive: clicks go from coarse to fine, and what accepted masks explain is not clicked again
            (`anymask.automatic.adaptive`).
        enough_clicks: when adaptive, a place is explained when so many clicks found the same mask over it.
        least_promise: when adaptive, a place is hopeless when the best predicted IoU of the clicks around it is on
            average below this share of ``pred_iou_thresh``; 0 gives none up.
        frame_side: the longer side of the network frame at most, in pixels, of a model whose frame is free
            (`anymask.Segmenter.in_frame`): less is faster and coarser. None, and an image given as an embedding: as
            the segmenter has it.

    Raises:
        InputError: a value of the wrong kind or out of range.
        LimitError: a value beyond `anymask.limits`.

    Source: Kirillov et al., "Segment Anything", 2023, section 5 and appendix B; ``SamAutomaticMaskGenerator`` of
    ``segment_anything/automatic_mask_generator.py``.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: tuple[PointGrid, ...] | None = None
    min_mask_region_area: int = 0
    max_area_share: float = 1.0
    adaptive: bool = False
    enough_clicks: int = 5
    least_promise: float = 0.65
    frame_side: int | None = None

    def __post_init__(self) -> None:
        for name in _SHARES:
            self._number(name, 0, 1)
        self._number("stability_score_offset", 0, math.inf)
        self._number("crop_overlap_ratio", 0, 1, below=True)
        self._whole("points_per_batch", 1, MAX_OBJECTS_PER_CALL)
        self._whole("crop_n_layers", 0, MAX_CROP_LAYERS)
        self._whole("crop_n_points_downscale_factor", 1, MAX_POINTS_PER_SIDE)
        self._whole("min_mask_region_area", 0, MAX_IMAGE_PIXELS)
        self._whole("enough_clicks", 1, MAX_OBJECTS_PER_CALL)
        if self.frame_side is not None:
            self._whole("frame_side", 1, MAX_NETWORK_SIDE)
        if not isinstance(self.adaptive, bool):
            raise InputError(f"adaptive must be True or False, got {self.adaptive!r:.40}")
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError(
                "give either points_per_side or point_grids; with point_grids set points_per_side=None"
            )
        if self.adaptive and self.point_grids is not None:
            raise InputError("an adaptive grid needs points_per_side; point_grids are clicked as they are")
        if self.points_per_side is not None:
            self._whole("points_per_side", 1, MAX_POINTS_PER_SIDE)
            self._check_scaled()
        if self.point_grids is not None:
            self._take_grids(self.point_grids)

    @classmethod
    def for_effort(cls, effort: str = "normal", model: str | None = None, **given: Any) -> AutomaticSettings:
        """The settings of an effort, ``fast``, ``normal`` or ``thorough``, with what is given in place of theirs.

        Clicks are decoded `PROMPTS_PER_DECODE` at a time and not 64, which on a CPU take SAM's decoder far more memory
        (``benchmarks/automatic.py --batch 64``) and are not faster on every engine; a GPU may want 64 or more. No
        result changes.

        Args:
            effort: a name in `EFFORTS`.
            model: name of the model; its `MODEL_DEFAULTS` go before the published ones.
            given: any attributes of this class.

        Raises:
            InputError: no such effort or parameter.
        """
        if effort not in EFFORTS:
            raise InputError(f"the effort is one of {', '.join(EFFORTS)}, not {effort!r:.40}")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(
                f"masks of everything have no parameter {unknown[0]!r:.60}; there are {', '.join(known)}"
            )
        values = {
            "points_per_batch": PROMPTS_PER_DECODE,
            **MODEL_DEFAULTS.get(model or "", {}),
            **EFFORTS[effort],
            **given,
        }
        if given.get("point_grids") is not None:
            values |= {"points_per_side": None, "adaptive": False} | given
        return cls(**values)

    def _number(self, name: str, least: float, most: float, below: bool = False) -> None:
        value = getattr(self, name)
        kinds = (int, float, np.integer, np.floating)
        plain = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not plain or not (least <= value < most if below else least <= value <= most):
            end = "or more" if most == math.inf else f"{'and below' if below else 'to'} {most:g}"
            raise InputError(f"{name} must be a number, {least:g} {end}, got {value!r:.40}")
        object.__setattr__(self, name, float(value))

    def _whole(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise InputError(f"{name} must be a whole number, got {value!r:.40}")
        if not least <= value <= most:
            raise LimitError(f"{name} must be from {least} to {most}, got {value}")
        object.__setattr__(self, name, int(value))

    def _check_scaled(self) -> None:
        side, factor = self.points_per_side, self.crop_n_points_downscale_factor
        assert side is not None
        if int(side / factor**self.crop_n_layers) < 1:
            raise InputError(
                f"{side} points per side, {factor} times fewer in each of {self.crop_n_layers} layers, leave none"
            )

    def _take_grids(self, grids: Any) -> None:
        """Any sequence of arrays (N, 2) as plain tuples."""
        try:
            arrays = [np.asarray(grid, dtype=np.float64) for grid in grids]
        except (TypeError, ValueError) as error:
            raise InputError(f"point_grids must be a list of arrays of (x, y): {error}") from None
        if len(arrays) != self.crop_n_layers + 1:
            raise InputError(
                f"point_grids must have one grid for the image and one per layer of crops, {self.crop_n_layers + 1} "
                f"in all, got {len(arrays)}"
            )
        for array in arrays:
            if array.ndim != 2 or array.shape[1] != 2 or not ((array >= 0) & (array <= 1)).all():
                raise InputError(
                    f"a grid of point_grids must be (x, y) pairs from 0 to 1, got shape {array.shape}"
                )
            if len(array) > MAX_POINTS_PER_SIDE**2:
                raise LimitError(f"a grid may have {MAX_POINTS_PER_SIDE**2} points, got {len(array)}")
        plain = tuple(tuple((float(x), float(y)) for x, y in array.tolist()) for array in arrays)
        object.__setattr__(self, "point_grids", plain)
