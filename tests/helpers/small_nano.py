"""A nano of some thousand parameters: every kind of layer, little work."""

from __future__ import annotations

import torch

from anymask.model.nano.decoder import NanoDecoderConfig
from anymask.model.nano.encoder import NanoEncoderConfig
from anymask.model.nano.network import Nano, NanoConfig

SMALL_NANO = NanoConfig(
    128,
    NanoEncoderConfig(
        stem_channels=8,
        channels=(8, 16, 24, 32),
        blocks=(1, 1, 1, 1),
        heads=2,
        embedding_channels=32,
        skip8_channels=16,
        skip4_channels=8,
    ),
    NanoDecoderConfig(depth=2, heads=2, mlp=32, map_hidden=8),
)


def wake_branches(model: torch.nn.Module) -> None:
    """Fresh batch norms hide their residual branch behind a zero; give them weight and statistics."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            assert module.running_mean is not None
            module.running_mean.normal_(0.0, 0.1)


def seeded_nano(config: NanoConfig = SMALL_NANO) -> Nano:
    """Seeded random weights whose masks depend on image and prompts, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        nano = Nano(config)
        wake_branches(nano)
        decoder = nano.mask_decoder
        with torch.no_grad():  # fresh ones answer all or nothing, whatever the prompt
            for layer in (decoder.map_to_skip8, decoder.to8, decoder.to4):
                layer.weight.mul_(1.5)
            torch.nn.init.zeros_(decoder.to4.bias)
            for net in decoder.hypernetworks:
                assert isinstance(net, torch.nn.Sequential)
                torch.nn.init.normal_(net[-1].weight, std=0.5)
                torch.nn.init.zeros_(net[-1].bias)
    return nano.eval()
