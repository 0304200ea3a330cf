"""Export to ONNX behind a parity gate: no file is written when onnxruntime and torch disagree.

Two graphs: ``encoder.onnx`` (pixels -> named features) and ``decoder.onnx`` (features and prompts -> logits and
scores), both with free image sides, the decoder also with free numbers of prompts and points. A manifest beside
them states sizes, digests, the frame and the measured parity.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anymask.atomic import write_atomically
from anymask.errors import MissingExtraError, ParityError

from .folders import sealed, write_manifest
from .half_storage import store_half
from .nano import FRAME_MULTIPLE, PIXEL_MEAN, PIXEL_STD, Nano

OPSET = 17
FEATURES = ("embedding", "skip8", "skip4")
PROMPTS = ("points", "labels", "mask_input", "has_mask")
MANIFEST_FORMAT = "anymask-onnx-1"

__all__ = [
    "Parity",
    "check_parity",
    "compare_engines",
    "export_nano",
    "open_session",
    "prompt_suite",
    "random_prompts",
    "refuse_broken",
    "sealed",
]


@dataclass(frozen=True)
class Parity:
    """Differences between two engines on the prompt suite: the largest of each kind, and the smallest mask IoU."""

    features: float
    logits: float
    scores: float
    mask_iou: float

    def broken_bounds(self, bounds: Parity | None = None) -> list[str]:
        """Bounds that do not hold, one clause each; `SAME_WEIGHTS` when none are given."""
        bounds = bounds or SAME_WEIGHTS
        faults = [
            f"{name} differ by {seen:.2e}, the bound is {bound:.0e}"
            for name, seen, bound in (
                ("features", self.features, bounds.features),
                ("logits", self.logits, bounds.logits),
                ("scores", self.scores, bounds.scores),
            )
            if not seen <= bound
        ]
        if not self.mask_iou >= bounds.mask_iou:
            faults.append(f"masks agree at IoU {self.mask_iou:.4f}, the bound is {bounds.mask_iou}")
        return faults


SAME_WEIGHTS = Parity(features=1e-4, logits=1e-3, scores=1e-4, mask_iou=0.999)
"""Bounds where the same numbers are computed by another engine."""

HALF_WEIGHTS = Parity(features=1e-2, logits=1e-1, scores=1e-2, mask_iou=0.9)
"""Bounds for weights rounded to half precision. The IoU is the worst mask's of noise pictures, some of a few pixels;
what rounding does to real masks is measured by evaluation."""


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


def refuse_broken(parity: Parity, name: str, bounds: Parity | None = None) -> None:
    """Raise `ParityError` unless every bound holds; `SAME_WEIGHTS` when none are given."""
    if faults := parity.broken_bounds(bounds):
        raise ParityError(f"The export of {name} was refused: {'; '.join(faults)}.")


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


PromptTuple = tuple[Tensor, Tensor, Tensor, Tensor]


def random_prompts(height: int, width: int, prompts: int, points: int, seed: int) -> PromptTuple:
    """Foreground and background clicks without boxes or masks, for a frame of height x width."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    coords = torch.rand(prompts, points, 2, generator=generator) * size
    labels = torch.randint(0, 2, (prompts, points), generator=generator).float()
    labels[:, 0] = 1.0
    return coords, labels, torch.zeros(prompts, 1, height // 4, width // 4), torch.zeros(prompts)


def prompt_suite(height: int, width: int) -> list[PromptTuple]:
    """Every kind of prompt the decoder meets, box-only and padded ones included."""
    point = random_prompts(height, width, 1, 1, 1)
    many = random_prompts(height, width, 5, 4, 2)
    padded = random_prompts(height, width, 3, 3, 3)
    padded[1][1, 1:] = -1.0
    padded[0][1, 1:] = 0.0
    corners = torch.tensor([[[0.2, 0.1], [0.7, 0.6]], [[0.0, 0.0], [1.0, 1.0]]]) * torch.tensor(
        [width, height]
    )
    box = (
        corners,
        torch.tensor([[2.0, 3.0]] * 2),
        torch.zeros(2, 1, height // 4, width // 4),
        torch.zeros(2),
    )
    mixed_coords = torch.cat([corners, many[0][:2, :2]], dim=1)
    mixed_labels = torch.cat([box[1], torch.tensor([[1.0, 0.0], [1.0, -1.0]])], dim=1)
    noise = torch.randn(2, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(4)) * 5.0
    with_mask = (mixed_coords, mixed_labels, noise, torch.tensor([1.0, 0.0]))
    mask_only = (torch.zeros(1, 1, 2), -torch.ones(1, 1), noise[:1], torch.ones(1))
    return [point, many, padded, box, (mixed_coords, mixed_labels, box[2], box[3]), with_mask, mask_only]


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


Run = Callable[[Mapping[str, Any]], dict[str, Any]]


def compare_engines(
    encode: Callable[[Tensor], dict[str, Tensor]],
    decode: Callable[..., tuple[Tensor, Tensor]],
    run_encoder: Run,
    run_decoder: Run,
    pictures: Sequence[Tensor],
    takes_masks: bool = True,
) -> Parity:
    """The largest differences between torch and another engine.

    Args:
        encode: pixels -> named features, in torch.
        decode: features and a `PromptTuple` -> logits and scores, in torch.
        run_encoder, run_decoder: inputs by name -> outputs by name; the decoder is given the encoder's own features.
        pictures: 1 x 3 x H x W each.
        takes_masks: whether the decoder has inputs for mask prompts; else prompts with masks are left out.
    """
    worst = {"features": 0.0, "logits": 0.0, "scores": 0.0}
    overlap = 1.0
    for pixels in pictures:
        with torch.no_grad():
            features = encode(pixels)
        seen = run_encoder({"pixels": pixels.numpy()})
        for key in features:
            scale = max(1.0, float(features[key].abs().max()))
            worst["features"] = max(worst["features"], _difference(seen[key], features[key]) / scale)
        names = PROMPTS if takes_masks else PROMPTS[:2]
        for prompts in prompt_suite(pixels.shape[2], pixels.shape[3]):
            if not takes_masks and prompts[3].any():
                continue
            with torch.no_grad():
                logits, scores = decode(features, *prompts)
            answer = run_decoder({**seen, **{n: p.numpy() for n, p in zip(names, prompts, strict=False)}})
            seen_logits, seen_scores = answer["low_res_logits"], answer["predicted_iou"]
            worst["logits"] = max(worst["logits"], _difference(seen_logits, logits))
            worst["scores"] = max(worst["scores"], _difference(seen_scores, scores))
            if seen_logits.shape == tuple(logits.shape):
                overlap = min(overlap, _smallest_iou(seen_logits > 0, logits.numpy() > 0))
    return Parity(worst["features"], worst["logits"], worst["scores"], overlap)


def open_session(model: bytes | Path) -> Run:
    """An onnxruntime session of bytes, or of a file that we have just written, with its weights beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has a class per status, all outside its public names
        raise _cannot_run(error) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        except Exception as error:
            raise _cannot_run(error) from error

    return run


def _cannot_run(error: Exception) -> ParityError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ParityError(f"the export was refused: onnxruntime cannot run the graphs: {reason:.300}")


def _difference(seen: np.ndarray[Any, Any], expected: Tensor) -> float:
    if seen.shape != tuple(expected.shape) or not np.isfinite(seen).all():
        return float("inf")
    return float(np.abs(seen - expected.numpy()).max())


def _smallest_iou(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    either = (first | second).sum((-2, -1))
    both = (first & second).sum((-2, -1))
    ious = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    return float(ious.min())
