"""The published predictor written down plainly, from weights under their published names; nothing of ours is used.

Source: `segment_anything/predictor.py`, `modeling/prompt_encoder.py`, `modeling/transformer.py` and
`modeling/mask_decoder.py` of the published code. The image encoder is a function from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
THRESHOLD = 0.0


class PlainPredictor:
    """`set_image`, then `predict`, for a frame of `side` pixels and decoders of `heads` heads."""

    def __init__(
        self, weights: Mapping[str, Tensor], encoder: Callable[[Tensor], Tensor], side: int, heads: int
    ) -> None:
        self.weights, self.encoder, self.side, self.heads = weights, encoder, side, heads

    @torch.no_grad()
    def set_image(self, rgb: np.ndarray) -> None:
        height, width = rgb.shape[:2]
        scale = self.side / max(height, width)
        self.original = (height, width)
        self.inside = (int(height * scale + 0.5), int(width * scale + 0.5))
        resized = Image.fromarray(rgb)
        if self.inside != self.original:
            resized = resized.resize(self.inside[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
        frame = torch.zeros(1, 3, self.side, self.side)
        for channel in range(3):
            plane = (pixels[channel] - MEAN[channel]) / STD[channel]
            frame[0, channel, : self.inside[0], : self.inside[1]] = plane
        self.embedding = self.encoder(frame)

    @torch.no_grad()
    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask: Any = None,
        multimask: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits over the image (C, H, W), scores (C,), low-resolution logits (C, h, w)."""
        low_res, scores = self.decode(self.tokens(points, labels, box), self.dense(mask))
        chosen = slice(1, 4) if multimask else slice(0, 1)
        low_res, scores = low_res[chosen], scores[chosen]
        framed = F.interpolate(low_res[None], (self.side, self.side), mode="bilinear", align_corners=False)
        cropped = framed[..., : self.inside[0], : self.inside[1]]
        whole = F.interpolate(cropped, self.original, mode="bilinear", align_corners=False)[0]
        return whole.numpy(), scores.numpy(), low_res.numpy()

    def tokens(self, points: Any, labels: Any, box: Any) -> Tensor:
        """Prompt tokens T x C."""
        scale = np.array([self.inside[1] / self.original[1], self.inside[0] / self.original[0]])
        places, kinds = [], []
        if points is not None:
            for point, label in zip(points, labels, strict=True):
                places.append(np.asarray(point, dtype=np.float64) * scale + 0.5)
                kinds.append(int(label))
            if box is None:
                places.append(np.zeros(2))
                kinds.append(-1)
        if box is not None:
            corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
            for corner, kind in zip(corners, (2, 3), strict=True):
                places.append(corner * scale + 0.5)
                kinds.append(kind)
        rows = []
        for place, kind in zip(places, kinds, strict=True):
            if kind == -1:
                rows.append(self.weights["prompt_encoder.not_a_point_embed.weight"][0])
            else:
                where = self.fourier(torch.tensor(place / self.side, dtype=torch.float32))
                rows.append(where + self.weights[f"prompt_encoder.point_embeddings.{kind}.weight"][0])
        channels = self.weights["mask_decoder.iou_token.weight"].shape[1]
        return torch.stack(rows) if rows else torch.zeros(0, channels)

    def dense(self, mask: Any) -> Tensor:
        """The map of the mask prompt, 1 x C x h x w or 1 x C x 1 x 1."""
        if mask is None:
            return self.weights["prompt_encoder.no_mask_embed.weight"].reshape(1, -1, 1, 1)
        x = torch.as_tensor(mask, dtype=torch.float32)[None]
        x = self.conv("prompt_encoder.mask_downscaling.0", x, stride=2)
        x = F.gelu(self.norm_channels("prompt_encoder.mask_downscaling.1", x))
        x = self.conv("prompt_encoder.mask_downscaling.3", x, stride=2)
        x = F.gelu(self.norm_channels("prompt_encoder.mask_downscaling.4", x))
        return self.conv("prompt_encoder.mask_downscaling.6", x)

    def fourier(self, places: Tensor) -> Tensor:
        waves = self.weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        angles = 2 * math.pi * ((2 * places - 1) @ waves)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)

    def decode(self, prompt: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """All four masks: logits 4 x 4h x 4w and scores 4."""
        w = self.weights
        own = torch.cat([w["mask_decoder.iou_token.weight"], w["mask_decoder.mask_tokens.weight"], prompt])
        image = self.embedding + dense
        _, channels, h, width = image.shape
        centres = (torch.arange(h) + 0.5) / h
        places = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
        position = self.fourier(places).reshape(h * width, channels)
        keys = image.flatten(2)[0].T
        queries = own
        for layer in range(2):
            name = f"mask_decoder.transformer.layers.{layer}"
            if layer == 0:
                queries = self.attend(f"{name}.self_attn", queries, queries, queries)
            else:
                with_own = queries + own
                queries = queries + self.attend(f"{name}.self_attn", with_own, with_own, queries)
            queries = self.norm(f"{name}.norm1", queries)
            queries = queries + self.attend(
                f"{name}.cross_attn_token_to_image", queries + own, keys + position, keys
            )
            queries = self.norm(f"{name}.norm2", queries)
            hidden = F.relu(self.linear(f"{name}.mlp.lin1", queries))
            queries = self.norm(f"{name}.norm3", queries + self.linear(f"{name}.mlp.lin2", hidden))
            keys = keys + self.attend(
                f"{name}.cross_attn_image_to_token", keys + position, queries + own, queries
            )
            keys = self.norm(f"{name}.norm4", keys)
        name = "mask_decoder.transformer"
        queries = queries + self.attend(
            f"{name}.final_attn_token_to_image", queries + own, keys + position, keys
        )
        queries = self.norm(f"{name}.norm_final_attn", queries)
        up = keys.T.reshape(1, channels, h, width)
        up = self.transposed("mask_decoder.output_upscaling.0", up)
        up = F.gelu(self.norm_channels("mask_decoder.output_upscaling.1", up))
        up = F.gelu(self.transposed("mask_decoder.output_upscaling.3", up))[0]
        planes = [
            torch.einsum(
                "c,chw->hw", self.mlp(f"mask_decoder.output_hypernetworks_mlps.{i}", queries[1 + i]), up
            )
            for i in range(4)
        ]
        return torch.stack(planes), self.mlp("mask_decoder.iou_prediction_head", queries[0])

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for projection, x in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
            parts.append(
                self.linear(f"{name}.{projection}", x).reshape(len(x), self.heads, -1).transpose(0, 1)
            )
        weights = torch.softmax(parts[0] @ parts[1].transpose(1, 2) / math.sqrt(parts[0].shape[-1]), dim=-1)
        mixed = (weights @ parts[2]).transpose(0, 1).flatten(1)
        return self.linear(f"{name}.out_proj", mixed)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        for layer in range(3):
            x = self.linear(f"{name}.layers.{layer}", x)
            x = F.relu(x) if layer < 2 else x
        return x

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride=stride)

    def transposed(self, name: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride=2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def norm_channels(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-6)
        weight, bias = (self.weights[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("weight", "bias"))
        return scaled * weight + bias
