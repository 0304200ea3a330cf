"""`SamAutomaticMaskGenerator`: masks of everything, with the published parameters and records, over our generator.

Source: ``segment_anything/automatic_mask_generator.py`` of the published code, whose names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anymask.automatic.generator import Generator
from anymask.automatic.records import OUTPUT_MODES, published_records
from anymask.automatic.settings import AutomaticSettings
from anymask.compat.errors import PublishedAssertionError, need_torch
from anymask.compat.predictor import SamPredictor, check_image
from anymask.compat.segmenter_model import SegmenterModel
from anymask.compat.utils.amg import build_all_layer_point_grids
from anymask.predict.segmenter import Segmenter

if TYPE_CHECKING:
    from anymask.compat.modeling import Sam

__all__ = ["SamAutomaticMaskGenerator"]


class SamAutomaticMaskGenerator:
    """Finds the masks of an image from a grid of clicks; see `anymask.automatic`."""

    def __init__(
        self,
        model: Sam | SegmenterModel | Segmenter,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[NDArray[np.floating]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        """With a model, or any `Segmenter`.

        Args:
            points_per_side: clicks in a row and in a column; None when ``point_grids`` are given.
            points_per_batch: clicks answered together.
            pred_iou_thresh: masks of a lower predicted IoU are dropped; 0 keeps all.
            stability_score_thresh: masks of a lower stability score are dropped; 0 keeps all.
            stability_score_offset: how far the stability score moves the threshold, in logits.
            box_nms_thresh: of two boxes in a crop whose IoU is above, the worse mask is dropped.
            crop_n_layers: layers of crops beside the image; layer n has 4 ** n.
            crop_nms_thresh: as ``box_nms_thresh`` between crops, where the smaller crop is preferred.
            crop_overlap_ratio: overlap of the crops of the first layer, in shares of the image's shorter side.
            crop_n_points_downscale_factor: by which the points per side shrink from layer to layer.
            point_grids: for each layer points (N, 2), (x, y) in [0, 1].
            min_mask_region_area: smaller holes and islands are mended; 0 leaves all.
            output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".

        Raises `PublishedAssertionError` unless exactly one of ``points_per_side`` and ``point_grids`` is given and the
        mode is known, and `InputError` or one of its children for values out of range.
        """
        if (points_per_side is None) == (point_grids is None):
            raise PublishedAssertionError("exactly one of points_per_side or point_grids must be provided")
        if output_mode not in OUTPUT_MODES:
            raise PublishedAssertionError(
                f"unknown output_mode {output_mode!r:.80}; it is one of {OUTPUT_MODES}"
            )
        self.predictor = SamPredictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.point_grids: Sequence[NDArray[np.floating]] = (
            point_grids
            if point_grids is not None
            else build_all_layer_point_grids(
                points_per_side or 0, crop_n_layers, crop_n_points_downscale_factor
            )
        )
        self._segmenter = _segmenter(self.predictor.model)
        self._settings()  # values out of range are refused at birth

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Records of the masks of an RGB image (H, W, 3) uint8, in the published order.

        Each has, in this order, ``segmentation`` (bool (H, W), or a COCO record), ``area`` in pixels, ``bbox`` XYWH
        with inclusive maxima, ``predicted_iou``, ``point_coords`` [[x, y]], ``stability_score`` and ``crop_box`` XYWH.
        The attributes count as they are now.

        Raises `ImageDtypeError` or `PublishedAssertionError` for another image.
        """
        check_image(image)
        masks = Generator(self._segmenter, self._settings()).run(np.ascontiguousarray(image)).masks
        records = published_records(masks, self.output_mode)
        if self.output_mode == "binary_mask":
            for record in records:  # programs write into them
                record["segmentation"] = record["segmentation"].copy()
        return records

    def _settings(self) -> AutomaticSettings:
        return AutomaticSettings(
            points_per_side=None,
            points_per_batch=self.points_per_batch,
            pred_iou_thresh=max(self.pred_iou_thresh, 0.0),  # as published, nothing below 0 filters
            stability_score_thresh=max(self.stability_score_thresh, 0.0),
            stability_score_offset=self.stability_score_offset,
            box_nms_thresh=self.box_nms_thresh,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            point_grids=tuple(tuple(map(tuple, grid)) for grid in self.point_grids),
            min_mask_region_area=self.min_mask_region_area,
        )


def _segmenter(model: Any) -> Segmenter:
    """A segmenter over a model of either kind; a torch network stays its owner's."""
    if isinstance(model, SegmenterModel):
        return model.segmenter
    need_torch("SamAutomaticMaskGenerator over a torch network")
    from anymask.compat.live_backend import LiveBackend

    return Segmenter(LiveBackend(model))
