"""HQ-SAM: SAM with one more output token and features that keep fine edges.

    image --encode--> embedding, early map --fuse--> hq
    embedding, hq --decode, with prompts--> four masks, each with the high-quality mask added

As published, a prompt with one answer gets mask 0 plus the high-quality mask, and an ambiguous one the candidate of
the highest predicted quality plus the high-quality mask. Here each of the three candidates has it added, so the first
of them by quality is the published answer; the qualities are those of SAM's own masks.

Source: Ke et al., "Segment Anything in High Quality" (NeurIPS 2023), section 3; `segment_anything/build_sam.py` and
`modeling/` of its published code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Protocol, cast

from torch import Tensor, nn

from anymask.errors import ModelError
from anymask.model.hq.decoder import HqMaskDecoder
from anymask.model.light.mobile_sam import VIT_T, MobileSamConfig, infer_mobile_sam
from anymask.model.light.tiny_vit import TinyVit
from anymask.model.network import Family
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.image_encoder import ImageEncoder
from anymask.model.sam.network import build_prompt_encoder, build_two_way_transformer, infer_sam
from anymask.model.sam.prompt_encoder import PromptEncoder
from anymask.model.variants import VIT_B, VIT_H, VIT_L, DecoderSizes, SamConfig

HQ_TOKEN = "mask_decoder.hf_token.weight"
"""The parameter that every HQ-SAM has and nothing else does."""


@dataclasses.dataclass(frozen=True)
class HqSamConfig(SamConfig):
    """The sizes of a SAM, and whether the high-quality mask stands alone or is added to SAM's.

    ``hq_token_only`` is the published option of that name, good for pictures with one object.
    """

    family: ClassVar[str] = "hq_sam"

    hq_token_only: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class HqTinyConfig(MobileSamConfig):
    """The sizes of a MobileSAM, and the option of `HqSamConfig`."""

    family: ClassVar[str] = "hq_sam_tiny"

    hq_token_only: bool = False


class EarlyEncoder(Protocol):
    """An image encoder that also gives a map of an early block."""

    def encode_early(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels E x 3 x S x S -> (embedding E x C x h x w, early map E x D x h x w)."""
        ...


class HqImageEncoder(ImageEncoder):
    """SAM's encoder; its early map is what the first block that attends over the whole image gives."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(config)
        if not config.global_attn_indexes:
            raise ModelError(f"the sizes of model {config.name!r} have no block that attends globally")
        self.early_block = min(config.global_attn_indexes)

    def encode_early(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `EarlyEncoder`."""
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
        x = early = self.patch_embed(pixels) + self.pos_embed
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.early_block:
                early = x
        return self.neck(x.permute(0, 3, 1, 2)), early.permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode_early(pixels)[0]


