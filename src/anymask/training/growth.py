"""A deeper nano from a trained one: the new blocks start as the identity, so nothing that was learned is lost.

Chen et al., "Net2Net", 2016, for residual blocks: a block whose last layer gives zero adds nothing, and learns at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from anymask.errors import WeightsError
from anymask.model.nano.encoder import GlobalBlock
from anymask.model.nano.network import Nano
from anymask.model.weights import load_strict

_STAGE_BLOCK = re.compile(r"image_encoder\.(stage\d+)\.([1-9]\d*)\.")


@torch.no_grad()
def load_grown(model: Nano, tensors: Mapping[str, Tensor], origin: str = "the state dict") -> int:
    """Fill ``model`` from weights of the same network with as many or fewer blocks in the encoder's stages.

    Blocks are matched from the first; those that the weights lack follow them and start as the identity.

    Args:
        model: a fresh network.
        tensors: a state dict of a nano.
        origin: where they come from, for the message.

    Returns:
        The number of new blocks.

    Raises:
        WeightsError: the weights do not fit for another reason than missing blocks; all keys are named.
    """
    known = {match[0] for name in tensors if (match := _STAGE_BLOCK.match(name))}
    expected = {match[0] for name in model.state_dict() if (match := _STAGE_BLOCK.match(name))}
    fresh = expected - known
    for name, module in model.named_modules():
        if f"{name}." in fresh:
            _quieten(module)
    whole = {k: v for k, v in model.state_dict().items() if k.startswith(tuple(fresh))} if fresh else {}
    if clash := sorted(set(whole) & set(tensors)):
        raise WeightsError(f"{origin} holds parts of new blocks: {clash}")
    load_strict(model, {**whole, **tensors}, origin=origin)
    return len(fresh)


def _quieten(block: torch.nn.Module) -> None:
    """Make a residual block the identity (a convolution block is born as one)."""
    if isinstance(block, GlobalBlock):
        for layer in (block.position, block.proj, block.lin2):
            for parameter in layer.parameters():
                torch.nn.init.zeros_(parameter)
