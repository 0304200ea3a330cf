"""The manifest beside an ONNX model, read with distrust, and the files it vouches for.

``manifest.json`` states the format, the size and SHA-256 of ``encoder.onnx`` and ``decoder.onnx``, the frame the
network wants, and for people how it was trained and exported (see `anymask.model.export`). Its own ``sha256``
is the SHA-256 of the rest as JSON with sorted keys and no spaces, and must hold.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from typing import Any, Final, Literal

from anymask.errors import ModelFormatError, NotFoundError, WeightsError
from anymask.limits import MAX_GRAPH_BYTES, MAX_MANIFEST_BYTES, MAX_NETWORK_SIDE
from anymask.runtime.backend import ModelSpec

FORMAT: Final = "anymask-onnx-1"
MANIFEST: Final = "manifest.json"
GRAPHS: Final = ("encoder.onnx", "decoder.onnx")
_FRAME: Final = ("long_side", "pad", "pixel_mean", "pixel_std", "low_res_stride", "mask_threshold")
_KEYS: Final = {"format", "name", "files", "features", *_FRAME, "config", "parity", "training", "sha256"}


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: what the layers above must know, the features' order, the files' facts."""

    spec: ModelSpec
    features: tuple[str, ...]
    files: Mapping[str, tuple[int, str]]
    """Name -> (bytes, SHA-256 in hexadecimal)."""
    facts: Mapping[str, Any]
    """The whole manifest, for people: training, parity, configuration."""


def read_manifest(folder: Traversable) -> Manifest:
    """The manifest of a model's folder; raises `NotFoundError` or `ModelFormatError`."""
    raw = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"the manifest of {str(folder)!r} is not JSON: {error}") from error
    try:
        return _parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelFormatError(f"the manifest of {str(folder)!r} is malformed: {reason}") from error


def read_graph(folder: Traversable, name: str, manifest: Manifest) -> bytes:
    """The bytes of one graph, if they are the ones the manifest vouches for; raises `WeightsError`."""
    size, sha256 = manifest.files[name]
    data = _read(folder / name, size)
    if len(data) != size:
        raise WeightsError(
            f"{name} of {str(folder)!r} has not {size} bytes as its manifest says; fetch it again"
        )
    seen = hashlib.sha256(data).hexdigest()
    if seen != sha256:
        raise WeightsError(
            f"{name} of {str(folder)!r} has SHA-256 {seen}, its manifest says {sha256}; fetch it again"
        )
    return data


def _read(file: Traversable, limit: int) -> bytes:
    """At most ``limit + 1`` bytes: enough to know that a file is too long."""
    try:
        if not file.is_file():
            raise NotFoundError(
                f"there is no file {str(file)!r}; a model's folder holds {MANIFEST} and {GRAPHS}"
            )
        with file.open("rb") as stream:
            data: bytes = stream.read(limit + 1)
            return data
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"could not read {str(file)!r}: {error}") from error


def _parse(data: Any) -> Manifest:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    if unknown := sorted(set(data) - _KEYS):
        raise ValueError(f"it has unknown keys {unknown!r:.200}")
    _check_seal(data)
    name = data["name"]
    if not isinstance(name, str) or not 0 < len(name) <= 80:
        raise ValueError("its name must be 1 to 80 characters")
    files = {graph: _file(data["files"][graph]) for graph in GRAPHS}
    if set(data["files"]) != set(GRAPHS):
        raise ValueError(f"its files must be {GRAPHS}")
    features = tuple(data["features"])
    if "embedding" not in features or len(set(features)) != len(features) or not all(map(_is_text, features)):
        raise ValueError("its features must be different names, one of them 'embedding'")
    spec = ModelSpec(
        name=name,
        digest="",
        long_side=_whole(data["long_side"], MAX_NETWORK_SIDE),
        pad=_pad(data["pad"]),
        pixel_mean=_three(data["pixel_mean"]),
        pixel_std=_three(data["pixel_std"], positive=True),
        low_res_stride=_whole(data["low_res_stride"], 64),
        mask_threshold=_number(data["mask_threshold"]),
    )
    told = json.dumps([files, features, {key: data[key] for key in _FRAME}], sort_keys=True)
    digest = hashlib.sha256(told.encode()).hexdigest()
    return Manifest(replace(spec, digest=digest), features, files, data)


def _check_seal(data: dict[str, Any]) -> None:
    rest = {key: value for key, value in data.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != data["sha256"]:
        raise ValueError("its own SHA-256 does not hold, so it was changed or damaged")


def _file(facts: Any) -> tuple[int, str]:
    size, sha256 = _whole(facts["bytes"], MAX_GRAPH_BYTES), facts["sha256"]
    if not _is_text(sha256) or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError("a file's sha256 must be 64 hexadecimal digits in lower case")
    return size, sha256


def _pad(value: Any) -> Literal["square"] | int:
    return "square" if value == "square" else _whole(value, MAX_NETWORK_SIDE)


def _whole(value: Any, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"expected a whole number from 1 to {largest}, got {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r:.40}")
    return float(value)


def _three(values: Any, positive: bool = False) -> tuple[float, float, float]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"expected three numbers, got {values!r:.80}")
    first, second, third = (_number(value) for value in values)
    if positive and not min(first, second, third) > 0:
        raise ValueError(f"expected three numbers above 0, got {values!r:.80}")
    return first, second, third


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 80


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
