"""Segment Anything: the paper's figure as one function.

    image --encode--> embedding --decode, with prompts--> masks and their predicted quality

Source: SAM paper, figure 4; `segment_anything/modeling/sam.py` and `build_sam.py` of the published code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError, ModelFormatError
from anymask.model.network import Family
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.image_encoder import ImageEncoder
from anymask.model.sam.mask_decoder import MaskDecoder, select_masks
from anymask.model.sam.prompt_encoder import PromptEncoder
from anymask.model.sam.two_way_transformer import TwoWayTransformer
from anymask.model.variants import VARIANTS, VIT_B, VIT_H, VIT_L, DecoderSizes, SamConfig


class Sam(nn.Module):
    """An image encoder of any kind, a prompt encoder and a mask decoder.

    Mean and standard deviation of the pixels are part of the network's contract, not of its weights: they are
    not in the state dict, as published.
    """

    feature_names = ("embedding",)
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1), persistent=False)

    def forward(
        self, pixels: Tensor, prompts: PromptTensors, multimask: bool = True
    ) -> tuple[Tensor, Tensor]:
        """One image and B prompts -> (low_res_logits B x (3 or 1) x 4h x 4w, predicted IoU B x (3 or 1))."""
        embedding = self.encode(pixels)
        low_res_logits, predicted_iou = self.decode(embedding, prompts)
        return select_masks(low_res_logits, predicted_iou, multimask)

    def preprocess(self, pixels: Tensor) -> Tensor:
        """RGB in 0..255, E x 3 x H x W with H, W <= S -> normalised, then zeros below and to the right."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ModelError(f"pixels must be E x 3 x H x W and are {tuple(pixels.shape)}")
        height, width = self.prompt_encoder.image_size
        below, right = height - pixels.shape[2], width - pixels.shape[3]
        if below < 0 or right < 0:
            raise ModelError(
                f"the network frame is {height} x {width} and the image is {tuple(pixels.shape[2:])}: "
                "resize its long side first"
            )
        normalised = (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return F.pad(normalised, (0, right, 0, below))

    def encode(self, pixels: Tensor) -> Tensor:
        """RGB in 0..255, E x 3 x H x W (long side already S) -> embedding E x C x h x w."""
        embedding: Tensor = self.image_encoder(self.preprocess(pixels))
        return embedding

    def encode_features(self, pixels: Tensor) -> dict[str, Tensor]:
        """See `anymask.model.network.PromptableNetwork`."""
        return {"embedding": self.image_encoder(pixels)}

    def decode_features(
        self, features: Mapping[str, Tensor], prompts: PromptTensors
    ) -> tuple[Tensor, Tensor]:
        """See `anymask.model.network.PromptableNetwork`."""
        return self.decode(features["embedding"], prompts)

    def decode(self, embedding: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """B prompts on one embedding (1 x C x h x w, shared) or on one each (B x C x h x w).

        Returns all masks: (low_res_logits B x 4 x 4h x 4w, predicted IoU B x 4). Mask 0 is the answer when
        one is wanted, masks 1..3 are the candidates of an ambiguous prompt.
        """
        expected = (self.mask_decoder.iou_token.weight.shape[1], *self.prompt_encoder.grid_size)
        if tuple(embedding.shape[1:]) != expected or embedding.shape[0] not in (1, len(prompts)):
            raise ModelError(
                f"the embedding must be 1 or {len(prompts)} x {expected} and is {tuple(embedding.shape)}"
            )
        sparse, dense = self.prompt_encoder(prompts.coords, prompts.labels, prompts.masks, prompts.has_mask)
        logits, predicted_iou = self.mask_decoder(
            embedding, self.prompt_encoder.dense_pe(), sparse, dense, prompts.present
        )
        return logits, predicted_iou


def build_prompt_encoder(sizes: DecoderSizes) -> PromptEncoder:
    """The prompt encoder of some sizes with fresh weights."""
    grid, side = sizes.grid_size, sizes.image_size
    return PromptEncoder(sizes.prompt_dim, (grid, grid), (side, side), sizes.mask_channels)


def build_two_way_transformer(sizes: DecoderSizes) -> TwoWayTransformer:
    """The transformer of the mask decoder of some sizes with fresh weights."""
    return TwoWayTransformer(
        sizes.decoder_depth,
        sizes.prompt_dim,
        sizes.decoder_heads,
        sizes.decoder_mlp_dim,
        sizes.attention_downsample_rate,
    )


def build_mask_decoder(sizes: DecoderSizes) -> MaskDecoder:
    """The mask decoder of some sizes with fresh weights."""
    return MaskDecoder(
        sizes.prompt_dim,
        build_two_way_transformer(sizes),
        sizes.num_multimask_outputs,
        sizes.iou_head_depth,
        sizes.iou_head_hidden_dim,
    )


def build_sam(config: SamConfig) -> Sam:
    """A SAM with fresh weights in training mode."""
    return Sam(
        ImageEncoder(config),
        build_prompt_encoder(config),
        build_mask_decoder(config),
        config.pixel_mean,
        config.pixel_std,
    )


def infer_sam(state_dict: Mapping[str, Tensor]) -> SamConfig | None:
    """Which published SAM (ViT-B, L or H, and for which image size) a state dict is; None when it is none.

    Raises `ModelFormatError` for a plain ViT of unknown size.
    """
    position = state_dict.get("image_encoder.pos_embed")
    if position is None or position.ndim != 4 or position.shape[1] != position.shape[2]:
        return None
    blocks = {m[1] for name in state_dict if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", name))}
    for config in (VIT_B, VIT_L, VIT_H):
        if (config.embed_dim, config.depth) == (position.shape[3], len(blocks)):
            return dataclasses.replace(config, image_size=position.shape[1] * config.patch_size)
    raise ModelFormatError(
        f"no published SAM has {len(blocks)} blocks of {position.shape[3]} channels; "
        "known are vit_b (12 of 768), vit_l (24 of 1024) and vit_h (32 of 1280)"
    )


SAM = Family("sam", infer_sam, build_sam, SamConfig.from_dict, VARIANTS)
