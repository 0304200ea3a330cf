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
    no_bias: Tensor

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
        self.register_buffer("no_bias", torch.zeros_like(block.attn.qkv.bias))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        if _is_traced():
            h, w, c = (int(side) for side in x.shape[1:])
            flat: Tensor = self.mlp(self.norm2(x).reshape(-1, c))
            return x + flat.reshape(-1, h, w, c)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Attention over the map or over each of its windows."""
        h, w = int(x.shape[1]), int(x.shape[2])
        size = self.window_size
        if _is_traced():
            return self._attend_as_graph(x, h, w)
        if size == 0:
            merged: Tensor = self.proj(self._attention(self.qkv(x), h, w))
            return merged
        return join_windows(self.proj(self._attention(self.qkv(split_windows(x, size)), size, size)), h, w)

    def _attend_as_graph(self, x: Tensor, h: int, w: int) -> Tensor:
        """The same with products of matrices only.

        Windows are cut from the projected map: their padding is zero before and so the projection's bias after.
        """
        size, c = self.window_size, int(x.shape[-1])
        cells = x.reshape(-1, c)
        if size == 0:
            attended = self._attention(self.qkv(cells).reshape(-1, h, w, 3 * c), h, w)
        else:
            rows, columns = -(-h // size), -(-w // size)
            projected = F.linear(cells, self.qkv.weight, self.no_bias).reshape(-1, h, w, 3 * c)
            padded = F.pad(projected, (0, 0, 0, columns * size - w, 0, rows * size - h))
            windows = padded.reshape(-1, rows, size, columns, size, 3 * c).transpose(2, 3)
            attended = self._attention(windows.reshape(-1, size, size, 3 * c) + self.qkv.bias, size, size)
            joined = attended.reshape(-1, rows, columns, size, size, c).transpose(2, 3)
            attended = joined.reshape(-1, rows * size, columns * size, c)[:, :h, :w]
        out: Tensor = self.proj(attended.reshape(-1, c)).reshape(-1, h, w, c)
        return out

    def _attention(self, qkv: Tensor, h: int, w: int) -> Tensor:
        """B x H x W x 3C, projected -> B x H x W x C, before the last projection."""
        heads, c = self.num_heads, int(qkv.shape[-1]) // 3
        q, k, v = qkv.reshape(-1, h * w, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
        q_map = q.reshape(-1, heads, h, w, c // heads)
        along_h = q_map @ self.places_h
        along_w = (q_map.transpose(2, 3) @ self.places_w).transpose(2, 3)
        keys = k.transpose(2, 3) * (c // heads) ** -0.5
        rows = max(1, QUERIES_AT_ONCE // w)
        bands = []
        for top in range(0, h, rows):
            band = slice(top, min(top + rows, h))
            count = (band.stop - top) * w
            part = q[:, :, top * w : top * w + count]
            part_h = along_h[:, :, band].reshape(-1, heads, count, h, 1)
            part_w = along_w[:, :, band].reshape(-1, heads, count, 1, w)
            if _is_traced():
                scores = (part @ keys).reshape(-1, heads, count, h, w) + part_h + part_w
                bands.append(scores.reshape(-1, heads, count, h * w).softmax(-1) @ v)
            else:  # torch's own kernel holds no scores, and wants the bias whole
                bias = (part_h + part_w).reshape(-1, heads, count, h * w)
                bands.append(F.scaled_dot_product_attention(part, k, v, attn_mask=bias))
        out = torch.cat(bands, dim=2) if len(bands) > 1 else bands[0]
        return out.transpose(1, 2).reshape(-1, h, w, c)
