"""From an exported ONNX folder to one whose encoder computes in int8, gated on agreement of the masks."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from anymask.errors import ModelError, ParityError
from anymask.model.export.int8 import quantise_encoder
from anymask.model.folders import file_facts, staged, write_manifest
from anymask.runtime.agreement import Agreement, agreement, ask
from anymask.runtime.machine import int8_weight_bits
from anymask.runtime.manifest import FORMAT, GRAPHS, IMAGE_GRAPH, WEIGHTS, read_manifest
from anymask.runtime.onnx_backend import OnnxBackend


def convert_to_int8(source: Path, folder: Path, threads: int = 0) -> Agreement:
    """Write the model in ``source`` to ``folder`` with its encoder quantised.

    Raises `ParityError` when too few masks agree with those of ``source`` (see `anymask.runtime.agreement`); nothing is
    written then.
    """
    manifest = read_manifest(source)
    if manifest.format != FORMAT or manifest.precision != "fp32":
        raise ModelError(f"{str(source)!r} is no ONNX model in fp32, from which others are made")
    reference = ask(OnnxBackend(source, threads))  # which also verifies the files
    encoder, decoder = GRAPHS
    with staged(folder) as stage:
        quantise_encoder(source / encoder, stage / encoder, int8_weight_bits())
        for name in (decoder, WEIGHTS[1], IMAGE_GRAPH):
            if name in manifest.files:
                shutil.copyfile(source / name, stage / name)
        facts = {key: value for key, value in manifest.facts.items() if key != "sha256"} | {
            "files": file_facts(stage),
            "precision": "int8",
            "weight_bits": int8_weight_bits(),
            "network_sha256": manifest.network_sha256 or manifest.spec.digest,
        }
        write_manifest(stage, facts)
        seen = agreement(reference, ask(OnnxBackend(stage, threads)))
        if faults := seen.faults("int8"):
            raise ParityError(f"the export of {manifest.spec.name} as int8 was refused: {'; '.join(faults)}")
        write_manifest(stage, facts | {"parity": {**facts["parity"], "int8": asdict(seen)}})
    return seen
