"""The last step of `anymask.model.sam.fast_decoder`: from tokens and the images of prompts to the logits of masks.

Transposed convolutions of stride 2 are matrix products; the mask tokens' product is taken before pixels are shuffled.
Axis letters as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.layers import MLP, LayerNorm2d
from anymask.model.sam.image_rows import ImageRows
from anymask.model.sam.mask_decoder import MaskDecoder


class MaskReading(nn.Module):
    """Made from a decoder, of which it keeps copies; ``shift`` (C) is what the transformer's last norm adds."""

    up1: Tensor
    up1_bias: Tensor
    up2: Tensor
    up2_bias: Tensor

    def __init__(self, decoder: MaskDecoder, shift: Tensor) -> None:
        super().__init__()
        self.num_masks = decoder.num_masks
        upscaling = cast(Sequence[Any], decoder.output_upscaling)
        first, second = upscaling[0], upscaling[3]
        self.norm = cast(LayerNorm2d, upscaling[1])
        self._keep("up1", as_product(first))
        self._keep("up1_bias", first.bias.repeat(4) + shift @ self.up1)
        self._keep("up2", as_product(second))
        self._keep("up2_bias", second.bias.repeat(4))
        networks = [cast(MLP, network) for network in decoder.output_hypernetworks_mlps]
        self.hyper_depth = len(networks[0].layers)
        for index, layers in enumerate(zip(*(network.layers for network in networks), strict=True)):
            self._keep(f"hyper{index}", torch.stack([layer.weight.t() for layer in layers]))
            self._keep(f"hyper{index}_bias", torch.stack([layer.bias[None] for layer in layers]))

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.detach().contiguous(), persistent=False)

    def forward(self, tokens: Tensor, image: ImageRows, shared: Tensor, h: int, w: int) -> Tensor:
        """Tokens B x T x C and images of h w cells -> logits B x M x 4h x 4w; shared as `upscale`."""
        return self.read_masks(tokens, self.upscale(image, shared), h, w)

    def upscale(self, image: ImageRows, shared: Tensor) -> Tensor:
        """The image at four times the resolution, B x 4 L x 4 C/8.

        The second axis runs over cells and the 2 x 2 pixels of each; the third over the 2 x 2 pixels of those, and
        channels. shared: L x 4 C/4, the shared image under the first transposed convolution.
        """
        assert image.rows is not None
        assert image.weights is not None
        assert image.scale is not None
        norm = self.norm
        channels = norm.weight.shape[0]
        coarse = image.rows.transpose(1, 2) @ (image.weights @ self.up1) + shared
        coarse = coarse * image.scale.transpose(1, 2) + self.up1_bias
        coarse = coarse.reshape(coarse.shape[0], -1, channels)
        coarse = F.gelu(F.layer_norm(coarse, (channels,), norm.weight, norm.bias, norm.eps))
        return F.gelu(coarse @ self.up2 + self.up2_bias)

    def read_masks(self, tokens: Tensor, pixels: Tensor, h: int, w: int) -> Tensor:
        """Tokens B x T x C and what `upscale` gave of h w cells -> logits B x M x 4h x 4w."""
        masks = self.num_masks
        x = tokens[:, 1 : 1 + masks].transpose(0, 1)  # M x B x C
        for index in range(self.hyper_depth):
            x = x @ getattr(self, f"hyper{index}") + getattr(self, f"hyper{index}_bias")
            x = x if index == self.hyper_depth - 1 else F.relu(x)
        channels = pixels.reshape(pixels.shape[0], 16 * h * w, -1).transpose(1, 2)
        logits = (x.transpose(0, 1) @ channels).reshape(-1, masks, h, w, 2, 2, 2, 2)
        return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(-1, masks, 4 * h, 4 * w)


def as_product(convolution: nn.Module) -> Tensor:
    """Transposed convolution of stride and side 2 -> C x (2 2 C'), of pixels down, across, and channels."""
    weight = cast(nn.ConvTranspose2d, convolution).weight
    return weight.detach().permute(0, 2, 3, 1).flatten(1)
