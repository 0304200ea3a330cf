"""Weights for a SAM that answers clicks with a realistic number of distinct masks, made without training.

A SAM of random weights answers every click of a grid with nearly the same three masks: suppression leaves one or two,
and nothing that comes after the decoder is measured. Here most weights are random too (seeded), but some are planted:

* positions in the encoder carry `OBJECTS` shapes, large and small, each in a channel of its own, through its residual
  stream, neck and the decoder's upscaling; the picture's own content, through random weights, frays their outlines;
* how strong a shape's channel comes out of all norms, inside and outside the shape, is looked up on the pictures;
* the last layer of each hypernetwork, and of the head of predicted IoU, is fitted (ridge regression, closed form) so
  that a click asks for the shape it lies in: the first mask of a click for a small one, the second for a middle one,
  the third for a large one. Clicks between two shapes ask for a mixture, which is unstable, as with trained weights.

Every product is as large as with trained weights, so times are those of any ViT-B. What the masks show means nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from anymask.automatic.generator import Generator
from anymask.automatic.grid import point_grid
from anymask.automatic.settings import AutomaticSettings
from anymask.frame import Frame
from anymask.image import read_image
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.network import Sam
from anymask.predict.segmenter import Segmenter
from sam_parity import randomised_sam

__all__ = ["OBJECTS", "Shape", "planted_sam", "realistic_thresholds", "shapes"]

LATTICES: Final = ((5, 4), (3, 2), (2, 1))
"""Columns and rows of the small, middle and large shapes."""
OBJECTS: Final = sum(columns * rows for columns, rows in LATTICES)
_CONSTANT: Final = OBJECTS
"""The channel after the shapes' is the same everywhere."""
_POSITION: Final = 12.0
"""How far a shape's channel reaches in the residual stream, beside a picture's own values of about 1."""
_QUIET: Final = 0.03
"""What random residual branches are multiplied with, so that shapes and clicks get through."""
_OWN_TOKENS: Final = 0.05
"""What the decoder's own tokens are multiplied with, so that the place of a click decides."""
_FREQUENCY: Final = 0.7
"""What the frequencies of positions are multiplied with: neighbouring clicks should be alike."""
_CONTRAST: Final = 20.0
"""Logits from the outside of a shape to its core; zero lies in the middle."""
_RIDGE: Final = 1e-6
_GOOD_SHARE: Final = 0.4
_STABLE_SHARE: Final = 0.5


@dataclasses.dataclass(frozen=True)
class Shape:
    """An ellipse in the padded frame, in shares of its side: centre and half axes, and how good it is said to be."""

    x: float
    y: float
    half_width: float
    half_height: float
    quality: float

    def depth(self, x: Tensor, y: Tensor) -> Tensor:
        """1 at the centre, 0 on the outline, -1 and below outside."""
        return 1 - torch.hypot((x - self.x) / self.half_width, (y - self.y) / self.half_height)


def shapes(height: float, seed: int) -> list[list[Shape]]:
    """Small, middle and large ones on a frame whose picture takes the upper ``height`` (a share of its side)."""
    rng = np.random.default_rng(seed)
    found = []
    for columns, rows in LATTICES:
        wide, high = 1 / columns, height / rows
        level = []
        for row, column in np.ndindex(rows, columns):
            x, y = (column + rng.uniform(0.45, 0.55)) * wide, (row + rng.uniform(0.45, 0.55)) * high
            sides = rng.uniform(0.38, 0.48, 2) * (wide, high)
            level.append(Shape(float(x), float(y), float(sides[0]), float(sides[1]), rng.uniform(0.6, 1.0)))
        found.append(level)
    return found


def planted_sam(config: Any, pictures: Sequence[Any], seed: int = 0) -> Sam:
    """A SAM of these sizes whose masks are the shapes; ``pictures`` (paths or arrays) are what the fit looks at."""
    sam = randomised_sam(config, seed)
    images = [read_image(picture) for picture in pictures]
    frames = [Frame(image.size, config.image_size) for image in images]
    levels = shapes(min(frame.resized_size[0] for frame in frames) / config.image_size, seed)
    with torch.no_grad():
        _plant_encoder(sam, [shape for level in levels for shape in level], config.grid_size)
        _plant_decoder(sam)
        pixels = (
            frame.to_network(image.pixels, config.pixel_mean, config.pixel_std)
            for frame, image in zip(frames, images, strict=True)
        )
        embeddings = [sam.image_encoder(torch.from_numpy(array)) for array in pixels]
        _fit(sam, config, embeddings, levels)
    return sam


