"""Compiled graphs of OpenVINO in the cache folder: made once per model, precision, version and processor.

A file is its SHA-256 and then what OpenVINO exported. One that is damaged, or that OpenVINO does not take, counts as
missing and is made again; a folder that cannot be written costs nothing but the compilation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from anymask.atomic import write_atomically
from anymask.errors import OutputError
from anymask.runtime.machine import engine_versions, processor

_MAGIC: Final = b"anymask-openvino-blob-1\n"
MAX_GRAPH_BYTES: Final = 64 * 1024**2
"""Larger graphs are compiled each time: reading one back takes as long, twice the memory, and the model's size on disk.
Measured on the encoder of ViT-B: 2.7 processor seconds instead of 3.4, 1.9 GB instead of 1.6."""


class CompiledCache:
    """The compiled graphs of one model under one configuration."""

    def __init__(self, cache_dir: Path, digest: str, config: Mapping[str, str]) -> None:
        self._folder = cache_dir / "openvino"
        told = json.dumps([digest, dict(config), engine_versions()["openvino"], processor()], sort_keys=True)
        self._key = hashlib.sha256(told.encode()).hexdigest()[:40]
        self._config = dict(config)

    def get(self, core: Any, name: str) -> Any:
        """The compiled graph called ``name``, or None."""
        try:
            data = self._path(name).read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + 32
        if (
            data[: len(_MAGIC)] != _MAGIC
            or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]
        ):
            return None
        try:
            return core.import_model(data[start:], "CPU", self._config)
        except Exception:  # of another build, whatever its version says
            return None

    def put(self, compiled: Any, name: str) -> None:
        """Keep a compiled graph, if it can be kept."""
        try:
            blob = compiled.export_model().getvalue()
        except Exception:  # some plugins cannot
            return
        with suppress(OSError, OutputError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(name), _MAGIC + hashlib.sha256(blob).digest() + blob)

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._key}-{name}.blob"
