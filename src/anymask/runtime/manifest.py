"""The manifest beside an exported model, read with distrust, and the files it vouches for.

``manifest.json`` states the format, the size and SHA-256 of each file, the frame the network wants, and for people how
it was trained and exported (`anymask.model.export.nano`). Its own ``sha256`` is the SHA-256 of the rest as JSON with
sorted keys and no spaces, and must hold. There are two formats:

    anymask-onnx-1      encoder.onnx, decoder.onnx, and where weights are too many for a graph encoder.weights,
                        decoder.weights
    anymask-openvino-1  encoder.xml, encoder.bin, decoder.xml, decoder.bin

A decoder may be cut in two: then image.onnx (image.xml, image.bin) makes of the features, once per image, the tensors
that ``parts`` names, and the decoder takes those in place of the features. A decoder that ``screens`` takes a predicted
IoU too, ``least_iou``, gives masks of the prompts that promise more, says which in ``drawn``, and draws only so many
rows and columns of the embedding's cells as ``visible`` says.

``network_sha256``, where it is stated, names the weights and sizes that were exported: engines that run the same
network in full precision share one digest, and so embeddings. ``precision`` other than "fp32" is a digest of its own.
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
from anymask.limits import (
    MAX_GRAPH_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_NETWORK_SIDE,
    MAX_OUTSIDE_WEIGHTS_BYTES,
)
from anymask.runtime.backend import ModelSpec
from anymask.runtime.file_bytes import FileBytes

FORMAT: Final = "anymask-onnx-1"
OPENVINO_FORMAT: Final = "anymask-openvino-1"
MANIFEST: Final = "manifest.json"
GRAPHS: Final = ("encoder.onnx", "decoder.onnx")
WEIGHTS: Final = ("encoder.weights", "decoder.weights")
OPENVINO_GRAPHS: Final = ("encoder.xml", "decoder.xml")
OPENVINO_WEIGHTS: Final = ("encoder.bin", "decoder.bin")
IMAGE_GRAPH: Final = "image.onnx"
OPENVINO_IMAGE: Final = ("image.xml", "image.bin")
_MAX_PARTS: Final = 64
PRECISIONS: Final = ("fp32", "bf16", "int8")
_FRAME: Final = ("long_side", "pad", "pixel_mean", "pixel_std", "low_res_stride", "mask_threshold")
_KEYS: Final = {"format", "name", "files", "features", *_FRAME, "config", "parity", "training", "sha256"}
_OPTIONAL: Final = {
    "resize",
    "normalisation",
    "ranking",
    "precision",
    "network_sha256",
    "mask_prompts",
    "parts",
    "screens",
    "weight_bits",
    "storage",
}
# What each format's folder must hold, and what it may hold.
_FILES: Final = {
    FORMAT: (GRAPHS, (*WEIGHTS, IMAGE_GRAPH)),
    OPENVINO_FORMAT: ((*OPENVINO_GRAPHS, *OPENVINO_WEIGHTS), OPENVINO_IMAGE),
}


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: what the layers above must know, the features' order, the files' facts."""

    spec: ModelSpec
    features: tuple[str, ...]
    files: Mapping[str, tuple[int, str]]
    """Name -> (bytes, SHA-256 in hexadecimal)."""
    facts: Mapping[str, Any]
    """The whole manifest, for people: training, parity, configuration."""
    format: str = FORMAT
    precision: str = "fp32"
    """What the files were made for; one of `PRECISIONS`."""
    network_sha256: str | None = None
    takes_masks: bool = True
    """Whether the decoder has inputs for mask prompts."""
    parts: tuple[str, ...] = ()
    """What the image's graph gives and the decoder takes in place of features; empty when there is no such graph."""
    screens: bool = False
    """Whether the decoder can leave out masks that promise too little, and padding."""
    weight_bits: int = 8
    """How many bits the weights of ``int8`` use; with 7 every processor's sums are exact."""


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


