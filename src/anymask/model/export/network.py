"""Export of any `PromptableNetwork` to ONNX, behind the same parity gate as nano's (see `anymask.model.export.nano`).

``encoder.onnx`` takes pixels of the square frame, any number of images; ``decoder.onnx`` features of one image, any
number of prompts and slots. Weights over `graph_writer.INSIDE_BYTES` lie beside their graph in ``encoder.weights``:
a standard of ONNX ("external data"), which any tool that opens the graph by its path follows by itself.

The graphs are written into a hidden folder beside the target, compared with the network as published, and only then
moved; at no time is more than one copy of the weights and one engine's in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from anymask.errors import PromptError
from anymask.model.export.graph_writer import INSIDE_BYTES, Ports, write_graph
from anymask.model.export.nano import MANIFEST_FORMAT, export_nano
from anymask.model.export.parity import (
    PROMPTS,
    Parity,
    Run,
    compare_engines,
    open_session,
    random_prompts,
    refuse_broken,
)
from anymask.model.folders import file_facts, staged, write_manifest
from anymask.model.inference import for_inference, network_digest
from anymask.model.nano.network import Nano
from anymask.model.network import LOW_RES_STRIDE, NetworkConfig, PromptableNetwork
from anymask.model.prompt_tensors import NOT_A_POINT, TOP_LEFT, PromptTensors
from anymask.model.sam.fast_decoder import FastDecoder, PromptPart
from anymask.model.sam.mask_decoder import MaskDecoder
from anymask.model.sam.network import Sam

ANSWERS = ("low_res_logits", "predicted_iou")
LEAST, VISIBLE, MULTIPLE, DRAWN = "least_iou", "visible", "multiple", "drawn"
"""Inputs and an output of a decoder that draws only promising masks, and only where the picture is."""
_NEVER_OUTSIDE = 2**31
"""The image's part of a decoder has a few megabytes of weights, always inside its graph."""


