"""SA-1B records: one JSON document per picture with compressed run lengths.

Source of the field names and their order: `facebookresearch/segment-anything`, README section "Dataset".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from anymask.types import Mask

from .picture import Picture

__all__ = ["json_bytes", "sa1b_document", "sa1b_file"]


def sa1b_document(picture: Picture, masks: Sequence[Mask], file_name: str | None = None) -> dict[str, Any]:
    """``image`` and ``annotations``, whose ids count from 0 in the order of the masks; see `Mask.to_record`."""
    return {
        "image": picture.as_sa1b(file_name),
        "annotations": [mask.to_record(index) for index, mask in enumerate(masks)],
    }


def sa1b_file(picture: Picture, masks: Sequence[Mask], file_name: str | None = None) -> bytes:
    """The document as UTF-8 JSON; the same masks give the same bytes."""
    return json_bytes(sa1b_document(picture, masks, file_name))


def json_bytes(document: Any) -> bytes:
    """One line of JSON, without NaN, that ends in a line feed; half surrogate pairs of odd file names are escaped."""
    return (json.dumps(document, allow_nan=False) + "\n").encode("ascii")
