"""The priced-by-tokens forms of attention equal the textbook form."""

from __future__ import annotations

import pytest
import torch

from anymask.model.nano.attention import Attention
from anymask.model.nano.decoder import hide_padding

CHANNELS, HEADS, INNER, PLACES = 24, 4, 16, 35


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(3)
    return Attention(CHANNELS, HEADS, INNER).double()


@pytest.mark.parametrize("images", [1, 3])
def test_tokens_ask_places(attention: Attention, images: int) -> None:
    tokens, places, where = random(3, 6, CHANNELS), random(images, PLACES, CHANNELS), random(PLACES, CHANNELS)
    every = places.expand(3, -1, -1)
    expected = attention(tokens, every + where, every)
    torch.testing.assert_close(
        attention.few_ask_many(tokens, places, where), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("images", [1, 3])
def test_places_ask_tokens(attention: Attention, images: int) -> None:
    tokens, places, where = random(3, 7, CHANNELS), random(images, PLACES, CHANNELS), random(PLACES, CHANNELS)
    bias = hide_padding(torch.tensor([[1.0, 0.0, -1.0], [1.0, -1.0, -1.0], [2.0, 3.0, 1.0]])).double()
    expected = attention(places.expand(3, -1, -1) + where, tokens, tokens, bias)
    answer = attention.many_ask_few(places, where, tokens, bias)
    torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)


def test_hidden_tokens_change_no_place(attention: Attention) -> None:
    tokens, places, where = random(2, 6, CHANNELS), random(2, PLACES, CHANNELS), random(PLACES, CHANNELS)
    bias = hide_padding(torch.tensor([[1.0, -1.0], [0.0, -1.0]])).double()
    answer = attention.many_ask_few(places, where, tokens, bias)
    tokens[:, -1] = random(2, CHANNELS) * 10.0
    torch.testing.assert_close(attention.many_ask_few(places, where, tokens, bias), answer, rtol=0, atol=0)


def test_gradients_are_those_of_the_textbook_form(attention: Attention) -> None:
    """All parameters but the keys' bias, which adds the same to all scores of a token and so has none to speak of."""
    tokens, places, where = random(2, 5, CHANNELS), random(2, PLACES, CHANNELS), random(PLACES, CHANNELS)
    attention(tokens, places + where, places).square().sum().backward()
    expected = {name: p.grad for name, p in attention.named_parameters()}
    attention.zero_grad()
    attention.few_ask_many(tokens, places, where).square().sum().backward()
    for name, parameter in attention.named_parameters():
        if name == "k.bias":
            assert parameter.grad is None
            assert expected[name].abs().max() < 1e-12
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-9)
