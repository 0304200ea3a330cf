"""Weights in safetensors files: written whole or not at all, read strictly.

A file of ours carries one line of JSON in the safetensors metadata: the facts its writer gave, the format,
and a SHA-256 over all names, types, shapes, values and facts, so that a flipped byte is refused even when no
digest of the file was pinned. (One line, because safetensors writes several in an order that changes from run
to run.)
Foreign checkpoints come in through `convert.py` only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from anymask.atomic import write_atomically
from anymask.errors import WeightsError

METADATA_KEY = "anymask"
FORMAT = "anymask-weights-1"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {str(path)!r}: {error.strerror}") from error


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of what weights say, whatever the order and the layout of the file."""
    digest = hashlib.sha256(json.dumps([FORMAT, dict(metadata)], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(
    weights: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a module's state dict (or one) to `path` atomically; returns the SHA-256 of the file.

    The old file stays as it was when writing fails (`OutputError`).
    """
    state_dict = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # Clones, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    facts = dict(metadata or {})
    record = {"format": FORMAT, "sha256": content_sha256(tensors, facts), "facts": facts}
    data = safetensors_torch.save(tensors, {METADATA_KEY: json.dumps(record, sort_keys=True)})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of any safetensors file; a damaged one raises `WeightsError`."""
    try:
        with safe_open(Path(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights {str(path)!r}: {error}") from error


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether `save_weights` wrote a file, as far as its metadata says; a damaged one raises `WeightsError`."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return False
    try:
        with safe_open(Path(path), framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights {str(path)!r}: {error}") from error


def read_weights(
    path: str | os.PathLike[str], sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that `save_weights` wrote.

    `sha256`, where it is known (a manifest), must be the digest of the whole file. A wrong digest, a damaged
    file and a file of another origin raise `WeightsError`.
    """
    if sha256 is not None and (seen := file_sha256(path)) != sha256.lower():
        raise WeightsError(
            f"the weights {str(path)!r} have SHA-256 {seen} and should have {sha256}: fetch them again"
        )
    tensors, metadata = read_safetensors(path)
    try:
        record = json.loads(metadata[METADATA_KEY])
        known, digest, facts = record["format"] == FORMAT, record["sha256"], dict(record["facts"])
    except (KeyError, ValueError, TypeError, RecursionError):
        known, digest, facts = False, "", {}
    if not known:
        raise WeightsError(
            f"the weights {str(path)!r} were not written by anymask or are damaged: convert them first"
        )
    if content_sha256(tensors, facts) != digest:
        raise WeightsError(f"the weights {str(path)!r} are damaged (their digest differs): fetch them again")
    return tensors, facts


def load_weights(
    module: nn.Module, path: str | os.PathLike[str], sha256: str | None = None
) -> dict[str, str]:
    """Fill `module` from a file that `save_weights` wrote, strictly; returns the file's metadata."""
    tensors, metadata = read_weights(path, sha256)
    load_strict(module, tensors, origin=str(path))
    return metadata


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], origin: str = "the state dict") -> None:
    """Fill `module`; every missing, unexpected and misshapen key is named in one `WeightsError`.

    Nothing is changed unless everything fits. Floating types are converted to the module's.
    """
    faults = key_faults(module.state_dict(), state_dict)
    if not faults:
        # Only now: a hostile file can announce a tensor of any size, but not of the right one.
        faults = [f"not finite: {name}" for name, tensor in state_dict.items() if not _finite(tensor)]
    if faults:
        raise misfit(origin, module, faults)
    module.load_state_dict(dict(state_dict), strict=True)


def key_faults(expected: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> list[str]:
    """A line for every missing, unexpected and misshapen key; no value is looked at."""
    faults = [f"missing: {name}" for name in expected if name not in state_dict]
    faults += [f"unexpected: {name}" for name in state_dict if name not in expected]
    for name, tensor in state_dict.items():
        wanted = expected.get(name)
        if wanted is None:
            continue
        if tensor.shape != wanted.shape:
            faults.append(f"misshapen: {name} is {tuple(tensor.shape)}, should be {tuple(wanted.shape)}")
        elif tensor.is_floating_point() != wanted.is_floating_point():
            faults.append(f"misshapen: {name} is {tensor.dtype}, should be {wanted.dtype}")
    return faults


def misfit(origin: str, module: nn.Module, faults: list[str]) -> WeightsError:
    """The one error for all ``faults`` of a file: a sentence, then a line for each."""
    listed = "\n  ".join(faults)
    return WeightsError(
        f"{origin} does not fit {type(module).__name__}: {len(faults)} keys are wrong\n  {listed}"
    )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
