"""All families of networks: from the keys of a checkpoint, or the sizes in one of our files, to a network.

A new family is a file with its network and its `Family`, and a line in `FAMILIES`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anymask.errors import ModelError, ModelFormatError
from anymask.model.efficient.network import EFFICIENT_SAM
from anymask.model.hq.network import HQ_SAM, HQ_SAM_TINY
from anymask.model.light.mobile_sam import MOBILE_SAM
from anymask.model.light.repvit_sam import EDGE_SAM, REPVIT_SAM
from anymask.model.nano.network import NANO
from anymask.model.network import Family, NetworkConfig
from anymask.model.preview import refuse_misfit
from anymask.model.sam.network import SAM
from anymask.model.weights import load_strict, read_weights, save_weights

FAMILIES: tuple[Family, ...] = (
    HQ_SAM,
    HQ_SAM_TINY,
    EFFICIENT_SAM,
    MOBILE_SAM,
    EDGE_SAM,
    REPVIT_SAM,
    NANO,
    SAM,
)
"""The first whose `Family.infer` knows the keys has them; families with keys of their own stand before plain SAM."""

CONFIG_KEY = "anymask.network"


def family_of(config: NetworkConfig) -> Family:
    """The family that ``config`` is of; raises `ModelError` for an unknown one."""
    return _family(config.family)


def build_network(config: NetworkConfig) -> Any:
    """A `PromptableNetwork`, or a `Nano`, with fresh weights, in training mode."""
    return family_of(config).build(config)


def published_config(name: str) -> NetworkConfig:
    """The published sizes called ``name``; raises `ModelError` naming all."""
    known = {key: config for family in FAMILIES for key, config in family.published.items()}
    if name not in known:
        raise ModelError(
            f"no published network is called {name!r:.80}; choose one of {', '.join(sorted(known))}"
        )
    return known[name]


def infer_config(state_dict: Mapping[str, Tensor]) -> NetworkConfig:
    """Family and sizes of a state dict with published names.

    Raises `ModelFormatError` when no family knows the keys, or one does and has no such size.
    """
    for family in FAMILIES:
        config = family.infer(state_dict)
        if config is not None:
            return config
    seen = ", ".join(sorted({name.partition(".")[0] for name in state_dict})[:8]) or "nothing"
    raise ModelFormatError(
        f"this is no checkpoint of a known family ({', '.join(family.name for family in FAMILIES)}): "
        f"its keys start with {seen:.200}"
    )


def save_network(
    network: Any,
    config: NetworkConfig,
    path: str | os.PathLike[str],
    facts: Mapping[str, str] | None = None,
) -> str:
    """Keep a network and its sizes in one safetensors file; returns the SHA-256 of the file."""
    return save_weights(network, path, {**sizes_fact(config), **(facts or {})})


def sizes_fact(config: NetworkConfig) -> dict[str, str]:
    """What a file of weights tells of its network, for `load_network`."""
    return {CONFIG_KEY: json.dumps({"family": config.family, **config.to_dict()})}


def load_network(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[Any, NetworkConfig]:
    """The inverse of `save_network`, in eval mode; damage and keys that do not fit raise `WeightsError`.

    Of a file that does not say its sizes the keys must say them, as in `infer_config`.
    """
    tensors, metadata = read_weights(path, sha256)
    config = _told(metadata, str(path)) if CONFIG_KEY in metadata else infer_config(tensors)
    refuse_misfit(build_network, config, tensors, str(path))
    network = build_network(config)
    load_strict(network, tensors, origin=str(path))
    return network.eval(), config


def _told(metadata: Mapping[str, str], origin: str) -> NetworkConfig:
    try:
        sizes = json.loads(metadata[CONFIG_KEY])
        return _family(sizes.pop("family")).parse(sizes)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        ValueError,
        TypeError,
        ModelError,
    ) as error:
        raise ModelFormatError(f"{origin!r} does not say the sizes of a network: {error}") from error


def _family(name: object) -> Family:
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ModelError(
        f"no family of networks is called {name!r:.80}; known are {', '.join(f.name for f in FAMILIES)}"
    )
