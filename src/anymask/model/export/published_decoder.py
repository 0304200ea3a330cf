"""The decoder as the published code exports it: one ONNX file with the names, shapes and rules that other tools know.

    image_embeddings 1 x 256 x 64 x 64, point_coords 1 x N x 2 (pixels of the network frame), point_labels 1 x N,
    mask_input 1 x 1 x 256 x 256, has_mask_input 1, orig_im_size 2 (height, width)
    -> masks 1 x 4 x H x W (logits in the image's size), iou_predictions 1 x 4, low_res_masks 1 x 4 x 256 x 256

Only N is free. The caller writes a box as two points labelled 2 and 3, and adds one point labelled -1 when there is no
box: what it leaves out is added here, and what it adds too much counts as nothing, so that a box alone, with or without
that point, gives what the network gives for a box alone.

Source: `segment_anything/utils/onnx.py` and `scripts/export_onnx_model.py` of the published code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.atomic import write_atomically
from anymask.errors import ModelError, OutputError, ParityError
from anymask.model.export.graph_writer import Ports, write_graph
from anymask.model.export.network import padded_prompts
from anymask.model.export.parity import open_session
from anymask.model.network import NetworkConfig, PromptableNetwork
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.prompt_encoder import PromptEncoder

INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
OUTPUTS = ("masks", "iou_predictions", "low_res_masks")
BOUND = 1e-3
"""Largest difference of logits between the file and the network."""


class PublishedDecoder(nn.Module):
    """The published contract around a network whose only feature is its embedding."""

    def __init__(self, network: PromptableNetwork, image_size: int) -> None:
        super().__init__()
        self.network, self.image_size = network, image_size

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the module's docstring."""
        prompts = padded_prompts(point_coords, point_labels, mask_input, has_mask_input)
        logits, scores = self.network.decode_features({"embedding": image_embeddings}, prompts)
        return self._to_image(logits, orig_im_size), scores, logits

    def _to_image(self, logits: Tensor, orig_im_size: Tensor) -> Tensor:
        """Up to the network frame, without its padding, and on to the image's size."""
        size = orig_im_size.to(torch.float32)
        scale = self.image_size / size.max()
        inner = torch.floor(size * scale + 0.5).to(torch.int64)
        frame = F.interpolate(logits, (self.image_size,) * 2, mode="bilinear", align_corners=False)
        cut = frame[..., : inner[0], : inner[1]]
        whole = orig_im_size.to(torch.int64)
        target = cast(list[int], [whole[0], whole[1]])
        return F.interpolate(cut, target, mode="bilinear", align_corners=False)


def export_published_decoder(network: PromptableNetwork, config: NetworkConfig, path: Path) -> float:
    """Write the decoder of ``network`` to ``path``; returns the largest difference of logits that was seen.

    Raises `ModelError` for a network with more features than the embedding, or another way to its frame;
    `ParityError` when onnxruntime disagrees with torch; then nothing is written.
    """
    prompts = getattr(network, "prompt_encoder", None)
    fits = tuple(network.feature_names) == ("embedding",) and isinstance(prompts, PromptEncoder)
    if not fits or config.resize != "longest_side":
        raise ModelError(
            f"{config.name!r} does not fit the published decoder's contract: SAM's own prompts, one embedding, and an "
            "image whose longer side was scaled"
        )
    module = cast(nn.Module, network).eval().float().cpu().requires_grad_(False)
    wrapped = PublishedDecoder(network, config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "decoder.onnx")
        examples = published_prompts(module, config)
        axes = {name: {1: "num_points"} for name in ("point_coords", "point_labels")}
        axes |= {"masks": {2: "height", 3: "width"}}
        write_graph(wrapped, examples[0], Ports(INPUTS, OUTPUTS, axes), graph, inside_bytes=1 << 30)
        worst = max(_difference(network, config, graph, example) for example in examples)
        if not worst <= BOUND:
            raise ParityError(
                f"the export was refused: logits differ by {worst:.2e}, the bound is {BOUND:.0e}"
            )
        data = graph.read_bytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make {str(path.parent)!r}: {error.strerror}") from error
    write_atomically(path, data)
    return worst


def published_prompts(network: nn.Module, config: NetworkConfig) -> list[tuple[Tensor, ...]]:
    """A click, clicks, a box alone (with and without the point that says there is none), a mix, a mask alone."""
    side = config.image_size
    grid = side // 16
    generator = torch.Generator().manual_seed(0)
    dim = cast(Any, network).prompt_encoder.no_mask_embed.weight.shape[1]
    embedding = torch.randn(1, dim, grid, grid, generator=generator)
    noise = torch.randn(1, 1, 4 * grid, 4 * grid, generator=generator) * 4
    cases = [
        ([[0.5, 0.4], [0.0, 0.0]], [1, -1], 0.0, (side // 2, side)),
        ([[0.5, 0.4], [0.2, 0.3], [0.0, 0.0]], [1, 0, -1], 0.0, (side + 31, side - 7)),
        ([[0.1, 0.2], [0.7, 0.6]], [2, 3], 0.0, (side, side)),
        ([[0.1, 0.2], [0.7, 0.6], [0.0, 0.0]], [2, 3, -1], 0.0, (side, side)),
        ([[0.4, 0.4], [0.1, 0.2], [0.7, 0.6]], [1, 2, 3], 0.0, (side // 3, side // 2)),
        ([[0.4, 0.4], [0.0, 0.0]], [0, -1], 1.0, (side, side // 2)),
        ([[0.0, 0.0]], [-1], 1.0, (side, side)),
    ]
    return [
        (
            embedding,
            torch.tensor([points]) * side,
            torch.tensor([labels], dtype=torch.float32),
            noise,
            torch.tensor([fed]),
            torch.tensor(size, dtype=torch.float32),
        )
        for points, labels, fed, size in cases
    ]


def _difference(
    network: PromptableNetwork, config: NetworkConfig, graph: Path, example: tuple[Tensor, ...]
) -> float:
    embedding, points, labels, masks, has_mask, size = example
    with torch.no_grad():
        prompts = PromptTensors.from_padded(points, labels, masks, has_mask)
        logits, scores = network.decode_features({"embedding": embedding}, prompts)
    seen = open_session(graph)({name: array.numpy() for name, array in zip(INPUTS, example, strict=True)})
    height, width = (int(side) for side in size)
    if seen["masks"].shape != (*logits.shape[:2], height, width):
        return float("inf")
    low_res = float((torch.from_numpy(seen["low_res_masks"]) - logits).abs().max())
    return max(low_res, float((torch.from_numpy(seen["iou_predictions"]) - scores).abs().max()))
