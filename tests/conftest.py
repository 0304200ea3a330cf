"""Small models with random weights, for whatever needs a real network and no quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anymask.model.nano import Nano
    from anymask.model.sam import Sam


@pytest.fixture(scope="session")
def random_nano() -> Nano:
    """A nano of some thousand parameters whose masks depend on image and prompts; frame of 128."""
    import torch

    from anymask.model.nano import Nano, NanoConfig
    from anymask.model.nano_decoder import NanoDecoderConfig
    from anymask.model.nano_encoder import NanoEncoderConfig

    encoder = NanoEncoderConfig(
        stem_channels=8,
        channels=(8, 16, 24, 32),
        blocks=(1, 1, 1, 1),
        heads=2,
        embedding_channels=32,
        skip8_channels=16,
        skip4_channels=8,
    )
    decoder = NanoDecoderConfig(depth=2, heads=2, mlp=32, map_hidden=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nano = Nano(NanoConfig(128, encoder, decoder))
        for module in nano.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones hide their branch behind a zero
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
                assert module.running_mean is not None
                module.running_mean.normal_(0.0, 0.1)
        for net in nano.mask_decoder.hypernetworks:  # fresh ones answer almost nothing
            assert isinstance(net, torch.nn.Sequential)
            torch.nn.init.normal_(net[-1].weight, std=1.0)
    return nano.eval()


@pytest.fixture(scope="session")
def nano_folder(random_nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random_nano` exported to ONNX."""
    from anymask.model.export import export_nano

    folder = tmp_path_factory.mktemp("models") / "small"
    export_nano(random_nano, folder, "small")
    return folder


@pytest.fixture(scope="session")
def random_sam() -> Sam:
    """A SAM with every kind of layer and a frame of 128."""
    import torch

    from anymask.model.sam import build_sam
    from anymask.model.variants import TINY_TEST

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_sam(TINY_TEST).eval()
        for parameter in sam.image_encoder.parameters():  # positions start at zero
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    return sam