def realistic_thresholds(
    segmenter: Segmenter, pictures: Sequence[Any], points_per_side: int
) -> tuple[float, float]:
    """Thresholds of predicted IoU and of stability that a fifth of all masks pass, two fifths the first one alone."""
    settings = AutomaticSettings(
        points_per_side=points_per_side, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0
    )
    generator = Generator(segmenter, settings)
    masks = [mask for picture in pictures for mask in generator.generate(picture)]
    scores = np.array([mask.score for mask in masks])
    stability = np.array([mask.stability_score for mask in masks], dtype=np.float64)
    good = float(np.quantile(scores, 1 - _GOOD_SHARE))
    stable = float(np.quantile(stability[scores > good], 1 - _STABLE_SHARE))
    return round(good, 4), round(stable, 4)


def _plant_encoder(sam: Sam, all_shapes: Sequence[Shape], cells: int) -> None:
    encoder: Any = sam.image_encoder
    along = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(along, along, indexing="ij")
    for block in encoder.blocks:
        block.attn.proj.weight.mul_(_QUIET)
        block.mlp.lin2.weight.mul_(_QUIET)
    squeeze, first_norm, smooth, last_norm = encoder.neck
    for channel, shape in enumerate(all_shapes):
        encoder.pos_embed[0, ..., channel] = _POSITION * shape.depth(x, y).clamp(-0.5, 0.5)
        squeeze.weight[channel] = 0
        squeeze.weight[channel, channel] = 1
        smooth.weight[channel] = 0
        smooth.weight[channel, channel, 1, 1] = 1
    for norm in (first_norm, last_norm):
        norm.weight[:OBJECTS], norm.bias[:OBJECTS] = 1, 0


def _plant_decoder(sam: Sam) -> None:
    prompts: Any = sam.prompt_encoder
    decoder: Any = sam.mask_decoder
    prompts.pe_layer.positional_encoding_gaussian_matrix.mul_(_FREQUENCY)
    own = [prompts.not_a_point_embed, prompts.no_mask_embed, *prompts.point_embeddings]
    for embedding in (*own, decoder.iou_token, decoder.mask_tokens):
        embedding.weight.mul_(_OWN_TOKENS)
    for layer in decoder.transformer.layers:
        layer.cross_attn_image_to_token.out_proj.weight.mul_(_QUIET)
        layer.cross_attn_token_to_image.out_proj.weight.mul_(_QUIET)
        layer.norm4.weight[:OBJECTS], layer.norm4.bias[:OBJECTS] = 1, 0
    decoder.transformer.final_attn_token_to_image.out_proj.weight.mul_(_QUIET)
    first, norm, _, second, _ = decoder.output_upscaling
    first.weight.copy_(first.weight[..., :1, :1].expand_as(first.weight))  # the four pixels of a cell alike
    for channel in range(OBJECTS):
        for up in (first, second):
            up.weight[:, channel] = 0
            up.weight[channel, channel] = 1
            up.bias[channel] = 0
    norm.weight[:OBJECTS], norm.bias[:OBJECTS] = 1, 0
    second.weight[:, _CONSTANT:] = 0
    second.bias[_CONSTANT:] = 0
    second.bias[_CONSTANT] = 1


