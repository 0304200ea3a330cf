"""Export to ONNX behind a parity gate: no file is written when onnxruntime and torch disagree.

Two graphs: ``encoder.onnx`` (pixels -> named features) and ``decoder.onnx`` (features and prompts -> logits and
scores), both with free image sides, the decoder also with free numbers of prompts and points. A manifest beside
them states sizes, digests, the frame and the measured parity.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymask.atomic import write_atomically
from anymask.errors import MissingExtraError
from anymask.model.folders import write_manifest
from anymask.model.nano.network import FRAME_MULTIPLE, PIXEL_MEAN, PIXEL_STD, Nano

from .half_storage import store_half
from .parity import (
    HALF_WEIGHTS,
    PROMPTS,
    Parity,
    compare_engines,
    open_session,
    random_prompts,
    refuse_broken,
)

OPSET = 17
FEATURES = ("embedding", "skip8", "skip4")
MANIFEST_FORMAT = "anymask-onnx-1"

__all__ = ["FEATURES", "MANIFEST_FORMAT", "OPSET", "check_parity", "export_nano"]


class _EncoderGraph(nn.Module):
    def __init__(self, model: Nano) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.model.encode(pixels)
        return tuple(features[name] for name in FEATURES)


class _DecoderGraph(nn.Module):
    def __init__(self, model: Nano) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        embedding: Tensor,
        skip8: Tensor,
        skip4: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        features = {"embedding": embedding, "skip8": skip8, "skip4": skip4}
        return self.model.decode(features, points, labels, mask_input, has_mask)


def export_nano(
    model: Nano,
    folder: Path,
    name: str = "nano",
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Parity:
    """Write ``encoder.onnx``, ``decoder.onnx`` and ``manifest.json`` to a folder.

    Args:
        model: trained network; it is put in evaluation mode.
        folder: made when missing; files are replaced one by one, each whole, the manifest last.
        name: the model's name in the registry.
        training: facts for the manifest (recipe, steps, hours).
        half: store the weights in half precision (`half_storage`): half the file, held to `HALF_WEIGHTS`.

    Raises:
        ParityError: onnxruntime and torch disagree on the prompt suite; nothing was written.
        MissingExtraError: the onnx package is not installed.
    """
    model = model.eval().float().cpu()
    with tempfile.TemporaryDirectory() as temporary:
        encoder, decoder = Path(temporary, "encoder.onnx"), Path(temporary, "decoder.onnx")
        with (
            warnings.catch_warnings()
        ):  # the exporter's remarks about itself; the parity gate judges its work
            warnings.simplefilter("ignore")
            _write_graphs(model, encoder, decoder)
        files = {"encoder.onnx": encoder.read_bytes(), "decoder.onnx": decoder.read_bytes()}
    parity = check_parity(model, files["encoder.onnx"], files["decoder.onnx"])
    refuse_broken(parity, name)
    storage: dict[str, Any] = {}
    if half:
        files = {file_name: store_half(data) for file_name, data in files.items()}
        rounded = check_parity(model, files["encoder.onnx"], files["decoder.onnx"])
        refuse_broken(rounded, f"{name} in half precision", HALF_WEIGHTS)
        storage = {"storage": {"weights": "float16", "parity": asdict(rounded)}}
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, data in files.items():
        write_atomically(folder / file_name, data)
    manifest = {
        "format": MANIFEST_FORMAT,
        "name": name,
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
        "features": list(FEATURES),
        "long_side": model.config.long_side,
        "pad": FRAME_MULTIPLE,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "low_res_stride": 4,
        "mask_threshold": 0.0,
        "config": asdict(model.config),
        "parity": asdict(parity),
        **storage,
        "training": dict(training or {}),
    }
    write_manifest(folder, manifest)
    return parity


def check_parity(
    model: Nano,
    encoder: bytes,
    decoder: bytes,
    sizes: Sequence[tuple[int, int]] = ((256, 256), (128, 320), (352, 96), (32, 32)),
) -> Parity:
    """Compare torch and onnxruntime over several image shapes and the whole prompt suite."""
    return compare_engines(
        model.encode,
        model.decode,
        open_session(encoder),
        open_session(decoder),
        [torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(h)) for h, w in sizes],
    )


def _write_graphs(model: Nano, encoder: Path, decoder: Path) -> None:
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise MissingExtraError("Export needs the onnx package: pip install 'anymask[torch]'.") from None
    pixels = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        features = model.encode(pixels)
    sides = {2: "h", 3: "w"}
    torch.onnx.export(
        _EncoderGraph(model).eval(),
        (pixels,),
        str(encoder),
        input_names=["pixels"],
        output_names=list(FEATURES),
        dynamic_axes={"pixels": {2: "height", 3: "width"}, **dict.fromkeys(FEATURES, sides)},
        opset_version=OPSET,
        dynamo=False,
    )
    prompts = random_prompts(192, 256, prompts=3, points=2, seed=0)
    torch.onnx.export(
        _DecoderGraph(model).eval(),
        (*(features[n] for n in FEATURES), *prompts),
        str(decoder),
        input_names=[*FEATURES, *PROMPTS],
        output_names=["low_res_logits", "predicted_iou"],
        dynamic_axes={
            **{n: {2: f"{n}_h", 3: f"{n}_w"} for n in FEATURES},
            "points": {0: "prompts", 1: "slots"},
            "labels": {0: "prompts", 1: "slots"},
            "mask_input": {0: "prompts", 2: "skip4_h", 3: "skip4_w"},
            "has_mask": {0: "prompts"},
            "low_res_logits": {0: "prompts", 2: "skip4_h", 3: "skip4_w"},
            "predicted_iou": {0: "prompts"},
        },
        opset_version=OPSET,
        dynamo=False,
    )