def read_outside_weights(folder: Traversable, name: str, manifest: Manifest) -> FileBytes:
    """The bytes of a file of weights, if they are the ones the manifest vouches for; raises `WeightsError`."""
    size, sha256 = manifest.files[name]
    try:
        data = FileBytes.of(folder / name, size)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {str(folder / name)!r}; fetch the model again") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"could not read {str(folder / name)!r}: {error}") from error
    if data is None or hashlib.sha256(data.array.data).hexdigest() != sha256:
        raise WeightsError(
            f"{name} of {str(folder)!r} has not the {size} bytes of SHA-256 {sha256} that its manifest says; "
            "fetch it again"
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
    if not isinstance(data, dict) or not _is_text(data.get("format")) or data["format"] not in _FILES:
        raise ValueError(f"its format is none of {', '.join(_FILES)}")
    if unknown := sorted(set(data) - _KEYS - _OPTIONAL):
        raise ValueError(f"it has unknown keys {unknown!r:.200}")
    _check_seal(data)
    name = data["name"]
    if not isinstance(name, str) or not 0 < len(name) <= 80:
        raise ValueError("its name must be 1 to 80 characters")
    files = _files(data["files"], data["format"])
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
        resize=_one_of(data, "resize", ("longest_side", "stretch")),  # type: ignore[arg-type]
        normalisation=_one_of(data, "normalisation", ("mean_std", "min_max")),  # type: ignore[arg-type]
        ranking=_one_of(data, "ranking", ("predicted_iou", "stability")),  # type: ignore[arg-type]
    )
    precision = _one_of(data, "precision", PRECISIONS)
    weight_bits = _whole(data.get("weight_bits", 8), 8)
    network = None if data.get("network_sha256") is None else _sha256(data["network_sha256"])
    computed = precision if weight_bits == 8 else f"{precision}, weights of {weight_bits} bits"
    spec = replace(spec, digest=_digest(data, files, features, computed, network))
    takes_masks, screens = _is_true(data, "mask_prompts", True), _is_true(data, "screens", False)
    parts = _parts(data, files)
    return Manifest(
        spec,
        features,
        files,
        data,
        data["format"],
        precision,
        network,
        takes_masks,
        parts,
        screens,
        weight_bits,
    )


def _digest(
    data: Mapping[str, Any],
    files: Mapping[str, tuple[int, str]],
    features: tuple[str, ...],
    precision: str,
    network: str | None,
) -> str:
    if network is None:
        told = json.dumps([files, features, {key: data[key] for key in _FRAME}], sort_keys=True)
        network = hashlib.sha256(told.encode()).hexdigest()
    return digest_at(network, precision)


def digest_at(digest: str, precision: str) -> str:
    """The digest of a model that is run in ``precision``, from its digest in float32."""
    return digest if precision == "fp32" else hashlib.sha256(f"{digest} {precision}".encode()).hexdigest()


def _files(data: Any, kind: str) -> dict[str, tuple[int, str]]:
    needed, allowed = _FILES[kind]
    files = {name: _file(name, data[name]) for name in needed}
    files |= {name: _file(name, data[name]) for name in allowed if name in data}
    if set(data) != set(files):
        raise ValueError(f"its files must be {needed}" + (f" and may be {allowed}" if allowed else ""))
    return files


def _parts(data: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> tuple[str, ...]:
    parts = tuple(data.get("parts", ()))
    if len(set(parts)) != len(parts) or len(parts) > _MAX_PARTS or not all(map(_is_text, parts)):
        raise ValueError(f"its parts must be at most {_MAX_PARTS} different names")
    image = {IMAGE_GRAPH} if data["format"] == FORMAT else set(OPENVINO_IMAGE)
    if (image & set(files)) != (image if parts else set()):
        raise ValueError(f"its parts and {sorted(image)} go together, one is there without the other")
    return parts


def _check_seal(data: dict[str, Any]) -> None:
    rest = {key: value for key, value in data.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != data["sha256"]:
        raise ValueError("its own SHA-256 does not hold, so it was changed or damaged")


def _file(name: str, facts: Any) -> tuple[int, str]:
    largest = MAX_OUTSIDE_WEIGHTS_BYTES if name in (*WEIGHTS, *OPENVINO_WEIGHTS) else MAX_GRAPH_BYTES
    return _whole(facts["bytes"], largest), _sha256(facts["sha256"])


def _sha256(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("a sha256 must be 64 hexadecimal digits in lower case")
    return text


def _is_true(data: Mapping[str, Any], key: str, otherwise: bool) -> bool:
    value = data.get(key, otherwise)
    if not isinstance(value, bool):
        raise ValueError(f"its {key} must be true or false, got {value!r:.40}")
    return value


def _one_of(data: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    """The value of an optional key; the first choice when it is not there."""
    value = data.get(key, choices[0])
    if value not in choices:
        raise ValueError(f"its {key} must be one of {choices}, got {value!r:.40}")
    return str(value)


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
