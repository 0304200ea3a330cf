"""Builders of the published models and the registry of their names.

Source: ``segment_anything/build_sam.py`` of the published code, whose names are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymask.compat.errors import CheckpointNotFoundError, need_torch
from anymask.errors import WeightsError

if TYPE_CHECKING:
    from anymask.compat.modeling import Sam
    from anymask.compat.segmenter_model import SegmenterModel

__all__ = [
    "build_edge_sam",
    "build_nano",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "sam_model_registry",
]

Checkpoint = str | os.PathLike[str] | None


def build_sam_vit_h(checkpoint: Checkpoint = None) -> Sam:
    """SAM with ViT-H, in eval mode; see `build_sam_vit_b`."""
    return _build("vit_h", checkpoint)


build_sam = build_sam_vit_h


def build_sam_vit_l(checkpoint: Checkpoint = None) -> Sam:
    """SAM with ViT-L, in eval mode; see `build_sam_vit_b`."""
    return _build("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: Checkpoint = None) -> Sam:
    """SAM with ViT-B, in eval mode.

    Args:
        checkpoint: a published ``.pth``, the same under transformers' names, or a file of ours; read as data, never as
            a program. Without it the weights are random.

    Raises `CheckpointNotFoundError`, and `WeightsError` for a checkpoint that is damaged or of another model.
    """
    return _build("vit_b", checkpoint)


def build_sam_vit_t(checkpoint: Checkpoint = None) -> Sam:
    """MobileSAM, in eval mode; see `build_sam_vit_b`."""
    return _build("vit_t", checkpoint)


def build_edge_sam(checkpoint: Checkpoint = None) -> Sam:
    """EdgeSAM, in eval mode; see `build_sam_vit_b`."""
    return _build("edge_sam", checkpoint)


def build_nano(checkpoint: Checkpoint = None) -> SegmenterModel:
    """nano, which is in the package and needs no torch, or the model of that kind kept at ``checkpoint``."""
    from anymask.compat.segmenter_model import SegmenterModel
    from anymask.predict.loading import load

    return SegmenterModel(load("nano" if checkpoint is None else checkpoint))


sam_model_registry: dict[str, Callable[..., Any]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
    "edge_sam": build_edge_sam,
    "nano": build_nano,
}
"""Builders by the published names (vit_t is MobileSAM's, edge_sam EdgeSAM's), and nano's."""


def _build(name: str, checkpoint: Checkpoint) -> Sam:
    need_torch(f"the model {name!r}")
    from anymask.compat.modeling import Sam
    from anymask.model.families import build_network, published_config

    wanted = published_config(name)
    if checkpoint is None:
        return Sam.of(build_network(wanted), wanted).eval()
    network, config = read_network(checkpoint)
    if config.name != wanted.name:
        raise WeightsError(
            f"the checkpoint {os.fspath(checkpoint)!r:.200} is of {config.name!r}, not of {wanted.name!r}; "
            "choose the builder of its name"
        )
    return Sam.of(network, config).eval()


def read_network(checkpoint: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The network in a published checkpoint or a file of ours, in eval mode, and its sizes."""
    from anymask.model.checkpoints import convert

    if not Path(checkpoint).exists():
        raise CheckpointNotFoundError(f"there is no checkpoint {os.fspath(checkpoint)!r:.200}")
    return convert.read_network(checkpoint)