class EncoderGraph(nn.Module):
    """Pixels E x 3 x S x S -> features in the order of their names."""

    def __init__(self, network: PromptableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.network.encode_features(pixels)
        return tuple(features[name] for name in self.network.feature_names)


class DecoderGraph(nn.Module):
    """Features in the order of their names, then padded prompts -> all masks and scores of each prompt."""

    def __init__(self, network: PromptableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        names = self.network.feature_names
        features = dict(zip(names, inputs[: len(names)], strict=True))
        return self.network.decode_features(features, padded_prompts(*inputs[len(names) :]))


def padded_prompts(
    points: Tensor, labels: Tensor, mask_input: Tensor | None = None, has_mask: Tensor | None = None
) -> PromptTensors:
    """`PromptTensors.from_padded` without a branch that depends on values: one slot more, and all masks or none."""
    points = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)
    labels = torch.cat([labels, torch.full_like(labels[:, :1], NOT_A_POINT)], dim=1)
    real = labels != NOT_A_POINT
    wants_pad = real.any(1, keepdim=True) & ~(labels >= TOP_LEFT).any(1, keepdim=True)
    first_pad = ~real & ((~real).to(torch.int64).cumsum(1) == 1)
    present = real | (first_pad & wants_pad)
    return PromptTensors(points, labels, present, mask_input, None if has_mask is None else has_mask > 0.5)


def takes_masks(network: PromptableNetwork, features: Mapping[str, Tensor]) -> bool:
    """Whether a network decodes mask prompts; one that does not raises `PromptError`."""
    rows, columns = (16 * int(side) // LOW_RES_STRIDE for side in features["embedding"].shape[-2:])
    try:
        with torch.no_grad():
            network.decode_features(
                features,
                PromptTensors(torch.zeros(1, 1, 2), torch.ones(1, 1), masks=torch.zeros(1, 1, rows, columns)),
            )
    except PromptError:
        return False
    return True


class PromptGraph(nn.Module):
    """What the image's graph gives, in the order of its names, padded prompts, a predicted IoU, rows and columns of
    cells, and a whole number -> what `PromptPart.promising` gives."""

    def __init__(self, part: PromptPart) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = len(self.part.part_names)
        return self.part.promising(inputs[:count], *inputs[count:])


def fast_decoder(network: PromptableNetwork) -> FastDecoder | None:
    """The decoder that is exported in two parts, where the network's decoder is SAM's own; else None."""
    if isinstance(network, Sam) and type(network.mask_decoder) is MaskDecoder:
        return FastDecoder(network)
    return None


def export_network(
    network: PromptableNetwork | Nano,
    config: NetworkConfig,
    folder: Path,
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
    inside_bytes: int = INSIDE_BYTES,
) -> Parity:
    """Write both graphs, their weights and a sealed manifest to ``folder``; returns the measured parity.

    Args:
        network: with its weights in place; it is put in evaluation mode, in float32, on the CPU.
        config: its sizes.
        folder: made when missing; the manifest of an older export is taken away first and the new one comes last.
        name: the model's name; that of its sizes when none is given.
        training: facts for the manifest, such as where the weights are from.
        inside_bytes: weights of a graph up to this many bytes lie inside it.

    Raises:
        ParityError: onnxruntime and torch disagree; nothing was written.
        OutputError: the folder cannot be written or the disk is full.
        MissingExtraError: the onnx package is not installed.
    """
    if isinstance(network, Nano):  # its graphs take frames of any shape and hold their weights
        return export_nano(network, folder, name or config.name, training)
    module = cast(nn.Module, network).eval().float().cpu().requires_grad_(False)
    with staged(folder) as stage:
        with_masks, parts = write_network_graphs(network, config.image_size, stage, inside_bytes)
        parity = network_parity(network, config.image_size, stage, with_masks)
        refuse_broken(parity, name or config.name)
        manifest = {
            "format": MANIFEST_FORMAT,
            "name": name or config.name,
            "files": file_facts(stage),
            "features": list(network.feature_names),
            "long_side": config.image_size,
            "pad": "square",
            "pixel_mean": list(config.pixel_mean),
            "pixel_std": list(config.pixel_std),
            "low_res_stride": LOW_RES_STRIDE,
            "mask_threshold": 0.0,
            "resize": config.resize,
            "normalisation": config.normalisation,
            "ranking": config.ranking,
            "precision": "fp32",
            "mask_prompts": with_masks,
            **({"parts": list(parts), "screens": True} if parts else {}),
            "network_sha256": network_digest(module, config),
            "config": {"family": config.family, **config.to_dict()},
            "parity": asdict(parity),
            "training": dict(training or {}),
        }
        write_manifest(stage, manifest)
    return parity


def write_network_graphs(
    network: PromptableNetwork, side: int, folder: Path, inside_bytes: int = INSIDE_BYTES
) -> tuple[bool, tuple[str, ...]]:
    """encoder.onnx, decoder.onnx and where the decoder is cut in two image.onnx, with weights, into an existing folder.

    Returns whether the decoder has inputs for mask prompts, and the names of what image.onnx gives.
    """
    running = cast(PromptableNetwork, for_inference(cast(nn.Module, network)))
    names = running.feature_names
    pixels = torch.zeros(1, 3, side, side)
    free = {"pixels": {0: "images"}, **{name: {0: "images"} for name in names}}
    write_graph(
        EncoderGraph(running),
        (pixels,),
        Ports(("pixels",), names, free),
        folder / "encoder.onnx",
        inside_bytes,
    )
    features = _feature_shapes(running, folder / "encoder.onnx", side)
    with_masks = takes_masks(running, dict(zip(names, features, strict=True)))
    count = len(PROMPTS) if with_masks else 2
    prompts: tuple[Tensor, ...] = random_prompts(side, side, prompts=3, points=2, seed=0)
    axes = {name: {0: "prompts", 1: "slots"} for name in PROMPTS[:2]}
    axes |= {name: {0: "prompts"} for name in (*PROMPTS[2:count], *ANSWERS)}
    fast = fast_decoder(running)
    decoder: nn.Module = DecoderGraph(running)
    parts: tuple[str, ...] = ()
    asked: tuple[str, ...] = PROMPTS[:count]
    answers: tuple[str, ...] = ANSWERS
    if fast is not None:
        decoder = PromptGraph(fast.prompt_part)
        cells = torch.tensor([side // 16, side // 16])
        prompts = (*prompts, torch.full((1,), -torch.inf), cells, torch.ones(1, dtype=torch.int64))
        asked, answers, count = (*asked, LEAST, VISIBLE, MULTIPLE), (*answers, DRAWN), count + 3
        axes |= {ANSWERS[0]: {0: "drawn", 2: "rows", 3: "columns"}, DRAWN: {0: "drawn"}}
        parts = fast.image_part.names
        write_graph(fast.image_part, features, Ports(names, parts, {}), folder / "image.onnx", _NEVER_OUTSIDE)
        with torch.no_grad():
            features = list(fast.image_part(*features))
    write_graph(
        decoder,
        (*features, *prompts[:count]),
        Ports((*(parts or names), *asked), answers, axes),
        folder / "decoder.onnx",
        inside_bytes,
    )
    return with_masks, parts


def _feature_shapes(network: PromptableNetwork, encoder: Path, side: int) -> list[Tensor]:
    """Random features of the right shapes, read off the graph where it states them, else by running it."""
    import onnx

    graph = onnx.load(str(encoder), load_external_data=False).graph
    shapes = [[d.dim_value for d in output.type.tensor_type.shape.dim] for output in graph.output]
    if any(len(shape) != 4 or not all(shape[1:]) for shape in shapes):
        with torch.no_grad():
            features = network.encode_features(torch.zeros(1, 3, side, side))
        return [features[name] for name in network.feature_names]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, *shape[1:], generator=generator) for shape in shapes]


def network_parity(network: PromptableNetwork, side: int, folder: Path, with_masks: bool = True) -> Parity:
    """Compare a network as published with the graphs in ``folder``, on one picture and every kind of prompt."""

    def decode(features: Mapping[str, Tensor], *prompts: Tensor) -> tuple[Tensor, Tensor]:
        return network.decode_features(features, PromptTensors.from_padded(*prompts))

    run_decoder = open_session(folder / "decoder.onnx")
    if (image := folder / "image.onnx").exists():
        run_decoder = _after_image(network.feature_names, open_session(image), run_decoder)
    return compare_engines(
        network.encode_features,
        decode,
        open_session(folder / "encoder.onnx"),
        run_decoder,
        [parity_picture(side)],
        with_masks,
    )


def _after_image(names: tuple[str, ...], run_image: Run, run_decoder: Run) -> Run:
    """Both graphs of a decoder that was cut in two as one, which draws all masks."""

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts = run_image({name: inputs[name] for name in names})
        prompts = {name: value for name, value in inputs.items() if name not in names}
        cells = np.array(inputs["embedding"].shape[2:], dtype=np.int64)
        all_of_it = {
            LEAST: np.full(1, -np.inf, np.float32),
            VISIBLE: cells,
            MULTIPLE: np.ones(1, dtype=np.int64),
        }
        return run_decoder({**parts, **prompts, **all_of_it})

    return run


def parity_picture(side: int) -> Tensor:
    """Normalised pixels 1 x 3 x S x S: coarse and fine noise, a disc, and a padded strip below."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.randn(1, 3, 8, 8, generator=generator)
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    pixels = pixels + 0.2 * torch.randn(1, 3, side, side, generator=generator)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (x - 0.4 * side) ** 2 + (y - 0.4 * side) ** 2 < (0.2 * side) ** 2
    pixels[:, :, inside] += torch.tensor([1.5, -1.0, 0.5])[:, None]
    pixels[:, :, side - side // 8 :] = 0.0
    return pixels.contiguous()
