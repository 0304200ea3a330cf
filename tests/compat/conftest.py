"""A small SAM whose masks depend on image and prompts, plain and under the published signatures."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from anymask.compat.modeling import Sam as CompatSam
    from anymask.model.sam.network import Sam


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "sam_parity.py"
    spec = importlib.util.spec_from_file_location("sam_parity", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sam_parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by threads."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def core_sam() -> Sam:
    """Every parameter random, a frame of 128, logits of both signs."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from anymask.model.variants import TINY_TEST

    sam: Sam = _benchmark().randomised_sam(TINY_TEST, seed=3)
    return sam


@pytest.fixture(scope="session")
def sam(core_sam: Sam) -> CompatSam:
    """`core_sam` under the published signatures."""
    from anymask.compat.modeling import Sam
    from anymask.model.variants import TINY_TEST

    return Sam.of(copy.deepcopy(core_sam), TINY_TEST).eval()  # backends freeze what they run


@pytest.fixture(scope="session")
def peer(core_sam: Sam) -> Any:
    """The published predictor written down plainly, with the same weights."""
    from plain_predictor import PlainPredictor

    from anymask.model.variants import TINY_TEST

    weights = {name: tensor.clone() for name, tensor in core_sam.state_dict().items()}
    return PlainPredictor(weights, core_sam.image_encoder, TINY_TEST.image_size, TINY_TEST.decoder_heads)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """Blocks of colour on a gradient, 100 x 160."""
    from block_pictures import make_picture

    return make_picture(100, 160)
