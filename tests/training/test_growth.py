"""A grown network answers as the one it came from, and its new blocks learn."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_nano import SMALL_NANO

from anymask.errors import WeightsError
from anymask.model.nano.network import Nano, NanoConfig
from anymask.training.growth import load_grown


def _deeper(config: NanoConfig, more: tuple[int, int, int, int]) -> NanoConfig:
    blocks = tuple(a + b for a, b in zip(config.encoder.blocks, more, strict=True))
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, blocks=blocks))


def _trained() -> Nano:
    """A network whose every weight and running mean is away from its start."""
    torch.manual_seed(0)
    model = Nano(SMALL_NANO)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dtype.is_floating_point:
                value.add_(torch.rand_like(value) * 0.1)
    return model


def test_a_grown_network_answers_the_same_and_its_new_blocks_have_gradients() -> None:
    small, large = _trained(), Nano(_deeper(SMALL_NANO, (1, 0, 2, 2)))
    assert load_grown(large, small.state_dict()) == 5
    pixels, points, labels = torch.randn(1, 3, 64, 96), torch.tensor([[[30.0, 20.0]]]), torch.ones(1, 1)
    with torch.no_grad():
        before, after = small.eval()(pixels, points, labels), large.eval()(pixels, points, labels)
    for seen, expected in zip(after, before, strict=True):
        torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)
    logits, _ = large.train()(pixels.repeat(2, 1, 1, 1)[:1], points, labels)
    logits.square().mean().backward()
    last = large.image_encoder.stage32[-1].lin2.weight.grad
    assert last is not None
    assert float(last.abs().sum()) > 0


def test_weights_of_the_same_size_load_as_they_are() -> None:
    small, again = _trained(), Nano(SMALL_NANO)
    assert load_grown(again, small.state_dict()) == 0
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in small.state_dict().items())


def test_anything_else_that_is_missing_is_named() -> None:
    weights = _trained().state_dict()
    del weights["mask_decoder.affinity.scale"]
    with pytest.raises(WeightsError, match=r"missing: mask_decoder\.affinity\.scale"):
        load_grown(Nano(_deeper(SMALL_NANO, (0, 1, 0, 0))), weights)
    with pytest.raises(WeightsError, match="unexpected"):  # a smaller network cannot hold a larger one
        load_grown(Nano(SMALL_NANO), Nano(_deeper(SMALL_NANO, (0, 0, 1, 0))).state_dict())
