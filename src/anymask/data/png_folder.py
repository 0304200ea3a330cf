"""Reader for a folder of ``0.png``, ``1.png`` ... with ``metadata.csv``; the layout is that of its writer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from anymask.errors import DatasetError, MaskError
from anymask.types import Mask

from .files import read_bytes, read_labels
from .writers.png_folder import COLUMNS

__all__ = ["read_png_folder"]

_MAX_TABLE_BYTES: Final = 64 * 1024 * 1024


def read_png_folder(folder: str | Path) -> list[Mask]:
    """The masks in the order of their numbers, with scores, clicks and crops.

    Columns beyond the published ones are passed over; an empty cell is what a mask does not have.

    Raises:
        DatasetError: the table or a picture is missing or damaged, a row does not go with its picture, or pictures are
            of different sizes.
    """
    folder = Path(folder)
    table = folder / "metadata.csv"
    try:
        text = read_bytes(table, _MAX_TABLE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table} is not text: {error}.") from None
    rows = csv.DictReader(io.StringIO(text))
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or [])]
    if missing:
        raise DatasetError(f"{table} lacks the column {missing[0]!r}.")
    masks = [_mask(folder, number, row) for number, row in enumerate(rows)]
    sizes = {mask.size for mask in masks}
    if len(sizes) > 1:
        raise DatasetError(f"The masks in {folder} are of different sizes: {sorted(sizes)}.")
    return masks


def _mask(folder: Path, number: int, row: Mapping[str, Any]) -> Mask:
    path = folder / f"{number}.png"
    values = read_labels(path).values
    if values.ndim != 2 or not np.isin(values, (0, 255) if values.dtype != np.bool_ else (0, 1)).all():
        raise DatasetError(f"{str(path)!r} must be a grey picture of 0 and 255.")
    try:
        if row["id"] != str(number):
            raise ValueError(f"its id is {row['id']!r:.40}")
        numbers = {column: float(row[column]) for column in COLUMNS if row[column] not in (None, "")}
        mask = _from(values != 0, numbers)
        if mask.area != numbers["area"]:
            raise ValueError(f"its area is {numbers['area']:g} and the picture's {mask.area}")
    except (KeyError, ValueError, MaskError) as error:
        raise DatasetError(f"Row {number} of {folder / 'metadata.csv'} cannot be used: {error}.") from None
    return mask


def _from(array: Any, numbers: Mapping[str, float]) -> Mask:
    left, top, width, height = (numbers[f"crop_box_{part}"] for part in ("x0", "y0", "w", "h"))
    x, y = numbers.get("point_input_x"), numbers.get("point_input_y")
    return Mask(
        array,
        numbers["predicted_iou"],
        stability_score=numbers.get("stability_score"),
        point=None if x is None or y is None else (x, y),
        crop_box=(left, top, left + width, top + height),
    )
