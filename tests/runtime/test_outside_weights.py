"""Weights beside a graph: only the ones the manifest vouches for, and never by a path."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported_sam import change_manifest
from onnx import TensorProto, helper, numpy_helper

from anymask.errors import AnymaskError, ModelFormatError, NotFoundError, WeightsError
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime.backend import Backend
from anymask.runtime.manifest import read_manifest
from anymask.runtime.onnx_backend import OnnxBackend, verified_graphs
from anymask.runtime.onnx_format import outside_tensors, with_inputs_for
from anymask.runtime.openvino_backend import OpenVinoBackend
from anymask.runtime.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def folder(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with all weights outside."""
    from anymask.model.export.network import export_network

    path = tmp_path_factory.mktemp("outside") / "sam"
    export_network(random_sam, TINY_TEST, path, inside_bytes=0)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "sam"))


def put(folder: Path, name: str, data: bytes) -> None:
    """Other bytes, with a manifest that vouches for them."""
    (folder / name).write_bytes(data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(folder, lambda manifest: manifest["files"].update({name: facts}))


def open_all(folder: Path) -> list[Backend]:
    return [OnnxBackend(folder, threads=1), OpenVinoBackend(folder, threads=1)]


def refused(folder: Path, kind: type[AnymaskError], match: str | None = None) -> None:
    for opener in (OnnxBackend, OpenVinoBackend):
        with pytest.raises(kind, match=match) as error:
            opener(folder, threads=1)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 900


def test_all_engines_share_the_networks_digest(folder: Path, random_sam: Sam) -> None:
    digests = {backend.spec.digest for backend in (*open_all(folder), TorchBackend(random_sam, TINY_TEST))}
    assert len(digests) == 1


def test_a_flipped_byte_anywhere_in_the_weights(copy: Path) -> None:
    whole = (copy / "encoder.weights").read_bytes()
    for place in (0, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 12)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (copy / "encoder.weights").write_bytes(damaged)
        with pytest.raises(WeightsError, match="SHA-256"):
            OnnxBackend(copy)


@pytest.mark.parametrize("change", ["cut", "longer", "gone"])
def test_weights_of_another_length(copy: Path, change: str) -> None:
    file = copy / "decoder.weights"
    whole = file.read_bytes()
    file.unlink()
    if change != "gone":
        file.write_bytes(whole[:-1] if change == "cut" else whole + b"\0")
    refused(copy, NotFoundError if change == "gone" else WeightsError)


def test_weights_that_the_manifest_does_not_name_are_not_followed(copy: Path) -> None:
    change_manifest(copy, lambda manifest: manifest["files"].pop("encoder.weights"))
    refused(copy, ModelFormatError, "other files")


def changed(folder: Path, change: Callable[[TensorProto], Any]) -> bytes:
    """The encoder with its largest outside weight changed."""
    model = onnx.load(str(folder / "encoder.onnx"), load_external_data=False)
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    change(max(outside, key=lambda t: int(np.prod(t.dims))))
    return model.SerializeToString()


def entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        for item in tensor.external_data:
            if item.key == key:
                item.value = value

    return change


HOSTILE: dict[str, Callable[[TensorProto], Any]] = {
    "another file": entry("location", "/etc/passwd"),
    "climbing": entry("location", "../encoder.weights"),
    "the other weights": entry("location", "decoder.weights"),
    "beyond the end": entry("offset", str(1 << 40)),
    "negative": entry("offset", "-4"),
    "odd offset": entry("offset", "2"),
    "no number": entry("offset", "0x10"),
    "huge number": entry("offset", "9" * 30),
    "shorter": entry("length", "4"),
    "no length": lambda t: [t.external_data.remove(e) for e in list(t.external_data) if e.key == "length"],
    "another type": lambda t: setattr(t, "data_type", TensorProto.DOUBLE),
    "huge side": lambda t: t.dims.append(1 << 31),
    "side of zero": lambda t: t.dims.append(0),
    "negative side": lambda t: t.dims.append(-1),
    "many axes": lambda t: t.dims.extend([1] * 20),
    "values too": lambda t: setattr(t, "raw_data", b"1234"),
    "no name": lambda t: setattr(t, "name", ""),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_outside_weights_that_are_not_plain_are_refused(copy: Path, name: str) -> None:
    put(copy, "encoder.onnx", changed(copy, HOSTILE[name]))
    with pytest.raises(ModelFormatError):
        OnnxBackend(copy)


def test_outside_weights_hidden_deeper_are_refused(copy: Path) -> None:
    model = onnx.load(str(copy / "encoder.onnx"), load_external_data=False)
    bad = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=bad))
    put(copy, "encoder.onnx", model.SerializeToString())
    refused(copy, ModelFormatError, "other files")