class HqTinyVit(TinyVit):
    """MobileSAM's encoder; its early map is what the second layer gives, the first at the embedding's stride."""

    early_layer = 1

    def encode_early(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `EarlyEncoder`."""
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
        x = early = self.patch_embed(pixels)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == self.early_layer:
                early = x
        return self.neck(x), early

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode_early(pixels)[0]


class HqSam(nn.Module):
    """An image encoder with an early map, SAM's prompt encoder and the high-quality mask decoder."""

    feature_names = ("embedding", "hq")

    def __init__(
        self, image_encoder: EarlyEncoder, prompt_encoder: PromptEncoder, mask_decoder: HqMaskDecoder
    ) -> None:
        super().__init__()
        self.image_encoder = cast(nn.Module, image_encoder)
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def encode_features(self, pixels: Tensor) -> dict[str, Tensor]:
        """See `anymask.model.network.PromptableNetwork`; "hq" is E x C/8 x S/4 x S/4."""
        embedding, early = cast(EarlyEncoder, self.image_encoder).encode_early(pixels)
        return {"embedding": embedding, "hq": self.mask_decoder.fuse(embedding, early)}

    def decode_features(
        self, features: Mapping[str, Tensor], prompts: PromptTensors
    ) -> tuple[Tensor, Tensor]:
        """See `anymask.model.network.PromptableNetwork`."""
        embedding, hq = features["embedding"], features["hq"]
        h, w = self.prompt_encoder.grid_size
        dim = self.mask_decoder.iou_token.weight.shape[1]
        expected = ((dim, h, w), (dim // 8, 4 * h, 4 * w))
        seen = (tuple(embedding.shape[1:]), tuple(hq.shape[1:]))
        if seen != expected or not {int(embedding.shape[0]), int(hq.shape[0])} <= {1, len(prompts)}:
            raise ModelError(
                f"the features of HQ-SAM must be 1 or {len(prompts)} x {expected[0]} and {expected[1]} "
                f"and are {tuple(embedding.shape)} and {tuple(hq.shape)}"
            )
        sparse, dense = self.prompt_encoder(prompts.coords, prompts.labels, prompts.masks, prompts.has_mask)
        return self.mask_decoder.decode(
            embedding, hq, self.prompt_encoder.dense_pe(), sparse, dense, prompts.present
        )


def build_hq_sam(config: HqSamConfig) -> HqSam:
    """An HQ-SAM with fresh weights in training mode."""
    return _around(HqImageEncoder(config), config, config.embed_dim, config.hq_token_only)


def build_hq_tiny(config: HqTinyConfig) -> HqSam:
    """An HQ-SAM over TinyViT with fresh weights in training mode."""
    encoder = HqTinyVit(
        config.image_size,
        config.embed_dims,
        config.depths,
        config.num_heads,
        config.window_sizes,
        config.prompt_dim,
    )
    return _around(encoder, config, config.embed_dims[HqTinyVit.early_layer + 1], config.hq_token_only)


def _around(encoder: EarlyEncoder, sizes: DecoderSizes, early_dim: int, hq_token_only: bool) -> HqSam:
    """Prompt encoder and high-quality decoder around an encoder with an early map of ``early_dim`` channels."""
    decoder = HqMaskDecoder(
        sizes.prompt_dim,
        build_two_way_transformer(sizes),
        early_dim,
        sizes.num_multimask_outputs,
        sizes.iou_head_depth,
        sizes.iou_head_hidden_dim,
        hq_token_only,
    )
    return HqSam(encoder, build_prompt_encoder(sizes), decoder)


def infer_hq_sam(state_dict: Mapping[str, Tensor]) -> HqSamConfig | None:
    """Which published HQ-SAM (ViT-B, L or H) a state dict is; None when it is none.

    Raises `ModelFormatError` for a plain ViT of unknown size.
    """
    sam = infer_sam(state_dict) if HQ_TOKEN in state_dict else None
    return None if sam is None else _high_quality(sam)


def infer_hq_tiny(state_dict: Mapping[str, Tensor]) -> HqTinyConfig | None:
    """The published HQ-SAM over TinyViT, or None; raises `ModelFormatError` for a TinyViT of another size."""
    light = infer_mobile_sam(state_dict) if HQ_TOKEN in state_dict else None
    return None if light is None else _high_quality_tiny(light)


def _high_quality(config: SamConfig) -> HqSamConfig:
    return HqSamConfig(**{**config.to_dict(), "name": f"hq_{config.name}"})


def _high_quality_tiny(config: MobileSamConfig) -> HqTinyConfig:
    return HqTinyConfig(**{**config.to_dict(), "name": "hq_vit_tiny"})


PUBLISHED: Mapping[str, HqSamConfig] = MappingProxyType(
    {config.name: config for config in map(_high_quality, (VIT_B, VIT_L, VIT_H))}
)
HQ_VIT_TINY = _high_quality_tiny(VIT_T)

HQ_SAM = Family("hq_sam", infer_hq_sam, build_hq_sam, HqSamConfig.from_dict, PUBLISHED)
HQ_SAM_TINY = Family(
    "hq_sam_tiny",
    infer_hq_tiny,
    build_hq_tiny,
    HqTinyConfig.from_dict,
    MappingProxyType({HQ_VIT_TINY.name: HQ_VIT_TINY}),
)
