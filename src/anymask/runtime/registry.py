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
from anymask.runtime import catalogue
from anymask.runtime.backend import Backend
from anymask.runtime.choice import open_folder
from anymask.runtime.manifest import MANIFEST
from anymask.runtime.prepared import prepare
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

    Raises `NotFoundError` naming the known models or how to get this one, and `ModelFormatError` for a path that
    holds no model.
    """
    text = os.fspath(name_or_path)
    known = known_models(settings)
    if isinstance(name_or_path, str):
        published = catalogue.find(text)
        for name in (text, published.name if published else text):
            for entry in known:
                if entry.name == name:
                    return entry
        if published is not None:
            raise NotFoundError(
                f"the model {text!r} is not here; get it with: anymask models pull {published.name}"
            )
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
    if is_folder and (path / "config.json").is_file():
        return ModelEntry(path.name, path, "torch", "path")
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

    With the backend ``auto``, a folder of graphs runs on the engine that `anymask.runtime.choice` finds; a checkpoint
    on the CPU from graphs that `anymask.runtime.prepared` makes of it once, or in torch; on a GPU in torch. ``engine``
    forces one, as the setting does.
    """
    settings = settings or load_settings()
    entry = resolve(name_or_path, settings)
    wanted = engine or settings.backend
    if entry.engine == "torch":
        return _load_checkpoint(entry, settings, wanted)
    if wanted == "torch":
        raise ModelError(
            f"the model {entry.name!r} is kept as graphs and cannot run on 'torch'; "
            "leave the backend out or ask for 'onnx' or 'openvino'"
        )
    _refuse_device(settings, wanted)
    return open_folder(entry.location, settings, wanted)


def _refuse_device(settings: Settings, wanted: str) -> None:
    if settings.device != "cpu":
        name = "onnx" if wanted == "auto" else wanted
        raise ModelError(f"the {name} backend runs on the cpu, got device {settings.device!r}")


def _load_checkpoint(entry: ModelEntry, settings: Settings, wanted: str) -> Backend:
    path = Path(str(entry.location))
    if wanted == "auto" and settings.device == "cpu":
        graphs = prepare(path, settings)
        if graphs is not None:
            return open_folder(graphs, settings)
    elif wanted in ("onnx", "openvino"):
        _refuse_device(settings, wanted)
        graphs = prepare(path, settings, wanted)
        if graphs is None:
            raise ModelError(
                f"the model {entry.name!r} is a checkpoint without graphs and cannot run on {wanted!r}; "
                "export it with: anymask export, or leave the backend out"
            )
        return open_folder(graphs, settings, wanted)
    return _load_torch(entry, settings)


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
    return load_torch(str(entry.location), settings.device, settings.precision)


def _is_written_as_path(text: str) -> bool:
    separators = {os.sep, "/", os.altsep or "/"}
    return (
        text.startswith((".", "~")) or text.endswith(WEIGHTS_SUFFIXES) or any(s in text for s in separators)
    )
