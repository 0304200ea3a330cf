"""The published generator of masks for everything, written plainly: full-size arrays, no short cut, no shared code.

Every step follows ``SamAutomaticMaskGenerator`` and ``utils/amg.py`` of segment_anything, and torchvision's ``nms`` for
the CPU. Only the network itself is anymask's: embedding a picture and decoding clicks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import PromptArrays

Upsample = Callable[[np.ndarray, Any], np.ndarray]


def with_torch(logits: np.ndarray, frame: Any) -> np.ndarray:
    """``Sam.postprocess_masks`` on (N, h, w)."""
    import torch
    from torch.nn.functional import interpolate

    height, width = frame.resized_size
    with torch.no_grad():
        planes = interpolate(
            torch.from_numpy(np.ascontiguousarray(logits))[None], frame.network_size, mode="bilinear"
        )
        planes = interpolate(planes[..., :height, :width], frame.image_size, mode="bilinear")
    return planes[0].numpy()


def with_frame(logits: np.ndarray, frame: Any) -> np.ndarray:
    """The package's own upsampling, whole planes."""
    return frame.logits_to_image(logits)


def reference_generate(
    segmenter: Segmenter,
    image: np.ndarray,
    *,
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
    point_grids: list[np.ndarray] | None = None,
    min_mask_region_area: int = 0,
    upsample: Upsample = with_torch,
) -> list[dict[str, Any]]:
    """Records in the published order; ``segmentation`` is a bool array."""
    if point_grids is None:
        assert points_per_side is not None
        point_grids = [
            plain_grid(int(points_per_side / crop_n_points_downscale_factor**layer))
            for layer in range(crop_n_layers + 1)
        ]
    boxes, layers = plain_crops(image.shape[:2], crop_n_layers, crop_overlap_ratio)
    found: list[dict[str, Any]] = []
    for box, layer in zip(boxes, layers, strict=True):
        x0, y0, x1, y1 = box
        of_crop: list[dict[str, Any]] = []
        embedding = segmenter.embed(np.ascontiguousarray(image[y0:y1, x0:x1]))
        points = point_grids[layer] * np.array([x1 - x0, y1 - y0])
        for start in range(0, len(points), points_per_batch):
            batch = points[start : start + points_per_batch]
            logits, scores = _decode(segmenter, embedding, batch)
            planes = upsample(logits, segmenter.frame(embedding.image_size))
            threshold = segmenter.spec.mask_threshold
            for index, (plane, score) in enumerate(zip(planes, scores, strict=True)):
                if pred_iou_thresh > 0 and not score > np.float32(pred_iou_thresh):
                    continue
                inner = (plane > threshold + stability_score_offset).sum()
                outer = (plane > threshold - stability_score_offset).sum()
                with np.errstate(invalid="ignore"):
                    stability = np.float32(inner) / np.float32(outer)
                if stability_score_thresh > 0 and not stability >= np.float32(stability_score_thresh):
                    continue
                mask = plane > threshold
                bounds = plain_box(mask)
                if _near_edge(bounds, box, image.shape[:2]):
                    continue
                whole = np.zeros(image.shape[:2], dtype=bool)
                whole[y0:y1, x0:x1] = mask
                of_crop.append(
                    {
                        "mask": whole,
                        "box": bounds,
                        "score": score,
                        "stability": stability,
                        "point": batch[index // 3] + (x0, y0),
                        "crop": box,
                    }
                )
        kept = plain_nms([f["box"] for f in of_crop], [f["score"] for f in of_crop], box_nms_thresh)
        for index in kept:
            entry = of_crop[index]
            entry["box"] = [
                entry["box"][0] + x0,
                entry["box"][1] + y0,
                entry["box"][2] + x0,
                entry["box"][3] + y0,
            ]
            found.append(entry)
    if len(boxes) > 1:
        areas = [(f["crop"][2] - f["crop"][0]) * (f["crop"][3] - f["crop"][1]) for f in found]
        ranks = [np.float32(1) / np.float32(area) for area in areas]
        found = [found[i] for i in plain_nms([f["box"] for f in found], ranks, crop_nms_thresh)]
    if min_mask_region_area > 0 and found:
        found = _clean(found, min_mask_region_area, max(box_nms_thresh, crop_nms_thresh))
    return [_record(entry) for entry in found]


def plain_grid(n: int) -> np.ndarray:
    """(n * n, 2), x fastest."""
    offset = 1 / (2 * n)
    along = np.linspace(offset, 1 - offset, n)
    return np.array([[x, y] for y in along for x in along])


def plain_crops(
    size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    height, width = size
    boxes, layers = [[0, 0, width, height]], [0]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        wide = math.ceil((overlap * (n - 1) + width) / n)
        high = math.ceil((overlap * (n - 1) + height) / n)
        for column in range(n):
            for row in range(n):
                x0, y0 = (wide - overlap) * column, (high - overlap) * row
                boxes.append([x0, y0, min(x0 + wide, width), min(y0 + high, height)])
                layers.append(layer)
    return boxes, layers


def plain_box(mask: np.ndarray) -> list[int]:
    """Inclusive maxima, zeros for an empty mask."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return [0, 0, 0, 0]
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]


def plain_nms(boxes: list[Any], scores: list[Any], threshold: float) -> list[int]:
    """torchvision's loop: float32 boxes, areas and overlaps, a stable order, the threshold as a double."""
    b = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    one = np.float32
    areas = [one(x[2] - x[0]) * one(x[3] - x[1]) for x in b]
    order = sorted(range(len(b)), key=lambda i: -one(scores[i]))
    suppressed = [False] * len(b)
    kept = []
    for place, i in enumerate(order):
        if suppressed[i]:
            continue
        kept.append(i)
        for j in order[place + 1 :]:
            width = max(one(0), min(b[i][2], b[j][2]) - max(b[i][0], b[j][0]))
            height = max(one(0), min(b[i][3], b[j][3]) - max(b[i][1], b[j][1]))
            common = one(width * height)
            union = one(one(areas[i] + areas[j]) - common)
            if union > 0 and float(one(common / union)) > threshold:
                suppressed[j] = True
    return kept


def _decode(segmenter: Segmenter, embedding: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three planes and scores per click, the decoder asked as ``predict_torch`` does: a click and a padding point."""
    new_height, new_width = segmenter.frame(embedding.image_size).resized_size
    old_height, old_width = embedding.image_size
    scaled = points * (new_width / old_width, new_height / old_height)
    count = len(points)
    rows, columns = (
        side * 16 // segmenter.spec.low_res_stride for side in embedding.features["embedding"].shape[-2:]
    )
    prompts = PromptArrays(
        np.stack([scaled, np.zeros_like(scaled)], axis=1).astype(np.float32),
        np.tile(np.array([1, -1], dtype=np.float32), (count, 1)),
        np.zeros((count, 1, rows, columns), dtype=np.float32),
        np.zeros(count, dtype=np.float32),
    )
    logits, scores = segmenter.backend.decode(embedding.features, prompts)
    return logits[:, 1:4].reshape(-1, rows, columns), scores[:, 1:4].reshape(-1)


def _near_edge(bounds: list[int], crop: list[int], size: tuple[int, ...]) -> bool:
    x0, y0 = crop[:2]
    in_image = np.array(bounds) + np.array([x0, y0, x0, y0])
    near_crop = np.abs(in_image - crop) <= 20
    near_image = np.abs(in_image - [0, 0, size[1], size[0]]) <= 20
    return bool((near_crop & ~near_image).any())


def _clean(found: list[dict[str, Any]], min_area: int, threshold: float) -> list[dict[str, Any]]:
    unchanged = []
    for entry in found:
        mask, filled = _without_small(entry["mask"], min_area, holes=True)
        mask, removed = _without_small(mask, min_area, holes=False)
        unchanged.append(float(not filled and not removed))
        entry["cleaned"] = mask
    boxes = [plain_box(entry["cleaned"]) for entry in found]
    kept = plain_nms(boxes, unchanged, threshold)
    for index in kept:
        if unchanged[index] == 0:
            found[index]["mask"], found[index]["box"] = found[index]["cleaned"], boxes[index]
    return [found[index] for index in kept]


def _without_small(mask: np.ndarray, min_area: int, holes: bool) -> tuple[np.ndarray, bool]:
    from scipy.ndimage import label

    parts, count = label(~mask if holes else mask, np.ones((3, 3)))
    sizes = [int((parts == part).sum()) for part in range(1, count + 1)]
    small = [part for part, size in enumerate(sizes, start=1) if size < min_area]
    if not small:
        return mask, False
    if holes:
        return mask | np.isin(parts, small), True
    large = [part for part in range(1, count + 1) if part not in small]
    return np.isin(parts, large or [int(np.argmax(sizes)) + 1]), True


def _record(entry: dict[str, Any]) -> dict[str, Any]:
    x0, y0, x1, y1 = entry["box"]
    left, top, right, bottom = entry["crop"]
    return {
        "segmentation": entry["mask"],
        "area": int(entry["mask"].sum()),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "predicted_iou": float(entry["score"]),
        "point_coords": [entry["point"].tolist()],
        "stability_score": float(entry["stability"]),
        "crop_box": [left, top, right - left, bottom - top],
    }
