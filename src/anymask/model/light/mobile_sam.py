"""MobileSAM: SAM with TinyViT-5M as its image encoder.

Pictures are resized, padded and normalised as for SAM, to 1024 pixels; the published network takes no other size.

Source: Zhang et al., "Faster Segment Anything" (2023); `mobile_sam/build_sam.py` of the published code.
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
from anymask.model.light.tiny_vit import TinyVit
from anymask.model.network import Family
from anymask.model.sam.network import Sam


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileSamConfig(LightConfig):
    """Width, blocks, heads and window of each of TinyViT's layers; the first layer has no attention."""

    family: ClassVar[str] = "mobile_sam"

    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)

    def rules(self) -> dict[str, bool]:
        """See `LightConfig.rules`."""
        per_layer = (self.embed_dims, self.depths, self.num_heads, self.window_sizes)
        return super().rules() | {
            "embed_dims, depths, num_heads and window_sizes must have 4 entries": all(
                len(sizes) == 4 for sizes in per_layer
            ),
            "embed_dims, depths, num_heads and window_sizes must be positive": all(
                size > 0 for sizes in per_layer for size in sizes
            ),
            "embed_dims must be multiples of num_heads": all(
                heads > 0 and dim % heads == 0
                for dim, heads in zip(self.embed_dims, self.num_heads, strict=False)
            ),
        }


VIT_T = MobileSamConfig(name="mobile_sam")


def build_mobile_sam(config: MobileSamConfig) -> Sam:
    """A MobileSAM with fresh weights in training mode."""
    encoder = TinyVit(
        config.image_size,
        config.embed_dims,
        config.depths,
        config.num_heads,
        config.window_sizes,
        config.prompt_dim,
    )
    return build_light_sam(encoder, config)


def infer_mobile_sam(state_dict: Mapping[str, Tensor]) -> MobileSamConfig | None:
    """The published MobileSAM, or None when the encoder is no TinyViT.

    Raises `ModelFormatError` for a TinyViT of another size. The size of the pictures leaves no trace in the keys: a
    network trained for another one needs its sizes given.
    """
    if "image_encoder.patch_embed.seq.0.c.weight" not in state_dict:
        return None
    block = re.compile(r"image_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(?:conv1\.c|attn\.qkv)\.weight")
    found = {
        (int(m[1]), int(m[2])): tensor
        for name, tensor in state_dict.items()
        if (m := block.fullmatch(name)) and tensor.ndim >= 2
    }
    layers = sorted({layer for layer, _ in found})
    dims = tuple(int(found[layer, 0].shape[1]) if (layer, 0) in found else 0 for layer in layers)
    depths = tuple(sum(layer == of for of, _ in found) for layer in layers)
    if (dims, depths) == (VIT_T.embed_dims, VIT_T.depths):
        return VIT_T
    raise ModelFormatError(
        f"no published MobileSAM has layers of {list(depths)} blocks with {list(dims)} channels; "
        f"known is {list(VIT_T.depths)} with {list(VIT_T.embed_dims)} (mobile_sam)"
    )


MOBILE_SAM = Family(
    "mobile_sam",
    infer_mobile_sam,
    build_mobile_sam,
    MobileSamConfig.from_dict,
    MappingProxyType({"mobile_sam": VIT_T, "vit_t": VIT_T}),
)
