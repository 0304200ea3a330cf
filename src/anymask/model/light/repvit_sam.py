"""The SAMs with RepViT as their image encoder: EdgeSAM (RepViT-M1) and RepViT-SAM (RepViT-M2.3).

Pictures are resized, padded and normalised as for SAM, to 1024 pixels.

EdgeSAM was not taught to predict the quality of its masks: its authors say that the scores may be unreliable, and rank
by stability instead. The network here gives its own scores, as published; `anymask.runtime.ranking` puts stability in
their place. A label of -2 (padding of its training batches) is not taken; see `PromptTensors.present`.

Source: Zhou et al., "EdgeSAM: Prompt-in-the-loop distillation for on-device deployment of SAM" (2023);
`edge_sam/build_sam.py` and README of its published code. Wang et al., "RepViT-SAM: Towards real-time segmenting
anything" (2023); `sam/repvit_sam/build_sam.py` of its published code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from anymask.errors import ModelFormatError
from anymask.model.light.network import LightConfig, build_light_sam
from anymask.model.light.repvit import JoinedRepVit, RepVit
from anymask.model.network import Family
from anymask.model.sam.network import Sam
from anymask.model.variants import Ranking


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepVitConfig(LightConfig):
    """Width and number of plain blocks of each stage; all stages but the first begin with a widening block more."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]

    def rules(self) -> dict[str, bool]:
        """See `LightConfig.rules`."""
        return super().rules() | {
            "channels and depths must have 4 entries": len(self.channels) == len(self.depths) == 4,
            "depths must be positive": all(depth > 0 for depth in self.depths),
            "channels must be positive and even": all(
                width > 0 and width % 2 == 0 for width in self.channels
            ),
        }

    def blocks(self) -> list[int]:
        """The width of each block in the order of the network."""
        return [
            width
            for stage, (width, depth) in enumerate(zip(self.channels, self.depths, strict=True))
            for _ in range(depth + (stage > 0))
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeSamConfig(RepVitConfig):
    """Sizes of an EdgeSAM."""

    family: ClassVar[str] = "edge_sam"
    ranking: ClassVar[Ranking] = "stability"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepVitSamConfig(RepVitConfig):
    """Sizes of a RepViT-SAM."""

    family: ClassVar[str] = "repvit_sam"


EDGE_SAM_M1 = EdgeSamConfig(name="edge_sam", channels=(48, 96, 192, 384), depths=(3, 3, 15, 2))
REPVIT_SAM_M2_3 = RepVitSamConfig(name="repvit_sam", channels=(80, 160, 320, 640), depths=(7, 7, 35, 2))


def build_edge_sam(config: EdgeSamConfig) -> Sam:
    """An EdgeSAM with fresh weights in training mode."""
    encoder = JoinedRepVit(config.image_size, config.channels, config.depths, config.prompt_dim)
    return build_light_sam(encoder, config)


def build_repvit_sam(config: RepVitSamConfig) -> Sam:
    """A RepViT-SAM with fresh weights in training mode."""
    encoder = RepVit(config.image_size, config.channels, config.depths, config.prompt_dim)
    return build_light_sam(encoder, config)


def infer_edge_sam(state_dict: Mapping[str, Tensor]) -> EdgeSamConfig | None:
    """The published EdgeSAM, or None when the encoder is no RepViT that joins its last stages.

    Raises `ModelFormatError` for one of another size.
    """
    joins = "image_encoder.fuse_stage2.weight" in state_dict
    if not joins or (blocks := _blocks(state_dict)) is None:
        return None
    if blocks != EDGE_SAM_M1.blocks():
        raise _unknown("EdgeSAM", blocks, EDGE_SAM_M1)
    return EDGE_SAM_M1


def infer_repvit_sam(state_dict: Mapping[str, Tensor]) -> RepVitSamConfig | None:
    """The published RepViT-SAM, or None when the encoder is no RepViT, or one that joins its last stages.

    Raises `ModelFormatError` for one of another size.
    """
    joins = "image_encoder.fuse_stage2.weight" in state_dict
    if joins or (blocks := _blocks(state_dict)) is None:
        return None
    if blocks != REPVIT_SAM_M2_3.blocks():
        raise _unknown("RepViT-SAM", blocks, REPVIT_SAM_M2_3)
    return REPVIT_SAM_M2_3


def _blocks(state_dict: Mapping[str, Tensor]) -> list[int] | None:
    """The width of each block; None when the encoder is no RepViT."""
    if "image_encoder.features.0.0.c.weight" not in state_dict:
        return None
    mixer = re.compile(r"image_encoder\.features\.(\d+)\.channel_mixer\.m\.0\.c\.weight")
    widths = {
        int(m[1]): t.shape[1]
        for name, t in state_dict.items()
        if (m := mixer.fullmatch(name)) and t.ndim == 4
    }
    return [width for _, width in sorted(widths.items())]


def _unknown(kind: str, blocks: list[int], known: RepVitConfig) -> ModelFormatError:
    return ModelFormatError(
        f"no published {kind} has {len(blocks)} blocks of {sorted(set(blocks))} channels; known is "
        f"{len(known.blocks())} of {list(known.channels)} ({known.name})"
    )


EDGE_SAM = Family(
    "edge_sam",
    infer_edge_sam,
    build_edge_sam,
    EdgeSamConfig.from_dict,
    MappingProxyType({"edge_sam": EDGE_SAM_M1, "edge_sam_3x": EDGE_SAM_M1}),
)
REPVIT_SAM = Family(
    "repvit_sam",
    infer_repvit_sam,
    build_repvit_sam,
    RepVitSamConfig.from_dict,
    MappingProxyType({"repvit_sam": REPVIT_SAM_M2_3}),
)
