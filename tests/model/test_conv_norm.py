"""Batch normalisations taken into their convolutions."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from anymask.model.light.conv_norm import ConvNorm, Fusible, absorb_norm, centred, fuse  # noqa: E402


def unsettled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation with statistics, scales and shifts far from those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.bias.data, part.weight.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            part.running_var.copy_(0.2 + 3 * torch.rand(part.running_var.shape, generator=generator))
    return module.eval()


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "groups"),
    [(6, 4, 1, 1, 1), (6, 6, 3, 1, 6), (6, 6, 3, 2, 6), (3, 8, 3, 2, 1), (4, 6, 5, 1, 2)],
)
@torch.no_grad()
def test_one_convolution_gives_what_both_give(channels, out, kernel, stride, groups):
    both = unsettled(ConvNorm(channels, out, kernel, stride, groups))
    x = torch.randn(2, channels, 9, 7)
    plain = F.conv2d(x, both.c.weight, None, stride, kernel // 2, groups=groups)
    bn = both.bn
    mean, var, weight, bias = (
        t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    expected = (plain - mean) / torch.sqrt(var + 1e-5) * weight + bias
    torch.testing.assert_close(both(x), expected, rtol=1e-5, atol=1e-5)
    one = both.fused()
    assert isinstance(one, nn.Conv2d)
    assert (one.stride, one.padding, one.groups) == ((stride,) * 2, (kernel // 2,) * 2, groups)
    torch.testing.assert_close(one(x), expected, rtol=1e-5, atol=1e-5)


def test_fuse_copies_and_leaves_the_network_alone():
    network = nn.Sequential(ConvNorm(3, 4, 3), nn.Sequential(nn.GELU(), ConvNorm(4, 2))).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse(network)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not fused.training
    assert not any(p.requires_grad for p in fused.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d | Fusible) for part in fused.modules())
    assert list(fused.state_dict()) == ["0.weight", "0.bias", "1.1.weight", "1.1.bias"]
    network[0].c.weight.data.zero_()
    assert bool(fused[0].weight.any())


def test_the_type_of_the_weights_is_kept():
    fused = fuse(nn.Sequential(ConvNorm(3, 4)).double())
    assert {tensor.dtype for tensor in fused.state_dict().values()} == {torch.float64}


def test_a_norm_without_statistics_cannot_be_taken_in():
    with pytest.raises(ValueError, match="running statistics"):
        absorb_norm(torch.ones(2, 1, 1, 1), None, nn.BatchNorm2d(2, track_running_stats=False))


def test_a_silent_branch_starts_at_zero():
    branch = ConvNorm(3, 4, first_scale=0.0).eval()
    assert float(branch(torch.randn(1, 3, 5, 5)).detach().abs().max()) == 0.0


def test_a_small_weight_in_the_middle_of_a_large_one_is_the_same_convolution():
    weight, x = torch.randn(4, 3, 1, 1), torch.randn(1, 3, 6, 5)
    torch.testing.assert_close(F.conv2d(x, centred(weight, 3), padding=1), F.conv2d(x, weight))
