"""Training state on disk: everything that an exact resume needs, written whole or not at all.

Tensors go into safetensors, numbers into its metadata; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from anymask.atomic import write_atomically
from anymask.errors import WeightsError
from anymask.model.weights import load_strict, read_safetensors

_FORMAT = "anymask-training-1"


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(v)
        for index, slots in state.items()
        for name, v in slots.items()
    }


def save_checkpoint(
    path: Path,
    model: nn.Module,
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    random_states: Sequence[Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Write model, average, optimiser and the processes' random states; ``numbers`` must be JSON."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    tensors |= _optimizer_tensors(optimizer)
    tensors |= {f"generator.{rank}": state for rank, state in enumerate(random_states)}
    tensors = {k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, save(tensors, {"format": _FORMAT, "numbers": json.dumps(dict(numbers))}))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    rank: int,
    device: torch.device,
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote, in place; returns its numbers.

    Raises:
        WeightsError: the file is damaged, of another kind, or of another network.
    """
    tensors, numbers = _read(path)
    load_strict(model, _under(tensors, "model."), origin=str(path))
    for key, value in _under(tensors, "ema.").items():
        ema[key] = value.to(device)
    _restore_optimizer(optimizer, _under(tensors, "optimizer."))
    if f"generator.{rank}" in tensors:  # a process that was not there before keeps its fresh state
        generator.set_state(tensors[f"generator.{rank}"])
    return numbers


def load_average(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load the averaged weights of a checkpoint into a model, strictly; returns the checkpoint's numbers.

    Raises:
        WeightsError: as `load_checkpoint`.
    """
    tensors, numbers = _read(path)
    load_strict(model, _under(tensors, "ema."), origin=str(path))
    return numbers


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != _FORMAT:
        raise WeightsError(
            f"{path} is no training checkpoint of anymask (format {metadata.get('format')!r})."
        )
    numbers: dict[str, Any] = json.loads(metadata["numbers"])
    return tensors, numbers


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    current = optimizer.state_dict()
    current["state"] = state
    optimizer.load_state_dict(current)
