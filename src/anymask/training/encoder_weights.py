"""A pre-trained image encoder in a file of its own: its tensors, and what they have seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from anymask.errors import WeightsError
from anymask.model.nano.encoder import NanoEncoder
from anymask.model.weights import load_strict, read_weights, save_weights

_PART = "image_encoder"


def save_encoder(
    tensors: Mapping[str, Tensor], path: str | Path, sources: Iterable[str], facts: Mapping[str, str]
) -> None:
    """Write an encoder's state dict, the names of the sources it has seen, and other facts."""
    save_weights(tensors, path, {**facts, "part": _PART, "sources": " ".join(sorted(sources))})


def load_encoder(encoder: NanoEncoder, path: str | Path) -> dict[str, str]:
    """Fill an encoder from a file that `save_encoder` wrote, strictly; returns the file's facts.

    Raises:
        WeightsError: the file is damaged or no encoder's, or the encoder is of another shape.
    """
    tensors, facts = read_weights(path)
    if facts.get("part") != _PART:
        raise WeightsError(
            f"{str(path)!r} holds no pre-trained encoder; make one with anymask.training.recipes.nano_pretrain, "
            "or start from whole weights by init"
        )
    load_strict(encoder, tensors, origin=str(path))
    return facts
