"""The torch engine encodes pictures together as it does one by one."""

from __future__ import annotations

import numpy as np
import pytest

from anymask.automatic.encoding import EncodesMany
from anymask.errors import ModelError

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_pictures_encoded_together_are_those_encoded_alone() -> None:
    from anymask.model.nano.network import Nano
    from anymask.runtime.torch_backend import TorchBackend

    backend = TorchBackend(Nano())
    assert isinstance(backend, EncodesMany)
    assert backend.images_per_encode == 1  # on a CPU
    pixels = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    together = backend.encode_many(pixels)
    assert len(together) == 3
    for one, features in zip(pixels, together, strict=True):
        alone = backend.encode(one[None])
        assert sorted(alone) == sorted(features)
        for name, array in alone.items():
            assert features[name].shape == array.shape
            np.testing.assert_allclose(features[name], array, rtol=0, atol=1e-4)
    with pytest.raises(ModelError):
        backend.encode_many(pixels.astype(np.float64))
