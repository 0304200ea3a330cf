"""What every dataset reader gives: an encoded image and its masks as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Sample:
    """One labelled image as it lies in its file.

    Attributes:
        key: name without extension, unique in its dataset.
        source: dataset the image belongs to.
        image: the encoded image file (JPEG or PNG bytes).
        width, height: size in pixels as the record states it.
        annotations: SA-1B annotation records (``segmentation`` a COCO RLE, ``bbox`` xywh, ``area``, ...).
    """

    key: str
    source: str
    image: bytes
    width: int
    height: int
    annotations: Sequence[Mapping[str, Any]]


@runtime_checkable
class Dataset(Protocol):
    """Random access to samples by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
