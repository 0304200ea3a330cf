"""What the light SAMs share: SAM's own prompt encoder and mask decoder around a small image encoder.

MobileSAM, EdgeSAM and RepViT-SAM are students of SAM ViT-H: they learned to give its embedding, so everything behind
the embedding keeps its sizes and its names.

Source: Zhang et al., "Faster Segment Anything" (MobileSAM, 2023), section 3; Zhou et al., "EdgeSAM" (2023), section 3;
Wang et al., "RepViT-SAM" (2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from torch import nn

from anymask.errors import ModelError
from anymask.model.layers import LayerNorm2d
from anymask.model.sam.network import Sam, build_mask_decoder, build_prompt_encoder
from anymask.model.variants import Ranking, sizes_from


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightConfig:
    """The sizes around the encoder, as in `SamConfig`; those of the encoder are added by each family."""

    ranking: ClassVar[Ranking] = "predicted_iou"

    name: str
    image_size: int = 1024
    patch_size: int = 16
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
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):  # JSON brings lists
                object.__setattr__(self, field.name, tuple(value))
        broken = [rule for rule, kept in self.rules().items() if not kept]
        if broken:
            raise ModelError(f"the sizes of model {self.name!r} do not fit together: {'; '.join(broken)}")

    def rules(self) -> dict[str, bool]:
        """What has to hold, each rule in words and whether it does."""
        return {
            "patch_size must be 16": self.patch_size == 16,
            "image_size must be a positive multiple of 32": self.image_size > 0 and self.image_size % 32 == 0,
            "prompt_dim must be a multiple of 8": self.prompt_dim % 8 == 0,
            "prompt_dim / attention_downsample_rate must be a multiple of decoder_heads": (
                self.prompt_dim % (self.attention_downsample_rate * self.decoder_heads) == 0
            ),
            "mask_channels must be a multiple of 4": self.mask_channels % 4 == 0,
            "pixel_std must be positive": all(s > 0 for s in self.pixel_std),
        }

    @property
    def grid_size(self) -> int:
        """Embedding cells along one side."""
        return self.image_size // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown name raises `ModelError`."""
        return sizes_from(cls, data)


def build_light_sam(image_encoder: nn.Module, config: LightConfig) -> Sam:
    """SAM around an image encoder that gives B x prompt_dim x S/16 x S/16; fresh weights, training mode."""
    return Sam(
        image_encoder,
        build_prompt_encoder(config),
        build_mask_decoder(config),
        config.pixel_mean,
        config.pixel_std,
    )


def build_neck(channels: int, out_channels: int) -> nn.Sequential:
    """From the encoder's channels to the embedding's, as in SAM's own encoder."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
