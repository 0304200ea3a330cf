"""A folder of ``0.png``, ``1.png`` ... with ``metadata.csv``, as the published program for masks of everything writes.

Source of the layout and the columns: ``write_masks_to_folder`` of ``scripts/amg.py``,
`facebookresearch/segment-anything`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image as PillowImage

from anymask.types import Mask

__all__ = ["COLUMNS", "metadata_csv", "png_folder_files"]

COLUMNS: Final = (
    "id", "area", "bbox_x0", "bbox_y0", "bbox_w", "bbox_h", "point_input_x", "point_input_y", "predicted_iou",
    "stability_score", "crop_box_x0", "crop_box_y0", "crop_box_w", "crop_box_h",
)  # fmt: skip


def png_folder_files(masks: Sequence[Mask]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the files: a grey PNG (0 outside, 255 inside) for each mask in order, then the table."""
    for number, mask in enumerate(masks):
        buffer = io.BytesIO()
        PillowImage.fromarray(mask.array.view(np.uint8) * np.uint8(255)).save(buffer, format="PNG")
        yield f"{number}.png", buffer.getvalue()
    yield "metadata.csv", metadata_csv(masks).encode()


def metadata_csv(masks: Sequence[Mask]) -> str:
    """The table, its last line without a line feed as published; boxes are XYWH with inclusive maxima.

    What a mask does not have, a click or a stability, is an empty cell.
    """
    return "\n".join([",".join(COLUMNS), *(_row(number, mask) for number, mask in enumerate(masks))])


def _row(number: int, mask: Mask) -> str:
    record = mask.to_record(number)
    point = record["point_coords"][0] if record["point_coords"] else (None, None)
    cells: tuple[Any, ...] = (
        number,
        record["area"],
        *record["bbox"],
        *point,
        record["predicted_iou"],
        record["stability_score"],
        *record["crop_box"],
    )
    return ",".join("" if cell is None else str(cell) for cell in cells)
