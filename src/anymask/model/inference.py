"""A network as it is run or exported: the same function, in the form that engines execute fastest.

`for_inference` gives a copy that shares its weights with the network it was made from. In it

- batch normalisations are part of their convolutions (`conv_norm.fuse`);
- the encoder's blocks are `InferenceBlock`s.

What was measured on one block of ViT-B at 1024 pixels, in processor seconds of two threads (onnxruntime, OpenVINO
float32, OpenVINO bfloat16, which makes one kernel of each band's products and softmax):

- projecting the map instead of its padded windows saves a seventh of that work;
- adding the two parts of the position bias one after the other to the scores, 1024 queries at a time, took 1.48, 1.28,
  .73 for a global block; as one bias tensor made first 1.59, 1.35, .73; in bands of 128 queries 1.70, 1.44, .87 (the
  keys are packed anew for each band); folded into longer queries and keys, so that attention needs no bias, -, 1.77,
  .98;
- products with weights are of two axes (Gemm), whose weights both engines take as they are; with more axes OpenVINO
  turned all weights first, for 370 MB more.

TinyViT's blocks have an inference form too (`light.tiny_vit`). Cells as rows between products, windows and heads cut in
one step and no bias on padding took OpenVINO's MobileSAM from 567 to 483 ms in float32 and from 331 to 265 in bfloat16
(2 threads of an AMD EPYC, in turn, best of 7).

torch runs its own attention kernel in less than the products written out, and copies of the wider projected map cost it
more than they save, so only an exported graph has these forms.
"""

from __future__ import annotations

import copy
import json
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.light.conv_norm import Fusible, fuse
from anymask.model.network import NetworkConfig
from anymask.model.sam.image_encoder import (
    QUERIES_AT_ONCE,
    Block,
    join_windows,
    relative_positions,
    split_windows,
)
from anymask.model.weights import content_sha256

Module = TypeVar("Module", bound=nn.Module)


def for_inference(network: Module) -> Module:
    """A network of any family for running only: equal answers, weights shared where they did not change."""
    if any(isinstance(part, Fusible) for part in network.modules()):
        network = fuse(network)
    tensors = [*network.parameters(), *network.buffers()]
    shared: Module = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    _replace_blocks(shared)
    return shared


def network_digest(network: nn.Module, config: NetworkConfig) -> str:
    """SHA-256 over weights and sizes: the name of what a network computes, whatever engine runs it."""
    facts = {config.family: json.dumps(config.to_dict(), sort_keys=True)}
    return content_sha256(network.state_dict(), facts)


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def _replace_blocks(module: nn.Module) -> None:
    for name, part in module.named_children():
        if type(part) is Block:
            setattr(module, name, InferenceBlock(part))
        else:
            _replace_blocks(part)


