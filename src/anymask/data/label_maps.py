"""Reader for label pictures with their JSON file; the layout is that of `anymask.data.writers.label_map`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from anymask.errors import DatasetError, MaskError
from anymask.masks import rle
from anymask.types import Mask

from .files import read_bytes, read_labels
from .records import label_counts

__all__ = ["LabelMap", "read_label_map"]

_MAX_RECORD_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class LabelMap:
    """What one label picture shows.

    Attributes:
        image: the JSON's ``image`` entry.
        policy: what lies on top where masks overlapped.
        masks: by label, what shows of each mask, with its scores; one that shows nowhere is empty.
    """

    image: Mapping[str, Any]
    policy: str
    masks: Mapping[int, Mask]


def read_label_map(picture: str | Path) -> LabelMap:
    """A PNG and the JSON file of the same name beside it.

    Raises:
        DatasetError: either is missing or damaged, or they do not go with each other.
    """
    path = Path(picture)
    values = read_labels(path).values
    if values.ndim != 2 or values.dtype == np.bool_:
        raise DatasetError(f"{str(path)!r} must be a grey picture of 8 or 16 bits.")
    beside = path.with_suffix(".json")
    try:
        document = json.loads(read_bytes(beside, _MAX_RECORD_BYTES))
        image, policy, rows = document["image"], str(document["policy"]), document["labels"]
        expected = {int(row["label"]): row for row in rows}
        size = (int(image["height"]), int(image["width"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{beside} is not the record of a label picture ({error!r}).") from None
    if size != values.shape:
        raise DatasetError(f"{beside} says {size[1]} x {size[0]}, its picture is {values.shape[::-1]}.")
    seen = dict(label_counts(values))
    unknown = sorted(set(seen) - set(expected))
    if unknown:
        raise DatasetError(f"{str(path)!r} shows the label {unknown[0]}, which {beside} does not list.")
    nothing = np.array([size[0] * size[1]], dtype=np.int64)
    masks = {}
    for label, row in expected.items():
        counts = seen.get(label, nothing)
        if rle.area(counts) != row.get("visible_area"):
            raise DatasetError(
                f"{beside} says that {row.get('visible_area')!r:.40} pixels of label {label} show, its picture has "
                f"{rle.area(counts)}."
            )
        try:
            masks[label] = Mask.from_rle(
                {"size": list(size), "counts": rle.counts_to_string(counts)},
                row["predicted_iou"],
                stability_score=row["stability_score"],
            )
        except (KeyError, TypeError, ValueError, MaskError) as error:
            raise DatasetError(f"{beside} has a bad entry for label {label} ({error!r}).") from None
    return LabelMap(image, policy, masks)
