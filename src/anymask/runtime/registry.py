"""Names and paths of models -> a loaded backend.

A model is known by name when it is embedded in the package (``assets/<name>/``) or installed below the cache
folder (``models/<name>/`` with a manifest, or ``models/<name>.safetensors``). Anything that is written like a
path is a path: it has a separator or one of the suffixes below, or starts with a dot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, Literal

from anymask.errors import MissingExtraError, ModelError, ModelFormatError, NotFoundError
from anymask.runtime.backend import Backend
from anymask.runtime.manifest import MANIFEST
from anymask.settings import Settings, load_settings

WEIGHTS_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class ModelEntry:
    """Where a model lives and which engine runs it."""

    name: str
    location: Traversable
    engine: Literal["onnx", "torch"]
    origin: Literal["embedded", "installed", "path"]


def known_models(settings: Settings | None = None) -> tuple[ModelEntry, ...]:
    """Models that can be loaded by name, embedded ones first; an embedded name hides an installed one."""
    settings = settings or load_settings()
    entries: dict[str, ModelEntry] = {}
    assets = files("anymask") / "assets"
    if assets.is_dir():
        for folder in sorted(assets.iterdir(), key=lambda item: item.name):
            if (folder / MANIFEST).is_file():
                entries[folder.name] = ModelEntry(folder.name, folder, "onnx", "embedded")
    installed = settings.cache_dir / "models"
    try:
        found = sorted(installed.iterdir()) if installed.is_dir() else []
    except OSError:
        found = []
    for path in found:
        if (path / MANIFEST).is_file():
            entries.setdefault(path.name, ModelEntry(path.name, path, "onnx", "installed"))
        elif path.suffix == ".safetensors" and path.is_file():
            entries.setdefault(path.stem, ModelEntry(path.stem, path, "torch", "installed"))
    return tuple(entries.values())


def resolve(name_or_path: str | os.PathLike[str], settings: Settings | None = None) -> ModelEntry:
    """The model called so, or kept there.

    Raises `NotFoundError` naming the known models, and `ModelFormatError` for a path that holds no model.
    """
    text = os.fspath(name_or_path)
    known = known_models(settings)
    if isinstance(name_or_path, str):
        for entry in known:
            if entry.name == text:
                return entry
        if not _is_written_as_path(text):
            names = ", ".join(entry.name for entry in known) or "none"
            raise NotFoundError(f"no model is called {text!r:.80}; known models: {names}; or give a path")
    path = Path(text).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise NotFoundError(f"there is no model at {text!r:.200}") from error
    if is_folder and (path / MANIFEST).is_file():
        return ModelEntry(path.name, path, "onnx", "path")
    if is_file and path.name == MANIFEST:
        return ModelEntry(path.parent.name, path.parent, "onnx", "path")
    if is_file and path.suffix in WEIGHTS_SUFFIXES:
        return ModelEntry(path.stem, path, "torch", "path")
    if is_folder or is_file:
        raise ModelFormatError(
            f"{text!r:.200} is no model: give a folder with a {MANIFEST}, or weights {WEIGHTS_SUFFIXES}"
        )
    raise NotFoundError(f"there is no model at {text!r:.200}")


def load_backend(
    name_or_path: str | os.PathLike[str], settings: Settings | None = None, engine: str | None = None
) -> Backend:
    """The model, ready to run as ``settings`` say; raises an `AnymaskError` with one sentence.

    The kind of file decides the engine; ``engine``, or a setting other than the default, must agree with it.
    """
    settings = settings or load_settings()
    entry = resolve(name_or_path, settings)
    wanted = engine or (entry.engine if settings.backend == Settings().backend else settings.backend)
    if wanted != entry.engine:
        raise ModelError(
            f"the model {entry.name!r} is kept for the {entry.engine} backend and cannot run on {wanted!r}; "
            f"leave the backend out or ask for {entry.engine!r}"
        )
    if entry.engine == "torch":
        return _load_torch(entry, settings)
    if settings.device != "cpu":
        raise ModelError(f"the onnx backend runs on the cpu, got device {settings.device!r}")
    from anymask.runtime.onnx_backend import OnnxBackend

    return OnnxBackend(entry.location, settings.threads)


def _load_torch(entry: ModelEntry, settings: Settings) -> Backend:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"the model {entry.name!r} needs torch; install it with: pip install 'anymask[torch]'"
        ) from error
    from anymask.runtime.torch_backend import load_torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    return load_torch(str(entry.location), settings.device)


def _is_written_as_path(text: str) -> bool:
    separators = {os.sep, "/", os.altsep or "/"}
    return (
        text.startswith((".", "~")) or text.endswith(WEIGHTS_SUFFIXES) or any(s in text for s in separators)
    )
