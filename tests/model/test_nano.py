"""nano: one graph for every image shape, prompts that do not disturb each other."""

from __future__ import annotations

import pytest
import torch
from small_nano import seeded_nano, wake_branches

from anymask.model.nano.decoder import Affinity
from anymask.model.nano.encoder import count_parameters
from anymask.model.nano.network import Nano, NanoConfig
from anymask.model.nano.prompt_maps import (
    MAP_CHANNELS,
    features_under_box,
    features_under_points,
    prompt_maps,
)


@pytest.fixture(scope="module")
def nano() -> Nano:
    """A seeded network in evaluation mode whose residual branches are not zero."""
    return seeded_nano(NanoConfig())


def _prompts(height: int, width: int, count: int, slots: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(count, slots, 2, generator=generator) * torch.tensor([width, height])
    labels = torch.randint(0, 2, (count, slots), generator=generator).float()
    mask = torch.randn(count, 1, height // 4, width // 4, generator=generator)
    return points, labels, mask, (torch.arange(count) % 2).float()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 512), (160, 96), (32, 32)])
def test_shapes_for_any_frame(nano: Nano, height: int, width: int) -> None:
    with torch.no_grad():
        features = nano.encode(torch.randn(1, 3, height, width))
        logits, scores = nano.decode(features, *_prompts(height, width, 3, 2))
    assert features["embedding"].shape == (1, 128, height // 16, width // 16)
    assert logits.shape == (3, 4, height // 4, width // 4)
    assert scores.shape == (3, 4)
    assert torch.isfinite(logits).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_prompts_in_one_call_equal_prompts_one_by_one(nano: Nano) -> None:
    features = {k: v.detach() for k, v in nano.encode(torch.randn(1, 3, 96, 128)).items()}
    prompts = _prompts(96, 128, 5, 3)
    with torch.no_grad():
        together = nano.decode(features, *prompts)
        for i in range(5):
            alone = nano.decode(features, *(p[i : i + 1] for p in prompts))
            torch.testing.assert_close(alone[0], together[0][i : i + 1], rtol=0, atol=1e-4)
            torch.testing.assert_close(alone[1], together[1][i : i + 1], rtol=0, atol=1e-5)


def test_padding_slots_change_nothing(nano: Nano) -> None:
    features = {k: v.detach() for k, v in nano.encode(torch.randn(1, 3, 96, 64)).items()}
    points, labels, mask, has_mask = _prompts(96, 64, 2, 2)
    padded_points = torch.cat([points, torch.full((2, 3, 2), 50.0)], dim=1)
    padded_labels = torch.cat([labels, -torch.ones(2, 3)], dim=1)
    with torch.no_grad():
        bare = nano.decode(features, points, labels, mask, has_mask)
        padded = nano.decode(features, padded_points, padded_labels, mask, has_mask)
    torch.testing.assert_close(bare[0], padded[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(bare[1], padded[1], rtol=0, atol=1e-5)


def test_shared_features_equal_repeated_features(nano: Nano) -> None:
    features = {k: v.detach() for k, v in nano.encode(torch.randn(1, 3, 64, 64)).items()}
    prompts = _prompts(64, 64, 3, 2)
    with torch.no_grad():
        shared = nano.decode(features, *prompts)
        repeated = nano.decode({k: v.repeat(3, 1, 1, 1) for k, v in features.items()}, *prompts)
    torch.testing.assert_close(shared[0], repeated[0], rtol=0, atol=1e-4)


def test_mask_input_counts_only_with_its_flag(nano: Nano) -> None:
    features = {k: v.detach() for k, v in nano.encode(torch.randn(1, 3, 64, 64)).items()}
    points, labels, mask, _ = _prompts(64, 64, 1, 1)
    with torch.no_grad():
        without = nano.decode(features, points, labels, torch.zeros_like(mask), torch.zeros(1))[0]
        ignored = nano.decode(features, points, labels, mask, torch.zeros(1))[0]
        used = nano.decode(features, points, labels, mask, torch.ones(1))[0]
    torch.testing.assert_close(without, ignored)
    assert (used - without).abs().max() > 1e-3


def test_every_parameter_learns(nano: Nano) -> None:
    torch.manual_seed(0)
    model = Nano().train()
    wake_branches(model)
    features = model.encode(torch.randn(2, 3, 64, 64))
    features = {k: v.repeat_interleave(2, 0) for k, v in features.items()}
    points = torch.rand(4, 3, 2) * 64
    labels = torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, -1.0], [2.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
    logits, scores = model.decode(features, points, labels, torch.randn(4, 1, 16, 16), torch.ones(4))
    (logits.square().mean() + scores.mean()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    # A constant added to every key leaves a softmax unchanged: key biases have no gradient by mathematics.
    # The affinity's scale and bias belong to its own loss.
    by_design = (".k.bias", "affinity.scale", "affinity.bias")
    assert [name for name in idle if not name.endswith(by_design)] == []


def test_maps_say_where_the_prompts_are() -> None:
    points = torch.tensor([[[20.0, 12.0], [52.0, 36.0]], [[16.0, 8.0], [48.0, 32.0]]])
    labels = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    maps = prompt_maps(points, labels, torch.zeros(2, 1, 16, 32), torch.zeros(2), 8, 16, 8)
    assert maps.shape == (2, MAP_CHANNELS, 8, 16)
    assert maps[0, 0].flatten().argmax() == 1 * 16 + 2  # foreground, narrowest: row 12 // 8, column 20 // 8
    assert maps[0, 3].flatten().argmax() == 4 * 16 + 6  # background: row 36 // 8, column 52 // 8
    inside = maps[1, 6] > 0.5
    expected = torch.zeros(8, 16, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert (inside == expected).all()
    assert (maps[0, 6:9] == 0).all()


def test_pooled_features_equal_direct_means() -> None:
    features = torch.randn(1, 5, 8, 10)
    box = torch.tensor([[16.0, 8.0, 64.0, 48.0]])
    pooled = features_under_box(features, box, 8)[0, 0]
    torch.testing.assert_close(pooled, features[0, :, 1:6, 2:8].mean((1, 2)), rtol=0, atol=0.2)  # soft edges
    centre = torch.tensor([[[8.0 * 3 + 4, 8.0 * 2 + 4]]])
    torch.testing.assert_close(features_under_points(features, centre, 8)[0, 0], features[0, :, 2, 3])
    between = centre + torch.tensor([4.0, 0.0])
    expected = (features[0, :, 2, 3] + features[0, :, 2, 4]) / 2
    torch.testing.assert_close(features_under_points(features, between, 8)[0, 0], expected)


def test_size_stays_small(nano: Nano) -> None:
    assert count_parameters(nano) * 4 < 20e6  # bytes in fp32: all ONNX files together stay under 20 MB


def test_affinity_is_the_cosine_to_what_lies_under_the_prompt() -> None:
    torch.manual_seed(0)
    affinity = Affinity(6, 4)
    skip8 = torch.randn(1, 6, 5, 7)
    points = torch.tensor([[[8.0 * 4 + 4, 8.0 * 2 + 4], [4.0, 4.0]], [[8.0, 8.0], [40.0, 32.0]]])
    labels = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    with torch.no_grad():
        maps = affinity(skip8, points, labels)
        looks = torch.nn.functional.normalize(affinity.project(skip8)[0].flatten(1), dim=0)
    cosine = looks.T @ looks  # of every pair of the 35 cells
    torch.testing.assert_close(maps[0, 0].flatten(), cosine[2 * 7 + 4], rtol=0, atol=1e-4)
    torch.testing.assert_close(maps[0, 1].flatten(), cosine[0], rtol=0, atol=1e-4)
    assert (maps[0, 2] == 0).all()
    assert (maps[1, :2] == 0).all()
    mean = features_under_box(looks.reshape(1, 4, 5, 7), torch.tensor([[8.0, 8.0, 40.0, 32.0]]), 8)[0, 0]
    expected = torch.nn.functional.normalize(mean, dim=0) @ looks
    torch.testing.assert_close(maps[1, 2].flatten(), expected, rtol=0, atol=1e-4)
