"""Grids, crops, boxes and run lengths under the published names, over `anymask.masks`, `frame` and `automatic`.

Source: ``segment_anything/utils/amg.py`` of the published code, whose names, shapes and box conventions are kept:
boxes of masks have inclusive maxima. Its ``MaskData`` has no counterpart here. Functions that take tensors need torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from anymask.automatic.grid import point_grid
from anymask.compat.errors import PublishedAssertionError, need_torch
from anymask.frame import crop_boxes
from anymask.masks import regions
from anymask.masks.boxes import masks_to_boxes_published
from anymask.masks.rle import area, counts_to_string, decode, encode_counts, parse

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: list[int], orig_box: list[int], atol: float = 20.0
) -> Tensor:
    """Which boxes N x 4 of a crop touch, within ``atol`` pixels, an edge of the crop that is none of the image."""
    torch = need_torch("is_box_near_crop_edge")
    placed = uncrop_boxes_xyxy(boxes, crop_box).float()
    near = [
        (placed - torch.as_tensor(box, dtype=torch.float32, device=boxes.device)).abs() <= atol
        for box in (crop_box, orig_box)
    ]
    touches: Tensor = (near[0] & ~near[1]).any(dim=1)
    return touches


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """One box (4,), array or tensor or list, as corner and size."""
    x0, y0, x1, y1 = box_xyxy
    if isinstance(box_xyxy, list | tuple):
        return type(box_xyxy)((x0, y0, x1 - x0, y1 - y0))
    box = box_xyxy.copy() if isinstance(box_xyxy, np.ndarray) else box_xyxy.clone()
    box[2], box[3] = x1 - x0, y1 - y0
    return box


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Slices of ``batch_size`` of all arguments, which have one length."""
    if not args or any(len(arg) != len(args[0]) for arg in args):
        raise PublishedAssertionError("batched iteration must have inputs of all the same size")
    for start in range(0, len(args[0]), batch_size):
        yield [arg[start : start + batch_size] for arg in args]


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """Bool masks B x H x W as uncompressed COCO records."""
    masks = tensor.detach().cpu().numpy().astype(np.bool_)
    return [{"size": list(mask.shape), "counts": encode_counts(mask).tolist()} for mask in masks]


def rle_to_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The bool mask (H, W) of a COCO record, compressed or not; raises `RleError`."""
    return decode(rle)


def area_from_rle(rle: Mapping[str, Any]) -> int:
    """Pixels set, of a COCO record, compressed or not; raises `RleError`."""
    return area(parse(rle)[0])


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """IoU of logits ... x H x W cut above and below the threshold: ...; a mask empty at both cuts gives NaN."""
    inner = (masks > mask_threshold + threshold_offset).sum((-1, -2))
    outer = (masks > mask_threshold - threshold_offset).sum((-1, -2))
    score: Tensor = inner / outer
    return score


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """The centres (n * n, 2), (x, y) in [0, 1], of n x n equal cells, row by row."""
    return point_grid(n_per_side)


def build_all_layer_point_grids(
    n_per_side: int, n_layers: int, scale_per_layer: int
) -> list[NDArray[np.float64]]:
    """The grid of each crop layer, the whole image first; raises `LimitError` where a layer has no point."""
    return [build_point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Boxes [x0, y0, x1, y1] of the image of (height, width) and its crops, and the layer of each."""
    height, width = im_size
    boxes, layers = crop_boxes((height, width), n_layers, overlap_ratio)
    return [list(box) for box in boxes], layers


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: list[int]) -> Tensor:
    """Boxes N x 4 or N x M x 4 of a crop in the image."""
    return _moved(boxes, (*crop_box[:2], *crop_box[:2]))


def uncrop_points(points: Tensor, crop_box: list[int]) -> Tensor:
    """Points N x 2 or N x M x 2 of a crop in the image."""
    return _moved(points, crop_box[:2])


def uncrop_masks(masks: Tensor, crop_box: list[int], orig_h: int, orig_w: int) -> Tensor:
    """Masks ... x h x w of a crop in the image: ... x H x W, zeros elsewhere."""
    need_torch("uncrop_masks")
    from torch.nn import functional as F

    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1))


def remove_small_regions(
    mask: NDArray[np.bool_], area_thresh: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """A bool mask (H, W) without holes or islands below ``area_thresh`` pixels, and whether there were any."""
    if mode not in ("holes", "islands"):
        raise PublishedAssertionError(f"mode must be 'holes' or 'islands', is {mode!r:.80}")
    return regions.remove_small_regions(mask, area_thresh, mode)


def coco_encode_rle(uncompressed_rle: Mapping[str, Any]) -> dict[str, Any]:
    """The compressed COCO record, its counts text, of an uncompressed one; raises `RleError`."""
    counts, size = parse(uncompressed_rle)
    return {"size": list(size), "counts": counts_to_string(counts)}


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Boxes ... x 4 int64 of bool masks ... x H x W: inclusive maxima, zeros for an empty mask."""
    torch = need_torch("batched_mask_to_box")
    boxes = masks_to_boxes_published(masks.detach().cpu().numpy().astype(np.bool_))
    placed: Tensor = torch.from_numpy(boxes).to(masks.device)
    return placed


def _moved(coordinates: Tensor, offset: Sequence[int]) -> Tensor:
    torch = need_torch("uncropping")
    moved: Tensor = coordinates + torch.tensor(offset, device=coordinates.device)
    return moved
