"""From an exported ONNX folder to one in OpenVINO's own format, in any precision, gated on agreement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anymask.errors import ModelError, ParityError
from anymask.frame import Frame
from anymask.model.folders import file_facts, staged, write_manifest
from anymask.runtime.agreement import Agreement, agreement, ask, trial_pixels
from anymask.runtime.backend import FloatArray, ModelSpec
from anymask.runtime.machine import int8_weight_bits
from anymask.runtime.manifest import (
    FORMAT,
    GRAPHS,
    IMAGE_GRAPH,
    OPENVINO_FORMAT,
    OPENVINO_GRAPHS,
    OPENVINO_IMAGE,
    OPENVINO_WEIGHTS,
    read_manifest,
)
from anymask.runtime.onnx_backend import OnnxBackend, verified_graphs, verified_image
from anymask.runtime.openvino_backend import OnnxSource, OpenVinoBackend, open_core
from anymask.runtime.openvino_int8 import quantise_products
from anymask.types import Image


def convert_to_openvino(
    source: Path,
    folder: Path,
    precision: str = "fp32",
    threads: int = 0,
    pictures: Iterable[Image] | None = None,
) -> Agreement:
    """Write the model in ``source`` to ``folder`` as OpenVINO keeps it.

    Args:
        source: an ONNX folder in float32.
        folder: where the files go.
        precision: what it will run in. ``fp32`` and ``bf16`` keep float32 in the files, ``int8`` the encoder's products
            in 8 bits.
        threads: of the runs that compare, and of those that look at pictures; 0 leaves it to the engines.
        pictures: for ``int8``, what the scales of its 8 bits are taken from; the trial picture when not given.

    Raises:
        ParityError: OpenVINO in that precision does not agree with onnxruntime in float32.
        And what `OpenVinoBackend` and `quantise_products` raise; nothing is written then.
    """
    manifest = read_manifest(source)
    if manifest.format != FORMAT or manifest.precision != "fp32":
        raise ModelError(f"{str(source)!r} is no ONNX model in fp32, from which others are made")
    import openvino

    core = open_core()
    with staged(folder) as stage:
        graphs = list(zip(GRAPHS, verified_graphs(source, manifest), OPENVINO_GRAPHS, strict=True))
        if manifest.parts:
            graphs.append((IMAGE_GRAPH, verified_image(source, manifest), OPENVINO_IMAGE[0]))
        for graph, verified, target in graphs:
            model, kept = OnnxSource(verified, graph).read(core)
            if precision == "int8" and graph == GRAPHS[0]:
                quantise_products(core, model, _calibration(manifest.spec, pictures), threads)
            openvino.save_model(model, str(stage / target), compress_to_fp16=False)
            del model, kept
        files = file_facts(stage)
        facts = {key: value for key, value in manifest.facts.items() if key != "sha256"} | {
            "format": OPENVINO_FORMAT,
            "files": files,
            "precision": precision,
            "network_sha256": _network(manifest.network_sha256 or manifest.spec.digest, precision, files),
        }
        if precision == "int8":
            facts["weight_bits"] = int8_weight_bits()
        write_manifest(stage, facts)
        seen = agreement(ask(OnnxBackend(source, threads)), ask(OpenVinoBackend(stage, threads, precision)))
        if faults := seen.faults(precision):
            raise ParityError(
                f"the export of {manifest.spec.name} as {precision} was refused: {'; '.join(faults)}"
            )
        write_manifest(stage, facts | {"parity": {**facts["parity"], f"openvino_{precision}": asdict(seen)}})
    return seen


def _calibration(spec: ModelSpec, pictures: Iterable[Image] | None) -> Iterable[FloatArray]:
    """Pictures as the encoder takes them."""
    if pictures is None:
        yield trial_pixels(spec)
        return
    for picture in pictures:
        frame = Frame(picture.size, spec.long_side, spec.pad, spec.resize, spec.normalisation)
        yield frame.to_network(picture.pixels, spec.pixel_mean, spec.pixel_std)


def _network(digest: str, precision: str, files: dict[str, dict[str, Any]]) -> str:
    """The digest of the network in float32; in int8 of what was made of it, which depends on the pictures looked at."""
    if precision != "int8":
        return digest
    made = files[OPENVINO_WEIGHTS[0]]["sha256"]
    return hashlib.sha256(f"{digest} {made}".encode()).hexdigest()
