"""The only door for foreign checkpoints: published `.pth` files, safetensors, and transformers' names.

`.pth` is a pickle, and a pickle is a program; it is opened here only, by torch's restricted unpickler, with
no way round it. What comes out is checked strictly against the network it claims to be.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anymask.errors import ModelFormatError, WeightsError
from anymask.model.sam import CONFIG_KEY, Sam, build_sam
from anymask.model.variants import VIT_B, VIT_H, VIT_L, SamConfig
from anymask.model.weights import file_sha256, load_strict, read_safetensors, save_weights

PICKLED_SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("model", "state_dict")

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
)
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_TRANSFORMERS_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_HEAD = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)\.)"


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a foreign `.pth`, `.pt`, `.bin` or `.safetensors` file, tensors on the CPU.

    A file that holds anything but tensors raises `WeightsError`, and code in it is not run; a file of another
    kind raises `ModelFormatError`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix not in PICKLED_SUFFIXES:
        raise ModelFormatError(
            f"{str(path)!r} is no known kind of checkpoint: give one of {(*PICKLED_SUFFIXES, '.safetensors')}"
        )
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds here; each of them means the same
        raise WeightsError(
            f"the checkpoint {str(path)!r} was refused: it is damaged or holds more than plain tensors "
            f"({type(error).__name__}); nothing in it was run"
        ) from error
    return _plain_tensors(content, str(path))


def _plain_tensors(content: object, origin: str) -> dict[str, Tensor]:
    """The names and dense tensors of an unpickled checkpoint, out of its usual wrappers."""
    while isinstance(content, dict) and (inner := [content[key] for key in WRAPPERS if key in content]):
        content = inner[0]
    if not isinstance(content, dict):
        raise WeightsError(f"{origin!r} holds a {type(content).__name__} and not a dictionary of tensors")
    strange = [
        str(name)
        for name, value in content.items()
        if not isinstance(name, str)
        or not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
    ]
    if strange:
        raise WeightsError(f"{origin!r} holds entries that are not plain tensors: {strange}")
    return {name.removeprefix("module."): value.detach() for name, value in content.items()}


def infer_config(state_dict: Mapping[str, Tensor]) -> SamConfig:
    """Which published SAM (ViT-B, L or H, and for which image size) a state dict with published names is."""
    position = state_dict.get("image_encoder.pos_embed")
    if position is None or position.ndim != 4 or position.shape[1] != position.shape[2]:
        raise ModelFormatError("this is no SAM checkpoint: it has no square `image_encoder.pos_embed`")
    blocks = {m[1] for name in state_dict if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", name))}
    for config in (VIT_B, VIT_L, VIT_H):
        if (config.embed_dim, config.depth) == (position.shape[3], len(blocks)):
            return dataclasses.replace(config, image_size=position.shape[1] * config.patch_size)
    raise ModelFormatError(
        f"no published SAM has {len(blocks)} blocks of {position.shape[3]} channels; "
        "known are vit_b (12 of 768), vit_l (24 of 1024) and vit_h (32 of 1280)"
    )


def load_checkpoint(path: str | os.PathLike[str], config: SamConfig | None = None) -> tuple[Sam, SamConfig]:
    """A published checkpoint, in its own or in transformers' names -> the filled network in eval mode.

    Without `config` the sizes are inferred. Missing, unexpected and misshapen keys raise one `WeightsError`.
    """
    state_dict = read_checkpoint(path)
    if any(name.startswith("vision_encoder.") for name in state_dict):
        state_dict = from_transformers(state_dict)
    config = config or infer_config(state_dict)
    sam = build_sam(config)
    load_strict(sam, state_dict, origin=str(path))
    return sam.eval(), config


def convert_checkpoint(
    source: str | os.PathLike[str], target: str | os.PathLike[str], config: SamConfig | None = None
) -> str:
    """Check a foreign checkpoint and keep it as our safetensors file; returns the new file's SHA-256."""
    sam, config = load_checkpoint(source, config)
    facts = {CONFIG_KEY: json.dumps(config.to_dict()), "source_sha256": file_sha256(source)}
    return save_weights(sam, target, facts)


def from_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of transformers' `SamModel` under the published names."""
    renamed = {}
    positions = [state_dict[name] for name in _TRANSFORMERS_POSITIONS if name in state_dict]
    if positions:
        renamed[_POSITIONS] = positions[0]
        if not all(torch.equal(positions[0], other) for other in positions[1:]):
            raise WeightsError(f"{_TRANSFORMERS_POSITIONS[0]} and {_TRANSFORMERS_POSITIONS[1]} differ")
    for name, tensor in state_dict.items():
        if name not in _TRANSFORMERS_POSITIONS:
            renamed[_published_head(_rename(name, 1, 0), state_dict)] = tensor
    return renamed


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with published names under those of transformers' `SamModel`; inverse of the above."""
    renamed = {_transformers_head(_rename(name, 0, 1), state_dict): t for name, t in state_dict.items()}
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
