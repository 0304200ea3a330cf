"""The image encoder against definitions written the long way."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")

from anymask.errors import ModelError  # noqa: E402
from anymask.model.layers import MLP, LayerNorm2d  # noqa: E402
from anymask.model.sam.image_encoder import (  # noqa: E402
    Attention,
    Block,
    ImageEncoder,
    join_windows,
    relative_positions,
    resize_positions,
    split_windows,
)
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def test_layer_norm_2d_normalises_each_pixel():
    norm = LayerNorm2d(5).double()
    x = 3 + 7 * torch.randn(2, 5, 4, 6, dtype=torch.float64)
    out = norm(x)
    assert torch.allclose(out.mean(1), torch.zeros(2, 4, 6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(out.var(1, unbiased=False), torch.ones(2, 4, 6, dtype=torch.float64), atol=1e-6)
    pixel = x[1, :, 2, 3]
    expected = (pixel - pixel.mean()) / (pixel.var(unbiased=False) + 1e-6).sqrt()
    assert torch.allclose(out[1, :, 2, 3], expected, atol=1e-12)


def test_mlp_has_relu_between_and_not_after():
    mlp = MLP(1, 1, 1, depth=2)
    with torch.no_grad():
        for layer in mlp.layers:
            layer.weight.fill_(-1.0)
            layer.bias.zero_()
    assert mlp(torch.tensor([[2.0], [-2.0]])).tolist() == [[0.0], [-2.0]]


@pytest.mark.parametrize(("h", "w", "size"), [(8, 8, 4), (8, 8, 3), (5, 7, 3), (2, 2, 14)])
def test_windows_are_tiles_and_come_back(h, w, size):
    x = torch.randn(2, h, w, 3)
    windows = split_windows(x, size)
    rows, columns = math.ceil(h / size), math.ceil(w / size)
    assert windows.shape == (2 * rows * columns, size, size, 3)
    padded = torch.zeros(2, rows * size, columns * size, 3)
    padded[:, :h, :w] = x
    for b in range(2):
        for r in range(rows):
            for c in range(columns):
                tile = padded[b, r * size : (r + 1) * size, c * size : (c + 1) * size]
                assert torch.equal(windows[(b * rows + r) * columns + c], tile)
    assert torch.equal(join_windows(windows, h, w), x)


def test_relative_positions_are_rows_by_query_minus_key():
    table = torch.randn(9, 2)
    seen = relative_positions(5, table)
    for q in range(5):
        for k in range(5):
            assert torch.equal(seen[q, k], table[q - k + 4])


@pytest.mark.parametrize("at_once", [1024, 6, 1])
@torch.no_grad()
def test_attention_is_its_definition(monkeypatch, at_once):
    """Loops over queries and keys in double precision; in one band of rows and in several."""
    monkeypatch.setattr("anymask.model.sam.image_encoder.QUERIES_AT_ONCE", at_once)
    attention = Attention(dim=6, num_heads=2, size=3).double()
    for parameter in attention.parameters():
        parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    x = torch.randn(1, 3, 3, 6, dtype=torch.float64)
    q, k, v = attention.qkv(x).reshape(9, 3, 2, 3).permute(1, 2, 0, 3)
    heads = torch.zeros(9, 2, 3, dtype=torch.float64)
    for head in range(2):
        for i in range(9):
            logits = torch.stack(
                [
                    q[head, i] @ k[head, j] / 3**0.5
                    + q[head, i] @ attention.rel_pos_h[i // 3 - j // 3 + 2]
                    + q[head, i] @ attention.rel_pos_w[i % 3 - j % 3 + 2]
                    for j in range(9)
                ]
            )
            heads[i, head] = logits.softmax(0) @ v[head]
    expected = attention.proj(heads.reshape(9, 6)).reshape(1, 3, 3, 6)
    assert torch.allclose(attention(x), expected, atol=1e-12)


@pytest.mark.parametrize(("window", "reached"), [(4, 16), (0, 64)])
@torch.no_grad()
def test_a_patch_is_seen_inside_its_window_only(window, reached):
    block = Block(dim=8, num_heads=2, mlp_dim=16, window_size=window, grid_size=8).double()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    changed = x.clone()
    changed[0, 1, 6] += torch.randn(8, dtype=torch.float64)
    touched = (block(x) != block(changed)).any(-1)[0]
    assert int(touched.sum()) == reached
    if window:
        assert touched[:4, 4:].all()


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    encoder = ImageEncoder(TINY_TEST).eval()
    pixels = torch.randn(3, 3, 128, 128)
    together = encoder(pixels)
    assert together.shape == (3, 32, 8, 8)
    for index in range(3):
        assert torch.allclose(encoder(pixels[index : index + 1])[0], together[index], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 3, 128, 64), (1, 1, 128, 128), (3, 128, 128)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ModelError, match="128"):
        ImageEncoder(TINY_TEST)(torch.zeros(shape))


@torch.no_grad()
def test_positions_can_be_moved_to_another_image_size():
    sam = build_sam(TINY_TEST)
    state_dict = sam.state_dict()
    same = resize_positions(state_dict, TINY_TEST)
    assert all(same[name] is tensor for name, tensor in state_dict.items())

    larger = dataclasses.replace(TINY_TEST, image_size=192)
    ramp = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 8, 24)
    state_dict["image_encoder.pos_embed"] = ramp
    resized = resize_positions(state_dict, larger)
    moved = resized["image_encoder.pos_embed"]
    # Cell centres of the new grid on the old ramp; the half cell outside the old centres is held.
    expected = ((torch.arange(12.0) + 0.5) * 8 / 12 - 0.5).clamp(0, 7)
    assert torch.allclose(moved[0, 1:-1, 0, 0], expected[1:-1], atol=1e-5)
    assert moved.shape == (1, 12, 12, 24)
    other = build_sam(larger)
    other.load_state_dict(resized, strict=True)
    assert other.encode(torch.zeros(1, 3, 192, 100)).shape == (1, 32, 12, 12)
