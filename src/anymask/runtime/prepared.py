"""A checkpoint that is used on the CPU is exported once into the cache folder; from then on its graphs run.

They are known by the SHA-256 of the checkpoint's bytes, so a later process neither reads the weights into torch nor
imports torch. The first use pays for it: the export runs the network twice in torch and once in onnxruntime to prove
that they agree. What is refused (no agreement, no room on the disk, no onnx package) is left to torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from anymask.atomic import write_atomically
from anymask.errors import AnymaskError, OutputError, WeightsError
from anymask.runtime.machine import installed, int8_weight_bits
from anymask.runtime.manifest import MANIFEST
from anymask.settings import Settings

FORM: Final = 3
"""Counts changes of the exported graphs: older ones are made anew."""
WORTH_BYTES: Final = 16 * 1024**2
"""Smaller checkpoints run in torch: an export would cost more than it wins."""
_ROOM: Final = 2.5
"""Times the checkpoint's bytes that must be free on the disk."""
_log: Final = logging.getLogger("anymask")


def prepared_folder(checkpoint: Path, settings: Settings) -> Path:
    """Where the graphs of a checkpoint lie or would lie; raises `WeightsError` when it cannot be read."""
    return settings.cache_dir / "exports" / f"{_digest(checkpoint)[:40]}-{FORM}"


def prepare(checkpoint: Path, settings: Settings, engine: str = "auto") -> Path | None:
    """The folder with the graphs of a checkpoint, made now if need be; None when torch must run it.

    An int8 encoder is made from them when ``settings.precision`` asks for one: for OpenVINO where that is installed, or
    for the ``engine`` that was asked for. Then a refusal is raised, since torch has none.
    """
    if not settings.graphs or _bytes(checkpoint) < WORTH_BYTES:
        return None
    folder = prepared_folder(checkpoint, settings)
    if not (folder / MANIFEST).is_file() and not _try(checkpoint, folder):
        return None
    return _quantised(folder, settings, engine) if settings.precision == "int8" else folder


def _try(checkpoint: Path, folder: Path) -> bool:
    """Export unless that was refused before; tell of it in one line on standard error."""
    refusal = folder.with_suffix(".refused.json")
    if refusal.is_file() or not (installed("torch") and _has_onnx()):
        return False
    needed = int(_ROOM * _bytes(checkpoint))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError:
        return False
    if free < needed:
        _log.warning(
            "anymask: %s runs in torch: its graphs need %d MB in %s and %d MB are free",
            checkpoint.name,
            needed // 10**6,
            folder.parent,
            free // 10**6,
        )
        return False
    _log.warning(
        "anymask: preparing graphs of %s in %s, once (ANYMASK_GRAPHS=0 leaves it)", checkpoint.name, folder
    )
    try:
        export_checkpoint(checkpoint, folder)
    except OutputError as error:
        _log.warning("anymask: %s runs in torch: %s", checkpoint.name, error)
        return False
    except AnymaskError as error:
        if isinstance(error, WeightsError):
            raise
        _log.warning("anymask: %s runs in torch: %s", checkpoint.name, error)
        with suppress(OutputError):
            write_atomically(refusal, json.dumps({"reason": str(error)}).encode())
        return False
    return True


def export_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Export a checkpoint's network; two processes that do so at once do not meet: the folder appears whole."""
    from anymask.model.export.network import export_network
    from anymask.runtime.torch_backend import load_any

    network, config = load_any(checkpoint)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as own:
        made = Path(own, "model")
        export_network(network, config, made, training={"checkpoint": checkpoint.name})
        try:
            os.replace(made, folder)
        except OSError as error:
            if not (folder / MANIFEST).is_file():
                raise OutputError(f"could not write to {str(folder)!r}: {error.strerror or error}") from error


def _quantised(folder: Path, settings: Settings, engine: str) -> Path:
    openvino = engine == "openvino" or (engine == "auto" and installed("openvino"))
    target = folder.with_name(f"{folder.name}-int8" + ("-openvino" if openvino else ""))
    if int8_weight_bits() < 8:
        target = target.with_name(f"{target.name}-{int8_weight_bits()}bit")
    if (target / MANIFEST).is_file():
        return target
    _log.warning("anymask: quantising the encoder in %s, once", target)
    if openvino:
        from anymask.runtime.openvino_export import convert_to_openvino

        convert_to_openvino(folder, target, "int8", settings.threads)
    else:
        from anymask.runtime.int8_export import convert_to_int8

        convert_to_int8(folder, target, settings.threads)
    return target


def _has_onnx() -> bool:
    from importlib.util import find_spec

    return find_spec("onnx") is not None


def _parts(checkpoint: Path) -> Iterator[Path]:
    if not checkpoint.is_dir():
        yield checkpoint
        return
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".bin"):
            yield file


def _bytes(checkpoint: Path) -> int:
    try:
        return sum(file.stat().st_size for file in _parts(checkpoint))
    except OSError:
        return 0


def _digest(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    try:
        for file in _parts(checkpoint):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise WeightsError(f"cannot read the weights {str(checkpoint)!r}: {error.strerror}") from error
    return digest.hexdigest()
