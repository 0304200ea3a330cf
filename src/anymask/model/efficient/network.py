"""EfficientSAM: a small plain encoder taught to repeat SAM's features, and a decoder trained with it.

The image is stretched to a square of values in 0..1 with ImageNet's means and spreads; prompts are points and a box.

Its four masks are those of this package in the origin's order: mask 0 is what it gives when one mask is wanted
(``multimask_output=False``), masks 1..3 are its candidates in the order of its tokens (the origin's example sorts
them by predicted quality afterwards, as a `MaskSet` does).

Source: Xiong et al., "EfficientSAM: Leveraged Masked Image Pretraining for Efficient Segment Anything" (CVPR 2024);
`efficient_sam/efficient_sam.py` and `build_efficient_sam.py` of the published code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from anymask.errors import ModelError, ModelFormatError, PromptError
from anymask.model.efficient.decoder import (
    EfficientMaskDecoder,
    EfficientPromptEncoder,
    EfficientTwoWayTransformer,
    fixed_tokens,
)
from anymask.model.efficient.encoder import PlainImageEncoder
from anymask.model.network import Family
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.variants import Ranking, sizes_from


@dataclasses.dataclass(frozen=True)
class EfficientSamConfig:
    """Every number that decides the shape of an EfficientSAM, and how its pixels are made.

    ``position_grid`` is the side of the square of positions in the weights, whatever the image size; ``max_points``
    is the number of tokens of every prompt.
    """

    family: ClassVar[str] = "efficient_sam"
    ranking: ClassVar[Ranking] = "predicted_iou"

    name: str
    embed_dim: int
    num_heads: int
    depth: int = 12
    image_size: int = 1024
    patch_size: int = 16
    mlp_ratio: float = 4.0
    position_grid: int = 14
    prompt_dim: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    upscaling_dims: tuple[int, ...] = (64, 32)
    num_multimask_outputs: int = 3
    iou_head_hidden_dim: int = 256
    max_points: int = 6
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resize: Literal["longest_side", "stretch"] = "stretch"
    normalisation: Literal["mean_std", "min_max"] = "mean_std"

    def __post_init__(self) -> None:
        for field in ("upscaling_dims", "pixel_mean", "pixel_std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON brings lists
        rules = {
            "embed_dim must be a multiple of num_heads": self.embed_dim % self.num_heads == 0,
            "image_size must be a multiple of patch_size": self.image_size % self.patch_size == 0,
            "prompt_dim must be even": self.prompt_dim % 2 == 0,
            "prompt_dim / attention_downsample_rate must be a multiple of decoder_heads": (
                self.prompt_dim % (self.attention_downsample_rate * self.decoder_heads) == 0
            ),
            "upscaling_dims must be two numbers": len(self.upscaling_dims) == 2,
            "max_points must be 2 or more": self.max_points >= 2,
            "pixel_std must be positive": all(s > 0 for s in self.pixel_std),
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise ModelError(f"the sizes of model {self.name!r} do not fit together: {'; '.join(broken)}")

    @property
    def grid_size(self) -> int:
        """Patches (and embedding cells) along one side."""
        return self.image_size // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown name raises `ModelError`."""
        return sizes_from(cls, data)


class EfficientSam(nn.Module):
    """A plain image encoder, a prompt encoder of points and boxes, and a mask decoder."""

    feature_names = ("embedding",)

    def __init__(
        self,
        image_encoder: PlainImageEncoder,
        prompt_encoder: EfficientPromptEncoder,
        mask_decoder: EfficientMaskDecoder,
        max_points: int,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.max_points = max_points

    def encode_features(self, pixels: Tensor) -> dict[str, Tensor]:
        """See `anymask.model.network.PromptableNetwork`."""
        return {"embedding": self.image_encoder(pixels)}

    def decode_features(
        self, features: Mapping[str, Tensor], prompts: PromptTensors
    ) -> tuple[Tensor, Tensor]:
        """See `anymask.model.network.PromptableNetwork`; raises `PromptError` for mask prompts."""
        embedding, grid = features["embedding"], self.prompt_encoder.grid_size
        expected = (self.mask_decoder.iou_token.weight.shape[1], grid, grid)
        if tuple(embedding.shape[1:]) != expected or embedding.shape[0] not in (1, len(prompts)):
            raise ModelError(
                f"the embedding must be 1 or {len(prompts)} x {expected} and is {tuple(embedding.shape)}"
            )
        if prompts.masks is not None:
            raise PromptError("EfficientSAM takes no mask prompts; give points or a box")
        coords, labels, present = fixed_tokens(prompts, self.max_points)
        logits, predicted_iou = self.mask_decoder(
            embedding, self.prompt_encoder.dense_pe(), self.prompt_encoder(coords, labels), present
        )
        return logits, predicted_iou


def build_efficient_sam(config: EfficientSamConfig) -> EfficientSam:
    """An EfficientSAM with fresh weights in training mode."""
    encoder = PlainImageEncoder(
        config.image_size,
        config.patch_size,
        config.embed_dim,
        config.depth,
        config.num_heads,
        int(config.embed_dim * config.mlp_ratio),
        config.prompt_dim,
        config.position_grid,
    )
    transformer = EfficientTwoWayTransformer(
        config.decoder_depth,
        config.prompt_dim,
        config.decoder_heads,
        config.decoder_mlp_dim,
        config.attention_downsample_rate,
    )
    decoder = EfficientMaskDecoder(
        config.prompt_dim,
        transformer,
        config.num_multimask_outputs,
        config.iou_head_hidden_dim,
        config.upscaling_dims,
    )
    prompt_encoder = EfficientPromptEncoder(config.prompt_dim, config.grid_size, config.image_size)
    return EfficientSam(encoder, prompt_encoder, decoder, config.max_points)


def infer_efficient_sam(state_dict: Mapping[str, Tensor]) -> EfficientSamConfig | None:
    """Which published EfficientSAM (Ti or S) a state dict is; None when it is none.

    Raises `ModelFormatError` for an unknown size. The image size is not in the weights: it is the published 1024.
    """
    position = state_dict.get("image_encoder.pos_embed")
    if position is None or "prompt_encoder.invalid_points.weight" not in state_dict:
        return None
    for config in PUBLISHED.values():
        if tuple(position.shape) == (1, 1 + config.position_grid**2, config.embed_dim):
            return config
    raise ModelFormatError(
        f"no published EfficientSAM has positions of {tuple(position.shape)}; "
        "known are efficient_sam_ti (1 x 197 x 192) and efficient_sam_s (1 x 197 x 384)"
    )


EFFICIENT_SAM_TI = EfficientSamConfig("efficient_sam_ti", embed_dim=192, num_heads=3)
EFFICIENT_SAM_S = EfficientSamConfig("efficient_sam_s", embed_dim=384, num_heads=6)

PUBLISHED: Mapping[str, EfficientSamConfig] = MappingProxyType(
    {config.name: config for config in (EFFICIENT_SAM_TI, EFFICIENT_SAM_S)}
)
EFFICIENT_SAM = Family(
    "efficient_sam", infer_efficient_sam, build_efficient_sam, EfficientSamConfig.from_dict, PUBLISHED
)
