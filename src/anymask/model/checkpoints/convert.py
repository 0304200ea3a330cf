"""The only door for foreign checkpoints: published `.pth` files, safetensors, and folders as transformers writes them.

`.pth` is a pickle, and a pickle is a program; it is opened here only, by torch's restricted unpickler, with no way
round it, after a look at its size and members (`checkpoint_files`). What comes out is checked strictly against the
network it claims to be, and that network is drawn without memory first, so that a file cannot ask for a huge one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.errors import MissingExtraError, ModelFormatError, WeightsError
from anymask.model.checkpoints.files import (
    check_pickled,
    check_safetensors,
    checkpoint_sha256,
    folder_files,
)
from anymask.model.checkpoints.transformers_names import from_transformers
from anymask.model.families import build_network, infer_config, load_network, save_network
from anymask.model.network import NetworkConfig
from anymask.model.preview import refuse_misfit
from anymask.model.weights import is_ours, load_strict, read_safetensors

PICKLED_SUFFIXES = (".pth", ".pt", ".bin")
WRAPPERS = ("model", "state_dict")
DEEPEST_WRAPPER = 3
PREFIX = "module."
SAFE_TORCH = (2, 10)
"""Older ones could be made to write outside their memory by a crafted pickle (CVE-2026-24747)."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a foreign `.pth`, `.pt`, `.bin` or `.safetensors` file or a folder, tensors on the CPU.

    A file that holds anything but tensors raises `WeightsError`, and code in it is not run; a file of another
    kind raises `ModelFormatError`.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        check_safetensors(path)
        return _plain_tensors(read_safetensors(path)[0], str(path))
    if path.suffix not in PICKLED_SUFFIXES:
        raise ModelFormatError(
            f"{str(path)!r} is no known kind of checkpoint: give one of {(*PICKLED_SUFFIXES, '.safetensors')}"
        )
    members = check_pickled(path)
    _refuse_old_torch(path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds here; each of them means the same
        raise WeightsError(
            f"the checkpoint {str(path)!r} was refused: it is damaged or holds more than plain tensors "
            f"({type(error).__name__}); nothing in it was run"
        ) from error
    tensors = _plain_tensors(content, str(path))
    if members is not None:
        _refuse_short_storages(tensors, members, str(path))
    return tensors


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of all files of a folder; each file must hold exactly what the index says."""
    tensors: dict[str, Tensor] = {}
    for file, keys in folder_files(folder).items():
        found = read_checkpoint(file)
        if keys is not None and (wrong := sorted(keys.symmetric_difference(found))):
            raise WeightsError(
                f"the checkpoint {str(file)!r:.200} was refused: it and its index differ in {len(wrong)} keys, "
                f"among them {wrong[:5]!r:.300}"
            )
        tensors.update(found)
    return tensors


def _plain_tensors(content: object, origin: str) -> dict[str, Tensor]:
    """The names and dense tensors of a checkpoint, out of its usual wrappers.

    A restricted unpickler still lets a file put attributes on a dictionary, or a dictionary into itself; hence
    `dict.items` and the bound on wrappers.
    """
    for _ in range(DEEPEST_WRAPPER):
        if not isinstance(content, dict):
            break
        inner = [dict.get(content, key) for key in WRAPPERS]
        wrapped = next((value for value in inner if isinstance(value, dict)), None)
        if wrapped is None:
            break
        content = wrapped
    if not isinstance(content, dict):
        raise WeightsError(f"{origin!r} holds a {type(content).__name__} and not a dictionary of tensors")
    items = list(dict.items(content))
    strange = [_shown(name) for name, value in items if not isinstance(name, str) or not _is_plain(value)]
    if strange:
        raise WeightsError(
            f"{origin!r} holds {len(strange)} entries that are not plain tensors: {', '.join(strange[:20])}"
        )
    tensors = {name.removeprefix(PREFIX): value.detach() for name, value in items}
    if len(tensors) != len(items):
        raise WeightsError(f"{origin!r} holds keys that are the same but for {PREFIX!r}")
    return tensors


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and not value.is_nested
    )


def _shown(name: object) -> str:
    """A key for a message; those that are no text could be of any depth."""
    return re.sub(r"[^ -~]", "?", name)[:80] if isinstance(name, str) else f"<{type(name).__name__}>"


def _refuse_short_storages(tensors: Mapping[str, Tensor], members: frozenset[int], origin: str) -> None:
    """Every storage must be as long as a member of the archive: longer ones would show memory of the process."""
    for name, tensor in tensors.items():
        if tensor.untyped_storage().nbytes() not in members:
            raise WeightsError(
                f"the checkpoint {origin!r} was refused: {_shown(name)} announces more values than the file holds"
            )


def _refuse_unbacked(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Strides of zero make a tensor of any size from one value; sizes are not to be inferred from such."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"the checkpoint {origin!r} was refused: {_shown(name)} announces more values than the file holds"
            )


def _refuse_old_torch(path: Path) -> None:
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise MissingExtraError(
            f"{str(path)!r} is a pickle, and torch {torch.__version__} does not read those safely "
            f"(CVE-2026-24747); update it: pip install 'torch>={SAFE_TORCH[0]}.{SAFE_TORCH[1]}'"
        )


def load_checkpoint(
    path: str | os.PathLike[str], config: NetworkConfig | None = None
) -> tuple[Any, NetworkConfig]:
    """A published checkpoint, in its own or in transformers' names -> the filled network in eval mode, its sizes.

    Without `config` family and sizes are found from the keys. Missing, unexpected and misshapen keys raise one
    `WeightsError`.
    """
    state_dict = published_names(read_checkpoint(path))
    if config is None:
        _refuse_unbacked(state_dict, str(path))
        config = infer_config(state_dict)
    refuse_misfit(build_network, config, state_dict, str(path))
    network = build_network(config)
    load_strict(network, state_dict, origin=str(path))
    return network.eval(), config


def read_network(path: str | os.PathLike[str]) -> tuple[Any, NetworkConfig]:
    """The filled network and its sizes in a file of ours or in a foreign checkpoint."""
    return load_network(path) if is_ours(path) else load_checkpoint(path)


def published_names(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict under transformers' names under the published ones; any other as it is."""
    if any(name.startswith("vision_encoder.") for name in state_dict):
        return from_transformers(state_dict)
    return state_dict


def convert_checkpoint(
    source: str | os.PathLike[str], target: str | os.PathLike[str], config: NetworkConfig | None = None
) -> str:
    """Check a checkpoint and keep it as our safetensors file; returns the new file's SHA-256.

    One of ours, such as the weights of a trained nano, says its sizes itself, unless ``config`` is given.
    """
    network, config = read_network(source) if config is None else load_checkpoint(source, config)
    return save_network(network, config, target, {"source_sha256": checkpoint_sha256(source)})
