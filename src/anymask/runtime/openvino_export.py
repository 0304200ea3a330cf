"""From an exported ONNX folder to one in OpenVINO's own format, gated on agreement."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from anymask.errors import ModelError, ParityError
from anymask.model.folders import file_facts, staged, write_manifest
from anymask.runtime.agreement import Agreement, agreement, ask
from anymask.runtime.manifest import (
    FORMAT,
    GRAPHS,
    IMAGE_GRAPH,
    OPENVINO_FORMAT,
    OPENVINO_GRAPHS,
    OPENVINO_IMAGE,
    read_manifest,
)
from anymask.runtime.onnx_backend import OnnxBackend, verified_graphs, verified_image
from anymask.runtime.openvino_backend import OnnxSource, OpenVinoBackend, open_core


def convert_to_openvino(source: Path, folder: Path, precision: str = "fp32", threads: int = 0) -> Agreement:
    """Write the model in ``source`` to ``folder`` as OpenVINO keeps it; ``precision`` is what it will run in.

    Weights stay in float32 in the files. Raises `ParityError` when OpenVINO in that precision does not agree with
    onnxruntime in float32, and what `OpenVinoBackend` raises; then nothing is written.
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
            openvino.save_model(model, str(stage / target), compress_to_fp16=False)
            del model, kept
        facts = {key: value for key, value in manifest.facts.items() if key != "sha256"} | {
            "format": OPENVINO_FORMAT,
            "files": file_facts(stage),
            "precision": precision,
            "network_sha256": manifest.network_sha256 or manifest.spec.digest,
        }
        write_manifest(stage, facts)
        seen = agreement(ask(OnnxBackend(source, threads)), ask(OpenVinoBackend(stage, threads, precision)))
        if faults := seen.faults(precision):
            raise ParityError(
                f"the export of {manifest.spec.name} as {precision} was refused: {'; '.join(faults)}"
            )
        write_manifest(stage, facts | {"parity": {**facts["parity"], f"openvino_{precision}": asdict(seen)}})
    return seen