class InferenceBlock(nn.Module):
    """What `image_encoder.Block` computes, B x H x W x C in and out, with the same weights.

    Letters: B images (or windows of all), N heads, D channels of one head, L queries.
    """

    places_h: Tensor
    places_w: Tensor
    query_bias: Tensor
    merged_bias: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.window_size = block.window_size
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.num_heads = block.attn.num_heads
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        for axis, table in (("h", block.attn.rel_pos_h), ("w", block.attn.rel_pos_w)):
            size = (table.shape[0] + 1) // 2
            places = relative_positions(size, table.detach()).transpose(1, 2).contiguous()
            self.register_buffer(f"places_{axis}", places)  # size x D x size: query, channel, key
        queries, _, values = self.qkv.bias.detach().chunk(3)
        self.register_buffer("query_bias", F.pad(queries, (0, 2 * len(queries))))
        self.register_buffer("merged_bias", self.proj.bias.detach() + self.proj.weight.detach() @ values)

    def forward(self, x: Tensor) -> Tensor:
        if _is_traced():
            return self._as_graph(x)
        x = x + self.attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Attention over the map or over each of its windows."""
        h, w, c = (int(side) for side in x.shape[1:])
        size, heads = self.window_size, self.num_heads
        windows = x if size == 0 else split_windows(x, size)
        height, width = (h, w) if size == 0 else (size, size)
        qkv = self.qkv(windows).reshape(-1, height * width, 3, heads, c // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = self._attention(q, k, v, height, width).transpose(1, 2).reshape(-1, height, width, c)
        merged: Tensor = self.proj(out)
        return merged if size == 0 else join_windows(merged, h, w)

    def _as_graph(self, x: Tensor) -> Tensor:
        """The same with products of matrices only, on cells as rows: engines move maps with four axes as they like.

        Windows are cut from the projected map, their padding is zero. In the published block it has the projection's
        biases: those of the queries are added to the map's own cells, as no others are looked at; those of the keys add
        the same to all scores of a query; those of the values pass the attention, which sums to 1, and are part of
        ``merged_bias``.
        """
        h, w, c = (int(side) for side in x.shape[1:])
        size, heads = self.window_size, self.num_heads
        cells = x.reshape(-1, c)
        projected = F.linear(self.norm1(cells), self.qkv.weight, self.query_bias)
        if size == 0:
            cut = projected.reshape(-1, h * w, 3 * heads, c // heads).permute(2, 0, 1, 3)
            q, k, v = cut.reshape(3, heads, -1, h * w, c // heads).unbind(0)  # heads x images x L x D
            attended = self._attention(q, k, v, h, w).permute(1, 2, 0, 3)
        else:
            rows, columns = -(-h // size), -(-w // size)
            padding = (0, 0, 0, columns * size - w, 0, rows * size - h)
            padded = F.pad(projected.reshape(-1, h, w, 3 * c), padding)
            cut = padded.reshape(-1, size, columns, size, 3 * heads, c // heads).permute(4, 0, 2, 1, 3, 5)
            q, k, v = cut.reshape(3, heads, -1, size * size, c // heads).unbind(0)  # heads x windows x L x D
            out = self._attention(q, k, v, size, size)
            joined = out.reshape(heads, -1, columns, size, size, c // heads).permute(1, 3, 2, 4, 0, 5)
            attended = joined.reshape(-1, rows * size, columns * size, c)[:, :h, :w]
        cells = cells + F.linear(attended.reshape(-1, c), self.proj.weight, self.merged_bias)
        flat: Tensor = cells + self.mlp(self.norm2(cells))
        return flat.reshape(-1, h, w, c)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, h: int, w: int) -> Tensor:
        """Heads of maps or windows, A x B x H W x D each, in any order of the first two axes -> the same."""
        first, dim = q.shape[0], int(q.shape[-1])
        q_map = q.reshape(first, -1, h, w, dim)
        along_h = q_map @ self.places_h
        along_w = (q_map.transpose(2, 3) @ self.places_w).transpose(2, 3)
        keys = k.transpose(2, 3) * dim**-0.5
        rows = max(1, QUERIES_AT_ONCE // w)
        bands = []
        for top in range(0, h, rows):
            band = slice(top, min(top + rows, h))
            count = (band.stop - top) * w
            part = q[:, :, top * w : top * w + count]
            part_h = along_h[:, :, band].reshape(first, -1, count, h, 1)
            part_w = along_w[:, :, band].reshape(first, -1, count, 1, w)
            if _is_traced():
                scores = (part @ keys).reshape(first, -1, count, h, w) + part_h + part_w
                bands.append(scores.reshape(first, -1, count, h * w).softmax(-1) @ v)
            else:  # torch's own kernel holds no scores, and wants the bias whole
                bias = (part_h + part_w).reshape(first, -1, count, h * w)
                bands.append(F.scaled_dot_product_attention(part, k, v, attn_mask=bias))
        return torch.cat(bands, dim=2) if len(bands) > 1 else bands[0]
