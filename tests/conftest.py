"""Small models with random weights, for whatever needs a real network and no quality; how hypothesis searches.

Hypothesis holds every example to 200 ms and every search for examples to some seconds on the clock on the wall, which
a machine that is busy with something else breaks for code of microseconds. Both are off; what a property promises is
its assertion alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from anymask.model.nano.network import Nano
    from anymask.model.sam.network import Sam

settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def random_nano() -> Nano:
    """A nano of some thousand parameters whose masks depend on image and prompts; frame of 128."""
    from small_nano import seeded_nano

    return seeded_nano()


@pytest.fixture(scope="session")
def nano_folder(random_nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random_nano` exported to ONNX."""
    from anymask.model.export.nano import export_nano

    folder = tmp_path_factory.mktemp("models") / "small"
    export_nano(random_nano, folder, "small")
    return folder


@pytest.fixture(scope="session")
def random_sam() -> Sam:
    """A SAM with every kind of layer and a frame of 128."""
    import torch

    from anymask.model.sam.network import build_sam
    from anymask.model.variants import TINY_TEST

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_sam(TINY_TEST).eval()
        for parameter in sam.image_encoder.parameters():  # positions start at zero
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    return sam
