"""anymask: promptable segmentation.

    segmenter = anymask.load()
    embedding = segmenter.embed("photo.jpg")
    masks = segmenter.segment(embedding, points=[(500, 375)], labels=[1])
    masks[0].save("mask.png")
    everything = anymask.generate("photo.jpg", segmenter)

Importing this costs next to nothing: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anymask.automatic.generator import generate
    from anymask.errors import AnymaskError
    from anymask.image import read_image
    from anymask.predict.closer import CloserLook
    from anymask.predict.loading import load
    from anymask.predict.segmenter import Segmenter
    from anymask.settings import Settings
    from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

__version__ = "0.1.0"

__all__ = [
    "AnymaskError",
    "CloserLook",
    "Embedding",
    "Image",
    "Mask",
    "MaskSet",
    "Prompt",
    "Segmenter",
    "Settings",
    "__version__",
    "generate",
    "load",
    "read_image",
]

_HOMES = {
    "AnymaskError": "anymask.errors",
    "CloserLook": "anymask.predict.closer",
    "Embedding": "anymask.types",
    "Image": "anymask.types",
    "Mask": "anymask.types",
    "MaskSet": "anymask.types",
    "Prompt": "anymask.types",
    "Segmenter": "anymask.predict.segmenter",
    "Settings": "anymask.settings",
    "generate": "anymask.automatic.generator",
    "load": "anymask.predict.loading",
    "read_image": "anymask.image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anymask' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
