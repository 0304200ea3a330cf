"""The published parameter names of SAM and HQ-SAM and those of transformers' `SamModel` and `SamHQModel`, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from anymask.errors import WeightsError

# (published prefix, transformers' prefix); `#` stands for a number that both share.
_NAMES = (
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.blocks.#.norm1.", "vision_encoder.layers.#.layer_norm1."),
    ("image_encoder.blocks.#.norm2.", "vision_encoder.layers.#.layer_norm2."),
    ("image_encoder.blocks.#.", "vision_encoder.layers.#."),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("prompt_encoder.point_embeddings.#.", "prompt_encoder.point_embed.#."),
    ("prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("mask_decoder.transformer.layers.#.norm#.", "mask_decoder.transformer.layers.#.layer_norm#."),
    ("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    ("mask_decoder.hf_token.", "mask_decoder.hq_token."),
    ("mask_decoder.hf_mlp.", "mask_decoder.hq_mask_mlp."),
    ("mask_decoder.compress_vit_feat.0.", "mask_decoder.compress_vit_conv1."),
    ("mask_decoder.compress_vit_feat.1.", "mask_decoder.compress_vit_norm."),
    ("mask_decoder.compress_vit_feat.3.", "mask_decoder.compress_vit_conv2."),
    ("mask_decoder.embedding_encoder.0.", "mask_decoder.encoder_conv1."),
    ("mask_decoder.embedding_encoder.1.", "mask_decoder.encoder_norm."),
    ("mask_decoder.embedding_encoder.3.", "mask_decoder.encoder_conv2."),
    ("mask_decoder.embedding_maskfeature.0.", "mask_decoder.mask_conv1."),
    ("mask_decoder.embedding_maskfeature.1.", "mask_decoder.mask_norm."),
    ("mask_decoder.embedding_maskfeature.3.", "mask_decoder.mask_conv2."),
)
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_TRANSFORMERS_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_HEAD = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hf_mlp|hq_mask_mlp)\.)"


def from_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of transformers' `SamModel` or `SamHQModel` under the published names."""
    renamed = {}
    positions = [state_dict[name] for name in _TRANSFORMERS_POSITIONS if name in state_dict]
    if positions:
        renamed[_POSITIONS] = positions[0]
        if not all(torch.equal(positions[0], other) for other in positions[1:]):
            raise WeightsError(f"{_TRANSFORMERS_POSITIONS[0]} and {_TRANSFORMERS_POSITIONS[1]} differ")
    for name, tensor in state_dict.items():
        if name not in _TRANSFORMERS_POSITIONS:
            renamed[_rename(_published_head(name, state_dict), 1, 0)] = tensor
    return renamed


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with published names under those of transformers; inverse of the above."""
    renamed = {_rename(_transformers_head(name, state_dict), 0, 1): t for name, t in state_dict.items()}
    if _POSITIONS in renamed:
        positions = renamed.pop(_POSITIONS)
        renamed.update(dict.fromkeys(_TRANSFORMERS_POSITIONS, positions))
    return renamed


def _rename(name: str, source: int, target: int) -> str:
    """`name` with the first prefix of `_NAMES` that fits exchanged; others pass and fail the strict check."""
    for pair in _NAMES:
        pattern = re.escape(pair[source]).replace(r"\#", r"(\d+)")
        if match := re.match(pattern, name):
            numbers = iter(match.groups())
            prefix = re.sub("#", lambda _, n=numbers: next(n), pair[target])  # type: ignore[misc]
            return prefix + name[match.end() :]
    return name


def _published_head(name: str, state_dict: Mapping[str, Tensor]) -> str:
    """Layers of one MLP: `proj_in`, `layers.0`.., `proj_out` -> `layers.0`, `layers.1`.., `layers.last`."""
    if not (match := re.match(_HEAD + r"(proj_in|proj_out|layers\.(\d+))\.", name)):
        return name
    head, kind, number = match.groups()
    inner = sum(other.startswith(f"{head}layers.") and other.endswith(".weight") for other in state_dict)
    index = {"proj_in": 0, "proj_out": inner + 1}.get(kind, int(number or 0) + 1)
    return f"{head}layers.{index}.{name[match.end() :]}"


def _transformers_head(name: str, state_dict: Mapping[str, Tensor]) -> str:
    """The inverse of `_published_head`."""
    if not (match := re.match(_HEAD + r"layers\.(\d+)\.", name)):
        return name
    head, index = match[1], int(match[2])
    last = sum(other.startswith(f"{head}layers.") and other.endswith(".weight") for other in state_dict) - 1
    kind = {0: "proj_in", last: "proj_out"}.get(index, f"layers.{index - 1}")
    return f"{head}{kind}.{name[match.end() :]}"
