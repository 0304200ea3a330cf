"""RepViT's parts against their definitions written out; the published networks are in tests/parity."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from seeded_networks import seeded_weights, uniform  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from anymask.errors import ModelError  # noqa: E402
from anymask.model.light.conv_norm import fuse  # noqa: E402
from anymask.model.light.repvit import (  # noqa: E402
    BranchesOfNorms,
    BranchesThenNorm,
    JoinedRepVit,
    RepVit,
    SqueezeExcite,
    squeezes,
)


def seeded(module: nn.Module, seed: int) -> nn.Module:
    module.load_state_dict(seeded_weights(module.state_dict(), seed))
    return module.eval()


def small_encoder(kind: type[nn.Module]) -> nn.Module:
    return seeded(kind(64, (8, 16, 24, 32), (3, 1, 2, 2), 20), seed=1)


def normed(x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
    mean, var, weight, bias = (
        t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize(
    ("depth", "published"),
    [(2, "10"), (3, "100"), (7, "1010100"), (15, "101010101010100"), (35, "10" * 17 + "0")],
)
def test_squeezing_blocks_are_those_of_the_published_tables(depth, published):
    """The column SE of the published tables of M1 (3, 3, 15, 2) and M2.3 (7, 7, 35, 2)."""
    assert "".join(str(int(squeeze)) for squeeze in squeezes(depth)) == published


@pytest.mark.parametrize(
    ("channels", "inner"), [(48, 16), (96, 24), (192, 48), (384, 96), (80, 24), (160, 40), (320, 80), (8, 8)]
)
def test_inner_width_of_squeeze_and_excitation(channels, inner):
    assert SqueezeExcite(channels).fc1.weight.shape == (inner, channels, 1, 1)


@torch.no_grad()
def test_squeeze_and_excitation_is_the_formula():
    module = seeded(SqueezeExcite(16), seed=2)
    x = uniform(2, "map", (2, 16, 5, 4)) + 0.5
    mean = x.flatten(2).mean(2)
    hidden = (mean @ module.fc1.weight[:, :, 0, 0].T + module.fc1.bias).clamp(min=0)
    shares = 1 / (1 + (-(hidden @ module.fc2.weight[:, :, 0, 0].T + module.fc2.bias)).exp())
    torch.testing.assert_close(module(x), x * shares[:, :, None, None], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_branches_then_norm():
    module = seeded(BranchesThenNorm(6), seed=3)
    x = uniform(3, "map", (2, 6, 7, 5))
    wide = normed(F.conv2d(x, module.conv.c.weight, padding=1, groups=6), module.conv.bn)
    narrow = x * module.conv1.weight.reshape(6, 1, 1) + module.conv1.bias.reshape(6, 1, 1)
    expected = normed(wide + narrow + x, module.bn)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(module.fused(), nn.Conv2d)
    torch.testing.assert_close(module.fused()(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_branches_of_norms():
    module = seeded(BranchesOfNorms(6), seed=4)
    x = uniform(4, "map", (2, 6, 7, 5))
    wide = normed(F.conv2d(x, module.conv.c.weight, padding=1, groups=6), module.conv.bn)
    narrow = normed(x * module.conv1.c.weight.reshape(6, 1, 1), module.conv1.bn)
    torch.testing.assert_close(module(x), wide + narrow + x, rtol=1e-5, atol=1e-5)
    assert isinstance(module.fused(), nn.Conv2d)
    torch.testing.assert_close(module.fused()(x), wide + narrow + x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [RepVit, JoinedRepVit])
@torch.no_grad()
def test_fused_encoder_gives_the_same_embedding(kind):
    encoder = small_encoder(kind)
    pixels = uniform(5, "pixels", (2, 3, 64, 64))
    embedding = encoder(pixels)
    assert embedding.shape == (2, 20, 4, 4)
    assert float(embedding.abs().max()) > 1
    fused = fuse(encoder)
    assert float((fused(pixels) - embedding).abs().max()) <= 1e-5
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())


@torch.no_grad()
def test_the_two_encoders_join_their_stages_differently():
    pixels = uniform(6, "pixels", (1, 3, 64, 64))
    sizes: dict[str, list[int]] = {}
    for kind in (RepVit, JoinedRepVit):
        encoder = small_encoder(kind)
        seen = sizes.setdefault(kind.__name__, [])
        for feature in encoder.features:
            feature.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.shape[-1]))
        encoder(pixels)
    stages = [16] * 4 + [8] * 2 + [4] * 3
    assert sizes == {"RepVit": stages + [4] * 3, "JoinedRepVit": stages + [2] * 3}


@torch.no_grad()
def test_joined_stages_are_the_third_and_the_doubled_fourth():
    encoder = small_encoder(JoinedRepVit)
    pixels = uniform(7, "pixels", (1, 3, 64, 64))
    kept = []
    for index in (8, 11):
        encoder.features[index].register_forward_hook(lambda _, __, out: kept.append(out))
    embedding = encoder(pixels)
    third = F.conv2d(kept[0], encoder.fuse_stage2.weight)
    fourth = F.conv2d(kept[1], encoder.fuse_stage3.op_list[0].weight)
    doubled = F.interpolate(fourth, size=(4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder.neck(third + doubled), embedding, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [RepVit, JoinedRepVit])
@pytest.mark.parametrize("shape", [(1, 3, 64, 32), (3, 64, 64), (1, 4, 64, 64)])
def test_other_sizes_are_refused(kind, shape):
    with pytest.raises(ModelError, match="image encoder takes B x"):
        small_encoder(kind)(torch.zeros(shape))


@pytest.mark.parametrize("kind", [RepVit, JoinedRepVit])
def test_it_trains(kind):
    encoder = small_encoder(kind).train()
    encoder(uniform(8, "pixels", (2, 3, 64, 64))).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
