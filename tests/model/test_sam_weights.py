"""Weights are whole, strict and undamaged, or they are refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct

import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402

from anymask.errors import ModelFormatError, OutputError, WeightsError  # noqa: E402
from anymask.model.families import load_network, save_network  # noqa: E402
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402
from anymask.model.weights import (  # noqa: E402
    file_sha256,
    load_strict,
    load_weights,
    read_weights,
    save_weights,
)


@pytest.fixture
def linear() -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(3, 2)


def _snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _unchanged(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_weights_come_back_bit_for_bit(tmp_path, linear):
    path = tmp_path / "w.safetensors"
    digest = save_weights(linear, path, {"recipe": "none"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
    other = torch.nn.Linear(3, 2)
    metadata = load_weights(other, path, sha256=digest.upper())
    assert metadata["recipe"] == "none"
    assert _unchanged(other, _snapshot(linear))
    # The ecosystem's own reader sees the same names.
    assert safetensors.torch.load_file(path).keys() == linear.state_dict().keys()


def test_the_same_weights_make_the_same_file(tmp_path, linear):
    facts = {"recipe": "none", "hours": "3", "date": "today"}
    first = save_weights(linear, tmp_path / "a", facts)
    again = [
        save_weights(linear.state_dict(), tmp_path / "b", dict(reversed(facts.items()))) for _ in range(8)
    ]
    assert set(again) == {first}


def test_views_and_shared_memory_are_saved_as_their_values(tmp_path):
    base = torch.arange(6.0)
    shared = {
        "a": base.reshape(2, 3).T,
        "b": base[1:4],
        "c": base,
        "empty": torch.zeros(0, 2),
        "one": torch.tensor(2.5),
    }
    save_weights(shared, tmp_path / "w")
    tensors, _ = read_weights(tmp_path / "w")
    assert tensors.keys() == shared.keys()
    assert all(torch.equal(tensors[name], shared[name]) for name in shared)


def test_a_byte_flipped_anywhere_is_refused(tmp_path, linear):
    """Every byte of the file, without a pinned digest: header, padding, names, metadata, values."""
    path = tmp_path / "w.safetensors"
    save_weights(linear, path, {"recipe": "none"})
    good = path.read_bytes()
    picks = random.Random(4)
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << picks.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(WeightsError):
            read_weights(path)
    path.write_bytes(good)
    read_weights(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1])
def test_a_cut_file_is_refused(tmp_path, linear, kept):
    path = tmp_path / "w"
    save_weights(linear, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="cannot read"):
        load_weights(linear, path)


def test_a_header_that_announces_a_giant_is_refused(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match="cannot read"):
        read_weights(tmp_path / "w")
    (tmp_path / "w").write_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(WeightsError, match="cannot read"):
        read_weights(tmp_path / "w")


def test_another_file_than_the_pinned_one_is_refused(tmp_path, linear):
    save_weights(linear, tmp_path / "w")
    with pytest.raises(WeightsError, match="should have 00ff"):
        load_weights(linear, tmp_path / "w", sha256="00ff")


def test_files_of_others_are_refused(tmp_path, linear):
    safetensors.torch.save_file(linear.state_dict(), tmp_path / "w")
    with pytest.raises(WeightsError, match="convert"):
        load_weights(linear, tmp_path / "w")


def test_no_file_is_a_clear_error(tmp_path, linear):
    for call in (lambda p: load_weights(linear, p), lambda p: load_weights(linear, p, "00"), load_network):
        with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
            call(tmp_path / "nowhere.safetensors")


def test_every_wrong_key_is_named_and_nothing_is_loaded():
    sam = build_sam(TINY_TEST)
    before = _snapshot(sam)
    state_dict = {name: tensor + 1 for name, tensor in before.items()}
    names = sorted(state_dict)
    missing, misshapen, retyped = names[3:40:6], names[1::40], names[2]
    for name in missing:
        del state_dict[name]
    for name in misshapen:
        state_dict[name] = torch.zeros(1, 2, 3, 4, 5)
    state_dict[retyped] = state_dict[retyped].long()
    unexpected = ["teapot.weight", "image_encoder.blocks.2.norm1.weight"]
    state_dict |= dict.fromkeys(unexpected, torch.zeros(1))
    with pytest.raises(WeightsError) as caught:
        load_strict(sam, state_dict)
    lines = {line.strip().split(" is ")[0] for line in str(caught.value).splitlines()[1:]}
    expected = {f"missing: {name}" for name in missing} | {f"unexpected: {name}" for name in unexpected}
    expected |= {f"misshapen: {name}" for name in [*misshapen, retyped]}
    assert lines == expected
    assert "(1, 2, 3, 4, 5), should be (" in str(caught.value)
    assert _unchanged(sam, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(linear, value):
    before = _snapshot(linear)
    bad = _snapshot(linear)
    bad["bias"][1] = value
    with pytest.raises(WeightsError, match="not finite: bias"):
        load_strict(linear, bad)
    assert _unchanged(linear, before)


def test_half_precision_is_widened(linear):
    load_strict(linear, {name: tensor.half() for name, tensor in _snapshot(linear).items()})
    assert linear.weight.dtype == torch.float32


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, linear, monkeypatch, call):
    path = tmp_path / "w"
    save_weights(linear, path)
    old = path.read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match="No space"):
        save_weights({"other": torch.zeros(1000)}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@torch.no_grad()
def test_a_sam_keeps_its_sizes(tmp_path):
    sam = build_sam(TINY_TEST)
    digest = save_network(sam, TINY_TEST, tmp_path / "sam")
    again, config = load_network(tmp_path / "sam", digest)
    assert config == TINY_TEST
    assert not again.training
    pixels = torch.rand(1, 3, 128, 96) * 255
    assert torch.equal(again.encode(pixels), sam.eval().encode(pixels))


@pytest.mark.parametrize(
    "text", ["no json", "[]", "{}", '{"name": 1}', '{"family": "sam"}', '{"family": "mas"}']
)
def test_a_file_without_sizes_is_no_sam(tmp_path, linear, text):
    save_weights(linear, tmp_path / "w", {"anymask.network": text})
    with pytest.raises(ModelFormatError, match="sizes"):
        load_network(tmp_path / "w")


def test_a_file_that_states_nothing_is_known_by_its_keys_or_refused(tmp_path, linear):
    save_weights(linear, tmp_path / "w", None)
    with pytest.raises(
        ModelFormatError, match=r"no checkpoint of a known family .*its keys start with bias, weight"
    ):
        load_network(tmp_path / "w")
