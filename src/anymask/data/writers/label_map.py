"""Label pictures: one number for each pixel, in a grey PNG, with a JSON file that says what the numbers are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from anymask.errors import LimitError, MaskError
from anymask.types import Mask

from .picture import Picture
from .sa1b import json_bytes

__all__ = ["MAX_LABELS", "label_map_files"]

MAX_LABELS: Final = 65_535
"""A grey PNG of 16 bits holds no more."""


def label_map_files(
    picture: Picture, labels: NDArray[np.integer[Any]], masks: Sequence[Mask], policy: str
) -> tuple[bytes, bytes]:
    """The PNG and the JSON of one picture.

    The PNG has 8 bits up to 255 masks and 16 above; 0 is no mask, i + 1 is ``masks[i]``. The JSON lists every mask with
    its label, the pixels it has (``area``) and those that show (``visible_area``), its ``bbox`` XYWH as in SA-1B,
    ``predicted_iou`` and ``stability_score``; and ``policy``, which says what lies on top where masks overlap.

    Args:
        picture: of the same size as ``labels``.
        labels: (H, W), as `anymask.automatic.select.label_map` makes them.
        masks: those that the labels count.
        policy: name of what was done with overlaps.

    Raises:
        LimitError: more than `MAX_LABELS` masks.
        MaskError: labels of another size, or a number beyond the masks.
    """
    if len(masks) > MAX_LABELS:
        raise LimitError(f"a label picture holds {MAX_LABELS} masks, got {len(masks)}; take another format")
    if labels.shape != (picture.height, picture.width) or labels.min() < 0 or labels.max() > len(masks):
        raise MaskError(
            f"labels must be {picture.height} x {picture.width} numbers from 0 to {len(masks)}, got shape "
            f"{labels.shape} from {labels.min()} to {labels.max()}"
        )
    visible = np.bincount(labels.reshape(-1), minlength=len(masks) + 1)
    rows = []
    for number, mask in enumerate(masks):
        record = mask.to_record(number)
        rows.append(
            {
                "label": number + 1,
                "id": number,
                "area": record["area"],
                "visible_area": int(visible[number + 1]),
                "bbox": record["bbox"],
                "predicted_iou": record["predicted_iou"],
                "stability_score": record["stability_score"],
            }
        )
    kind = np.uint8 if len(masks) <= np.iinfo(np.uint8).max else np.uint16
    buffer = io.BytesIO()
    PillowImage.fromarray(labels.astype(kind)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue(), json_bytes({"image": picture.as_sa1b(), "policy": policy, "labels": rows})
