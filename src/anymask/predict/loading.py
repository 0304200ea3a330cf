"""`anymask.load`: settings, a model, a segmenter."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from anymask.predict.cache import EmbeddingCache
from anymask.predict.segmenter import Segmenter
from anymask.runtime.registry import load_backend
from anymask.settings import load_settings


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    cache: bool = False,
) -> Segmenter:
    """A ready `Segmenter`.

    Args:
        model: a known name (`nano` is in the package), the folder of an exported model, or a checkpoint.
        backend: ``auto``, ``onnx``, ``openvino`` or ``torch``; see `anymask.runtime.registry.load_backend`.
        device: ``cpu``, or for torch a name such as ``cuda``.
        threads: for one inference; 0 leaves the choice to the backend.
        precision: ``fp32``, or ``bf16`` or ``int8``, which are faster and a little less exact.
        cache: keep embeddings on disk, so that a picture seen before is not encoded again.

    What is not given comes from the settings file and the environment (see `anymask.settings`). Raises
    `NotFoundError` for an unknown model and `ModelError` or one of its children for one that cannot be used.
    """
    given: dict[str, Any] = {
        "backend": backend,
        "device": device,
        "threads": threads,
        "precision": precision,
    }
    settings = replace(load_settings(), **{name: value for name, value in given.items() if value is not None})
    loaded = load_backend(settings.model if model is None else model, settings, backend)
    embeddings = EmbeddingCache(settings.cache_dir / "embeddings", settings.cache_bytes) if cache else None
    return Segmenter(loaded, embeddings)
