"""A network drawn without memory, to see whether a file fits before anything of the file's choosing is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from anymask.errors import ModelError, ModelFormatError
from anymask.limits import MAX_NETWORK_SIZE
from anymask.model.network import NetworkConfig
from anymask.model.weights import key_faults, misfit


def refuse_misfit(
    build: Callable[[NetworkConfig], Any],
    config: NetworkConfig,
    state_dict: Mapping[str, Tensor],
    origin: str,
) -> None:
    """Raise `WeightsError` naming every key of ``state_dict`` that the network of ``config`` has not, or otherwise.

    Sizes beyond `MAX_NETWORK_SIZE`, or that make no network, raise `ModelFormatError`.
    """
    if (largest := _largest(config.to_dict())) > MAX_NETWORK_SIZE:
        raise ModelFormatError(
            f"{origin!r:.200} asks for a network with a size of {largest:.0f}; the limit is {MAX_NETWORK_SIZE}"
        )
    try:
        with torch.device("meta"):
            network = build(config)
    except ModelError:
        raise
    except Exception as error:  # sizes of a stranger's choosing fail in any way; each means the same
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(f"{origin!r:.200} has sizes that make no network: {reason:.200}") from error
    if faults := key_faults(network.state_dict(), state_dict):
        raise misfit(origin, network, faults)


def _largest(value: object) -> float:
    """The largest number in plain data."""
    if isinstance(value, Mapping):
        return max((_largest(item) for item in value.values()), default=0)
    if isinstance(value, list | tuple):
        return max((_largest(item) for item in value), default=0)
    return abs(value) if isinstance(value, int | float) else 0
