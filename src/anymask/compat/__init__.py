"""The names of `segment_anything` over our core: a program is ported by changing its import lines.

    from anymask.compat import SamPredictor, sam_model_registry

    sam = sam_model_registry["vit_b"](checkpoint="sam_vit_b.pth")
    predictor = SamPredictor(sam)

The modules are called as in the published package (``anymask.compat.utils.transforms`` and so on), so that replacing
``segment_anything`` by ``anymask.compat`` is enough. `SamPredictor` and `SamAutomaticMaskGenerator` also take a
`Segmenter`, such as ``anymask.load()``, and then need no torch. What differs is told in ``docs/how-to/port.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anymask.compat.automatic_mask_generator import SamAutomaticMaskGenerator
from anymask.compat.build_sam import (
    build_edge_sam,
    build_nano,
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)
from anymask.compat.predictor import SamPredictor
from anymask.compat.pretrained import from_pretrained
from anymask.compat.utils.transforms import ResizeLongestSide

if TYPE_CHECKING:
    from anymask.compat.modeling import Sam
    from anymask.compat.utils.onnx import SamOnnxModel

__all__ = [
    "ResizeLongestSide",
    "Sam",
    "SamAutomaticMaskGenerator",
    "SamOnnxModel",
    "SamPredictor",
    "build_edge_sam",
    "build_nano",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "from_pretrained",
    "sam_model_registry",
]

_WITH_TORCH = {"Sam": "anymask.compat.modeling", "SamOnnxModel": "anymask.compat.utils.onnx"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'anymask.compat' has no attribute {name!r}")
    from anymask.compat.errors import need_torch

    need_torch(f"anymask.compat.{name}")
    return getattr(import_module(_WITH_TORCH[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
