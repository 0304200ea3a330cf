"""TinyViT's parts against their definitions written out; the published network is in tests/parity."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from seeded_networks import seeded_weights, uniform  # noqa: E402

from anymask.errors import ModelError  # noqa: E402
from anymask.model.light.conv_norm import fuse  # noqa: E402
from anymask.model.light.tiny_vit import TinyVit, TinyVitBlock, WindowAttention, window_places  # noqa: E402


def small_encoder(image_size: int = 64) -> TinyVit:
    encoder = TinyVit(image_size, (8, 12, 16, 24), (1, 2, 2, 1), (1, 2, 2, 3), (9, 3, 4, 3), out_dim=20)
    encoder.load_state_dict(seeded_weights(encoder.state_dict(), seed=1))
    return encoder.eval()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_places_are_numbered_as_the_published_code_meets_them(size):
    """Distances (|dy|, |dx|) get numbers in the order in which pairs of cells show them."""
    cells = [(y, x) for y in range(size) for x in range(size)]
    numbers: dict[tuple[int, int], int] = {}
    expected = []
    for y, x in cells:
        for v, u in cells:
            expected.append(numbers.setdefault((abs(y - v), abs(x - u)), len(numbers)))
    assert window_places(size).flatten().tolist() == expected
    assert len(numbers) == size**2


@torch.no_grad()
def test_attention_is_the_formula():
    attention = WindowAttention(dim=12, num_heads=3, window_size=2).eval()
    attention.load_state_dict(seeded_weights(attention.state_dict(), seed=2))
    x = uniform(2, "windows", (5, 4, 12))
    normed = torch.nn.functional.layer_norm(x, (12,), attention.norm.weight, attention.norm.bias, 1e-5)
    qkv = normed @ attention.qkv.weight.T + attention.qkv.bias
    heads = []
    for head in range(3):
        q, k, v = qkv[..., 12 * head : 12 * (head + 1)].split(4, dim=-1)
        scores = torch.empty(5, 4, 4)
        for i in range(4):
            for j in range(4):
                distance = 2 * abs(i // 2 - j // 2) + abs(i % 2 - j % 2)
                bias = attention.attention_biases[head, distance]
                scores[:, i, j] = (q[:, i] * k[:, j]).sum(-1) / 2 + bias
        heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v)
    expected = torch.cat(heads, -1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_loaded_in_evaluation_count_at_once():
    attention = WindowAttention(dim=12, num_heads=3, window_size=2).eval()
    x = uniform(2, "windows", (5, 4, 12))
    without = attention(x)
    attention.attention_biases.copy_(uniform(2, "biases", (3, 4)))
    assert float((attention(x) - without).abs().max()) > 1e-3


@torch.no_grad()
def test_windows_do_not_see_each_other_beyond_the_local_convolution():
    """A change in one window reaches no cell farther than one from it; padding is not left out of the last window."""
    block = TinyVitBlock(dim=8, num_heads=2, window_size=4)
    block.load_state_dict(seeded_weights(block.state_dict(), seed=3))
    block.eval()
    x = uniform(3, "map", (1, 8, 6, 10))
    changed = x.clone()
    changed[:, :3, 1, 1] += 1
    moved = (block(changed) - block(x)).abs().amax((0, 1)) > 1e-5
    assert bool(moved[:5, :5].all())
    assert not bool(moved[5:].any())
    assert not bool(moved[:, 5:].any())


@pytest.mark.parametrize("size", [(6, 10), (8, 4), (3, 3)])
@torch.no_grad()
def test_the_inference_form_of_a_block_is_the_same_function(size: tuple[int, int]) -> None:
    """Run and traced, with windows that are padded, whole, and larger than the map; shifts and biases all count."""
    block = TinyVitBlock(dim=12, num_heads=3, window_size=4).eval()
    block.load_state_dict(seeded_weights(block.state_dict(), seed=3))
    generator = torch.Generator().manual_seed(4)
    for parameter in (block.attn.norm.bias, block.attn.qkv.bias, block.attn.attention_biases):
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = uniform(3, "map", (2, 12, *size))
    expected, fused = block(x), block.fused()
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)
    traced = torch.jit.trace(fused, (x[:1],))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(x), expected, rtol=1e-5, atol=1e-5)
    block.attn.qkv.bias.add_(0.5)
    assert float((block(x) - expected).abs().max()) > 1e-3


@torch.no_grad()
def test_fused_encoder_gives_the_same_embedding():
    encoder = small_encoder()
    pixels = uniform(4, "pixels", (2, 3, 64, 64))
    embedding = encoder(pixels)
    assert embedding.shape == (2, 20, 4, 4)
    assert float(embedding.abs().max()) > 1
    fused = fuse(encoder)
    assert float((fused(pixels) - embedding).abs().max()) <= 1e-5
    assert not [name for name in fused.state_dict() if ".bn." in name]


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    encoder = small_encoder()
    pixels = uniform(5, "pixels", (2, 3, 64, 64))
    alone = torch.cat([encoder(pixels[:1]), encoder(pixels[1:])])
    torch.testing.assert_close(encoder(pixels), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 64, 32), (3, 64, 64), (1, 4, 64, 64), (1, 3, 96, 96)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ModelError, match="image encoder takes B x"):
        small_encoder()(torch.zeros(shape))


def test_it_trains():
    encoder = small_encoder().train()
    encoder(uniform(6, "pixels", (2, 3, 64, 64))).square().sum().backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert set(still) == {"norm_head.weight", "norm_head.bias", "head.weight", "head.bias"}