def _fit(sam: Sam, config: Any, embeddings: Sequence[Tensor], levels: Sequence[Sequence[Shape]]) -> None:
    """The last layers of hypernetworks and quality head."""
    clicks = torch.from_numpy(point_grid(32)).float()
    decoder: Any = sam.mask_decoder
    heads = [*decoder.output_hypernetworks_mlps[1:], decoder.iou_prediction_head]
    seen = _before_last_layers(sam, config, embeddings, clicks, [head.layers[-1] for head in heads])
    gains, offsets = _contrasts(sam, config, embeddings, [shape for level in levels for shape in level])
    qualities, start = [], 0
    for mlp, hidden, level in zip(heads, seen, levels, strict=False):
        chosen = torch.stack([shape.depth(clicks[:, 0], clicks[:, 1]) for shape in level]).argmax(0)
        wanted = torch.zeros(len(clicks), mlp.layers[-1].out_features)
        wanted[torch.arange(len(clicks)), start + chosen] = gains[start + chosen]
        wanted[:, _CONSTANT] = offsets[start + chosen]
        _solve(mlp.layers[-1], hidden, wanted.repeat(len(embeddings), 1), slice(None))
        qualities.append(torch.tensor([shape.quality for shape in level])[chosen])
        start += len(level)
    _solve(
        heads[-1].layers[-1], seen[-1], torch.stack(qualities, 1).repeat(len(embeddings), 1), slice(1, None)
    )


def _contrasts(
    sam: Sam, config: Any, embeddings: Sequence[Tensor], all_shapes: Sequence[Shape]
) -> tuple[Tensor, Tensor]:
    """For each shape what its channel and the constant one are multiplied with to give logits.

    Norms over random channels let every shape through with a strength of its own, and with few channels most of it is
    lost: fixed numbers would leave some shapes without a pixel above zero.
    """
    upscaled: list[Tensor] = []
    hook = sam.mask_decoder.output_upscaling.register_forward_hook(
        lambda module, inputs, output: upscaled.append(output[0])
    )
    middle = torch.full((1, 1, 2), config.image_size / 2)
    prompts = PromptTensors.of(middle, torch.ones(1, 1, dtype=torch.long))
    sparse, dense = sam.prompt_encoder(prompts.coords, prompts.labels, None, None)
    for embedding in embeddings:
        sam.mask_decoder(embedding, sam.prompt_encoder.dense_pe(), sparse, dense, prompts.present)
    hook.remove()
    maps = torch.stack(upscaled)
    along = (torch.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
    y, x = torch.meshgrid(along, along, indexing="ij")
    gains, offsets = [], []
    for channel, shape in enumerate(all_shapes):
        depth = shape.depth(x, y)
        core = maps[:, channel, depth > depth.max() / 2].median()
        outside = maps[:, channel, depth < 0].median()
        gains.append(_CONTRAST / (core - outside))
        offsets.append(-gains[-1] * (core + outside) / 2 / maps[0, _CONSTANT, 0, 0])
    return torch.stack(gains), torch.stack(offsets)


def _before_last_layers(
    sam: Sam, config: Any, embeddings: Sequence[Tensor], clicks: Tensor, layers: Sequence[Any]
) -> list[Tensor]:
    """What goes into each of the layers, (clicks of all embeddings, width), on every fourth cell of a row."""
    seen: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output, into=into: into.append(inputs[0]))
        for layer, into in zip(layers, seen, strict=True)
    ]
    places = sam.prompt_encoder.dense_pe()
    for embedding in embeddings:
        for start in range(0, len(clicks), 64):
            batch = clicks[start : start + 64]
            points = batch[:, None] * config.image_size
            prompts = PromptTensors.of(points, torch.ones(len(batch), 1, dtype=torch.long))
            sparse, dense = sam.prompt_encoder(prompts.coords, prompts.labels, None, None)
            thin = (maps[..., 1::4, 1::4] for maps in (embedding, places, dense))
            image, image_pe, no_mask = thin
            sam.mask_decoder(image, image_pe, sparse, no_mask, prompts.present)
    for hook in hooks:
        hook.remove()
    return [torch.cat(parts) for parts in seen]


def _solve(layer: Any, hidden: Tensor, wanted: Tensor, rows: slice) -> None:
    """Ridge regression of ``wanted`` (N, outputs) on ``hidden`` (N, width) into these rows of a linear layer."""
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1).double()
    square = inputs.T @ inputs
    square += _RIDGE * square.trace() / len(square) * torch.eye(len(square), dtype=torch.double)
    found = torch.linalg.solve(square, inputs.T @ wanted.double()).float()
    layer.weight[rows], layer.bias[rows] = found[:-1].T, found[-1]
