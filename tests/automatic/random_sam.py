"""A SAM of random weights as a segmenter, and its twin in transformers."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from anymask.model.variants import TINY_TEST
from anymask.predict.segmenter import Segmenter
from anymask.runtime.torch_backend import TorchBackend

SEED = 8
THRESHOLD = 3.0
"""At the published 0 the masks of this model all reach to the image's edges."""


def _sam_parity() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "sam_parity.py"
    spec = importlib.util.spec_from_file_location("sam_parity", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sam_parity"] = module
    spec.loader.exec_module(module)
    return module


class _Cut:
    """A backend with another threshold."""

    def __init__(self, backend: TorchBackend, threshold: float) -> None:
        self.spec = dataclasses.replace(backend.spec, mask_threshold=threshold)
        self.encode, self.decode = backend.encode, backend.decode


def random_sam() -> Any:
    """Every parameter random, positions included."""
    return _sam_parity().randomised_sam(TINY_TEST, seed=SEED)


def segmenter_of(sam: Any) -> Segmenter:
    """The SAM behind the package's door, cut at `THRESHOLD`."""
    return Segmenter(_Cut(TorchBackend(sam, TINY_TEST), THRESHOLD))


def twin_of(sam: Any) -> Any:
    """transformers' `SamModel` with the same weights."""
    return _sam_parity().transformers_peer(sam, TINY_TEST)
