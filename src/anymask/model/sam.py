"""Segment Anything: the paper's figure as one function.

    image --encode--> embedding --decode, with prompts--> masks and their predicted quality

Source: SAM paper, figure 4; `segment_anything/modeling/sam.py` and `build_sam.py` of the published code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError, ModelFormatError
from anymask.model.image_encoder import ImageEncoder
from anymask.model.mask_decoder import MaskDecoder, select_masks
from anymask.model.prompt_encoder import PromptEncoder, PromptTensors
from anymask.model.two_way_transformer import TwoWayTransformer
from anymask.model.variants import SamConfig
from anymask.model.weights import load_strict, read_weights, save_weights

CONFIG_KEY = "anymask.sam_config"


class Sam(nn.Module):
    """An image encoder of any kind, a prompt encoder and a mask decoder.

    Mean and standard deviation of the pixels are part of the network's contract, not of its weights: they are
    not in the state dict, as published.
    """

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


def build_prompt_encoder(config: SamConfig) -> PromptEncoder:
    """The prompt encoder of `config` with fresh weights."""
    grid, size = config.grid_size, config.image_size
    return PromptEncoder(config.prompt_dim, (grid, grid), (size, size), config.mask_channels)


def build_mask_decoder(config: SamConfig) -> MaskDecoder:
    """The mask decoder of `config` with fresh weights."""
    transformer = TwoWayTransformer(
        config.decoder_depth,
        config.prompt_dim,
        config.decoder_heads,
        config.decoder_mlp_dim,
        config.attention_downsample_rate,
    )
    return MaskDecoder(
        config.prompt_dim,
        transformer,
        config.num_multimask_outputs,
        config.iou_head_depth,
        config.iou_head_hidden_dim,
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


def save_sam(sam: Sam, config: SamConfig, path: str | os.PathLike[str]) -> str:
    """Keep a network and its sizes in one safetensors file; returns the SHA-256 of the file."""
    return save_weights(sam, path, {CONFIG_KEY: json.dumps(config.to_dict())})


def load_sam(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[Sam, SamConfig]:
    """The inverse of `save_sam`, in eval mode; damage and keys that do not fit raise `WeightsError`."""
    tensors, metadata = read_weights(path, sha256)
    try:
        config = SamConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (KeyError, ValueError, TypeError, ModelError) as error:
        raise ModelFormatError(f"{str(path)!r} does not say the sizes of a SAM: {error}") from error
    sam = build_sam(config)
    load_strict(sam, tensors, origin=str(path))
    return sam.eval(), config