def test_two_weights_of_one_name_are_refused(copy: Path) -> None:
    model = onnx.load(str(copy / "encoder.onnx"), load_external_data=False)
    model.graph.initializer.append(
        next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    )
    put(copy, "encoder.onnx", model.SerializeToString())
    refused(copy, ModelFormatError, "one name")


def test_the_tensors_found_are_those_that_onnx_finds(folder: Path) -> None:
    """Names, shapes and values, against the onnx package reading the same files by path."""
    encoder, _ = verified_graphs(folder, read_manifest(folder))
    arrays = encoder.arrays()
    peer = onnx.load(str(folder / "encoder.onnx"))
    outside = onnx.load(str(folder / "encoder.onnx"), load_external_data=False).graph.initializer
    names = {t.name for t in outside if t.data_location == TensorProto.EXTERNAL}
    assert set(arrays) == names
    for tensor in peer.graph.initializer:
        if tensor.name in names:
            assert np.array_equal(arrays[tensor.name], numpy_helper.to_array(tensor))


def test_a_session_has_weights_of_its_own(folder: Path) -> None:
    """The buffer is let go once a session is made: spoiling it must change nothing."""
    backend = OnnxBackend(folder, threads=1)
    source = backend._encoder._source
    assert source is not None
    assert source.data is not None
    pixels = np.random.default_rng(0).normal(size=(1, 3, 128, 128)).astype(np.float32)
    before = backend.encode(pixels)["embedding"]
    source.data.array[:] = 255  # NaN
    assert np.isfinite(before).all()
    assert np.array_equal(backend.encode(pixels)["embedding"], before)
    assert backend._encoder._source is None


def test_weights_become_inputs_and_no_trace_of_a_file_is_left(folder: Path) -> None:
    data = (folder / "encoder.onnx").read_bytes()
    size = (folder / "encoder.weights").stat().st_size
    outside = outside_tensors(data, "encoder.onnx", "encoder.weights", size)
    rewritten = onnx.load_from_string(with_inputs_for(data, "encoder.onnx", outside))
    assert b"encoder.weights" not in rewritten.SerializeToString()
    inputs = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in rewritten.graph.input
        if value.name != "pixels"
    }
    assert inputs == {tensor.name: tensor.shape for tensor in outside}
    onnx.checker.check_model(rewritten)


def test_the_walk_survives_any_bytes(folder: Path) -> None:
    whole = (folder / "encoder.onnx").read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        data = bytearray(whole[: chance.randrange(1, len(whole))])
        for _ in range(chance.randrange(8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(ModelFormatError):
            outside_tensors(bytes(data), "x", "encoder.weights", 1 << 20)


def test_a_manifest_may_state_only_known_precisions_and_digests(copy: Path) -> None:
    for change in ({"precision": "fp8"}, {"network_sha256": "x"}, {"resize": "crop"}, {"normalisation": 3}):
        before = (copy / "manifest.json").read_text()
        change_manifest(copy, lambda manifest, change=change: manifest.update(change))
        with pytest.raises(ModelFormatError):
            read_manifest(copy)
        (copy / "manifest.json").write_text(before)
    network = json.loads((copy / "manifest.json").read_text())["network_sha256"]
    assert read_manifest(copy).spec.digest == network
    change_manifest(copy, lambda manifest: manifest.update(precision="int8"))
    assert read_manifest(copy).spec.digest not in ("", network)
