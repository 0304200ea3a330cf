"""The sizes of the SAM networks, as data.

Source: table of model sizes in the SAM paper (appendix A, ViT-B/L/H from MAE and ViTDet) and
`segment_anything/build_sam.py` of the published code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from anymask.errors import ModelError

Ranking = Literal["predicted_iou", "stability"]
Sizes = TypeVar("Sizes")


class DecoderSizes(Protocol):
    """The sizes behind the embedding that SAM's prompt encoder and mask decoder are built of, whatever the encoder."""

    @property
    def image_size(self) -> int: ...
    @property
    def grid_size(self) -> int: ...
    @property
    def prompt_dim(self) -> int: ...
    @property
    def mask_channels(self) -> int: ...
    @property
    def decoder_depth(self) -> int: ...
    @property
    def decoder_heads(self) -> int: ...
    @property
    def decoder_mlp_dim(self) -> int: ...
    @property
    def attention_downsample_rate(self) -> int: ...
    @property
    def num_multimask_outputs(self) -> int: ...
    @property
    def iou_head_depth(self) -> int: ...
    @property
    def iou_head_hidden_dim(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """Every number that decides the shape of a SAM network.

    `global_attn_indexes` are the encoder blocks that attend over the whole image; the others attend inside
    windows of `window_size` x `window_size` patches. `pixel_mean` and `pixel_std` are for RGB in 0..255. `resize` and
    `normalisation` are explained at `anymask.model.network.NetworkConfig`.
    """

    family: ClassVar[str] = "sam"
    ranking: ClassVar[Ranking] = "predicted_iou"

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    mlp_ratio: float = 4.0
    prompt_dim: int = 256
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resize: Literal["longest_side", "stretch"] = "longest_side"
    normalisation: Literal["mean_std", "min_max"] = "mean_std"

    def __post_init__(self) -> None:
        for field in ("global_attn_indexes", "pixel_mean", "pixel_std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON brings lists
        rules = {
            "embed_dim must be a multiple of num_heads": self.embed_dim % self.num_heads == 0,
            "image_size must be a multiple of patch_size": self.image_size % self.patch_size == 0,
            "prompt_dim must be a multiple of 8": self.prompt_dim % 8 == 0,
            "prompt_dim / attention_downsample_rate must be a multiple of decoder_heads": (
                self.prompt_dim % (self.attention_downsample_rate * self.decoder_heads) == 0
            ),
            "mask_channels must be a multiple of 4": self.mask_channels % 4 == 0,
            "global_attn_indexes must lie in 0..depth-1": all(
                0 <= i < self.depth for i in self.global_attn_indexes
            ),
            "pixel_std must be positive": all(s > 0 for s in self.pixel_std),
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise ModelError(f"the sizes of model {self.name!r} do not fit together: {'; '.join(broken)}")

    @property
    def grid_size(self) -> int:
        """Patches (and embedding cells) along one side."""
        return self.image_size // self.patch_size

    @property
    def mask_input_size(self) -> int:
        """Pixels along one side of a mask prompt and of the low-resolution logits."""
        return 4 * self.grid_size

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown name raises `ModelError`."""
        return sizes_from(cls, data)


def sizes_from(kind: type[Sizes], data: Mapping[str, Any]) -> Sizes:
    """The record of sizes ``kind``, a dataclass, from plain data; a missing or unknown name raises `ModelError`."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise ModelError(f"unknown model sizes {unknown}; known are {sorted(known)}")
    try:
        return kind(**data)
    except TypeError as error:
        raise ModelError(f"the sizes of the model are not complete: {error}") from error


VIT_B = SamConfig("vit_b", embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11))
VIT_L = SamConfig("vit_l", embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23))
VIT_H = SamConfig("vit_h", embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31))

# MedSAM is ViT-B trained on medical pictures, each stretched to the square and scaled by its own extremes to 0..1
# (Ma et al., "Segment anything in medical images", Methods; `MedSAM_Inference.py` of the published code). Its weights
# have ViT-B's names and shapes, so nothing but its name can tell it from a plain SAM.
MEDSAM = dataclasses.replace(
    VIT_B,
    name="medsam",
    pixel_mean=(0.0, 0.0, 0.0),
    pixel_std=(1.0, 1.0, 1.0),
    resize="stretch",
    normalisation="min_max",
)

# For tests: every kind of layer once, a grid (8) that the window (3) does not divide, 84 thousand parameters.
TINY_TEST = SamConfig(
    "tiny_test",
    embed_dim=24,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    image_size=128,
    window_size=3,
    prompt_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=48,
    iou_head_hidden_dim=20,
)

VARIANTS: Mapping[str, SamConfig] = MappingProxyType(
    {config.name: config for config in (VIT_B, VIT_L, VIT_H, MEDSAM)} | {"default": VIT_H}
)


def variant(name: str) -> SamConfig:
    """The published sizes called `name`: "vit_b", "vit_l", "vit_h", "medsam" or "default" (which is vit_h)."""
    if name not in VARIANTS:
        raise ModelError(f"no SAM variant is called {name!r}; choose one of {sorted(VARIANTS)}")
    return VARIANTS[name]
