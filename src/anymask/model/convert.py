"""The only door for foreign checkpoints: published `.pth` files, safetensors, and transformers' names.

`.pth` is a pickle, and a pickle is a program; it is opened here only, by torch's restricted unpickler, with
no way round it. What comes out is checked strictly against the network it claims to be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.errors import ModelFormatError, WeightsError
from anymask.model.families import build_network, infer_config, save_network
from anymask.model.network import NetworkConfig
from anymask.model.transformers_names import from_transformers
from anymask.model.weights import file_sha256, load_strict, read_safetensors

PICKLED_SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("model", "state_dict")


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


def load_checkpoint(
    path: str | os.PathLike[str], config: NetworkConfig | None = None
) -> tuple[Any, NetworkConfig]:
    """A published checkpoint, in its own or in transformers' names -> the filled network in eval mode, its sizes.

    Without `config` family and sizes are found from the keys. Missing, unexpected and misshapen keys raise one
    `WeightsError`.
    """
    state_dict = published_names(read_checkpoint(path))
    config = config or infer_config(state_dict)
    network = build_network(config)
    load_strict(network, state_dict, origin=str(path))
    return network.eval(), config


def published_names(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict under transformers' names under the published ones; any other as it is."""
    if any(name.startswith("vision_encoder.") for name in state_dict):
        return from_transformers(state_dict)
    return state_dict


def convert_checkpoint(
    source: str | os.PathLike[str], target: str | os.PathLike[str], config: NetworkConfig | None = None
) -> str:
    """Check a foreign checkpoint and keep it as our safetensors file; returns the new file's SHA-256."""
    network, config = load_checkpoint(source, config)
    return save_network(network, config, target, {"source_sha256": file_sha256(source)})
