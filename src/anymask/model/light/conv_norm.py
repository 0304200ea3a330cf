"""A convolution with its batch normalisation, and how both become one for inference.

The published names are `c` (convolution, without bias) and `bn`. In evaluation a normalisation is a scale and a shift
per channel, which the weights can take in; `fuse` does that in a whole network. A fused network computes the same with
fewer steps, is not trained further and has no published names left, so it is made when a network is run or exported.

Source: LeViT (Graham et al., 2021), appendix "Fusing batch normalisation"; RepVGG (Ding et al., 2021), section 3.3.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Fusible(Protocol):
    """A module that knows a simpler one with the same answers in evaluation."""

    def fused(self) -> nn.Module:
        """The simpler module, with weights of its own."""
        ...


def fuse(network: Module) -> Module:
    """A copy of a network for inference, every `Fusible` part of it replaced; the network itself is left alone."""
    fused = copy.deepcopy(network).eval()
    _replace_parts(fused)
    return fused.requires_grad_(False)


def _replace_parts(module: nn.Module) -> None:
    for name, part in module.named_children():
        if isinstance(part, Fusible):
            setattr(module, name, part.fused())
        else:
            _replace_parts(part)


class ConvNorm(nn.Sequential):
    """Convolution (`c`) and batch normalisation (`bn`): B x C x H x W in and out, "same" padding for odd kernels."""

    c: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        first_scale: float = 1.0,
    ) -> None:
        """``first_scale`` is what the normalisation multiplies by before training: 0 where a branch starts silent."""
        super().__init__()
        self.add_module(
            "c", nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        )
        self.add_module("bn", nn.BatchNorm2d(out_channels))
        nn.init.constant_(self.bn.weight, first_scale)

    def fused(self) -> nn.Conv2d:
        """One convolution with bias."""
        weight, bias = absorb_norm(self.c.weight.double(), None, self.bn)
        return conv_of(self.c, weight, bias)


def absorb_norm(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (out x in x k x k) and bias (out) of a convolution that has taken in the normalisation after it."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch normalisation without running statistics cannot be taken in")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    shift = shift if bias is None else shift + bias * scale
    return weight * scale.reshape(-1, 1, 1, 1), shift


@torch.no_grad()
def conv_of(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with the strides, padding and groups of ``like`` and these weights."""
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        weight.shape[2:],  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        groups=like.groups,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv


def centred(weight: Tensor, kernel: int) -> Tensor:
    """A 1 x 1 weight in the middle of a ``kernel`` x ``kernel`` one of zeros."""
    return F.pad(weight, [kernel // 2] * 4)
