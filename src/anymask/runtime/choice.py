"""Which engine runs a folder of graphs: the fastest that is installed and agrees, found out once.

onnxruntime is always there and is what the others must agree with. A small model stays with it: opening a second engine
costs more than it can win, and a model such as nano then behaves the same whatever is installed. For a larger one each
engine runs the trial of `anymask.runtime.agreement`; the result is kept below the cache folder under the model's
digest, the engines' versions, the processor and the threads, and measured again when any of them changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from anymask.atomic import write_atomically
from anymask.errors import AnymaskError, ModelError, OutputError
from anymask.runtime.agreement import Agreement, agreement, ask
from anymask.runtime.backend import Backend
from anymask.runtime.machine import engine_versions, installed, int8_weight_bits, processor
from anymask.runtime.manifest import OPENVINO_FORMAT, Manifest, read_manifest
from anymask.settings import Settings

WORTH_BYTES: Final = 16 * 1024**2
"""Models of fewer bytes run on onnxruntime without a trial."""
_DECODES_PER_IMAGE: Final = 4
_log: Final = logging.getLogger("anymask")


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, by the name of its backend, and why."""

    engine: str
    seconds: dict[str, float]
    """Of one image and some prompts on it, by engine."""
    refused: dict[str, str]
    """Why an engine was not taken, where it was not for its speed."""


def open_folder(folder: Traversable, settings: Settings, engine: str = "auto") -> Backend:
    """The model in a folder on the engine asked for, or on the one chosen for this machine.

    Raises `ModelError` when the precision asked for cannot be had.
    """
    manifest = read_manifest(folder)
    if manifest.precision == "int8" and manifest.weight_bits > int8_weight_bits():
        _log.warning(
            "anymask: %s was made int8 for another processor; sums overflow on this one and masks are less exact; "
            "export it here",
            manifest.spec.name,
        )
    if engine == "auto":
        engine = _only_one(manifest, settings) or choose(folder, manifest, settings).engine
    return _opener(folder, settings)[engine]()


def choose(folder: Traversable, manifest: Manifest, settings: Settings) -> Choice:
    """The choice for this model on this machine; measured when it is not known."""
    path = _place(manifest, settings)
    known = _read(path)
    if known is not None:
        return known
    _log.warning("anymask: measuring which engine runs %s fastest on this machine, once", manifest.spec.name)
    choice = measure(_opener(folder, settings))
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(choice), indent=1).encode())
    return choice


def measure(openers: dict[str, Callable[[], Backend]]) -> Choice:
    """Run the trial on each engine, the first of which is the reference."""
    (first, opener), *others = openers.items()
    reference = ask(opener())
    seconds = {first: reference.encode_s + _DECODES_PER_IMAGE * reference.decode_s}
    refused: dict[str, str] = {}
    for name, opener in others:
        try:
            answers = ask(opener())
        except AnymaskError as error:
            refused[name] = str(error)
            continue
        seen: Agreement = agreement(reference, answers)
        if faults := seen.faults():
            refused[name] = "; ".join(faults)
        else:
            seconds[name] = answers.encode_s + _DECODES_PER_IMAGE * answers.decode_s
    return Choice(min(seconds, key=lambda name: seconds[name]), seconds, refused)


def _only_one(manifest: Manifest, settings: Settings) -> str | None:
    """The one engine that comes into question, or None when there are several."""
    if manifest.format == OPENVINO_FORMAT:
        return "openvino"
    wanted = settings.precision
    if wanted == "bf16":
        return "openvino"
    small = sum(size for size, _ in manifest.files.values()) < WORTH_BYTES
    if "int8" in (wanted, manifest.precision) or small or not installed("openvino"):
        return "onnx"
    return None


def _opener(folder: Traversable, settings: Settings) -> dict[str, Callable[[], Backend]]:
    def onnx() -> Backend:
        from anymask.runtime.onnx_backend import OnnxBackend

        backend = OnnxBackend(folder, settings.threads)
        made_for = backend.manifest.precision
        if settings.precision not in ("fp32", made_for):
            raise ModelError(
                f"onnxruntime runs {backend.spec.name!r} in {made_for}, as it was exported, and not in "
                f"{settings.precision}; export it so, or install openvino for bf16"
            )
        return backend

    def openvino() -> Backend:
        from anymask.runtime.openvino_backend import OpenVinoBackend

        precision = None if settings.precision == "fp32" else settings.precision
        return OpenVinoBackend(folder, settings.threads, precision, settings.cache_dir)

    return {"onnx": onnx, "openvino": openvino}


def _place(manifest: Manifest, settings: Settings) -> Path:
    files = sorted(manifest.files.items())
    told = [manifest.spec.digest, files, engine_versions(), processor(), settings.threads, settings.precision]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:40]
    return settings.cache_dir / "engines" / f"{key}.json"


def _read(path: Path) -> Choice | None:
    """A kept choice; None when there is none, or it is damaged or names what is not an engine here."""
    try:
        data: Any = json.loads(path.read_bytes())
        choice = Choice(
            str(data["engine"]),
            {str(name): float(value) for name, value in data["seconds"].items()},
            {str(name): str(reason) for name, reason in data["refused"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = choice.engine in ("onnx", "openvino") and all(map(math.isfinite, choice.seconds.values()))
    return choice if sound and installed(choice.engine) else None
