"""Damaged, foreign and hostile models are refused with one sentence before anything of them runs."""

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
from onnx import TensorProto, helper

from anymask.errors import AnymaskError, ModelError, ModelFormatError, NotFoundError, WeightsError
from anymask.model.folders import sealed
from anymask.runtime.manifest import read_manifest
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.onnx_format import refuse_external_data


@pytest.fixture
def copy(nano_folder: Path, tmp_path: Path) -> Path:
    """A model's folder to damage."""
    folder = tmp_path / "model"
    shutil.copytree(nano_folder, folder)
    return folder


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest as someone would who knows the format: with a new seal, unless the seal is changed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    old_seal = manifest["sha256"]
    change(manifest)
    if isinstance(manifest, dict) and manifest.get("sha256") == old_seal:
        manifest = sealed({key: value for key, value in manifest.items() if key != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_graph(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes in, with a manifest that vouches for them."""
    (folder / name).write_bytes(data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(folder, lambda manifest: manifest["files"].update({name: facts}))


def one_sentence(error: pytest.ExceptionInfo[AnymaskError]) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_a_flipped_byte_anywhere_in_a_graph(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    places = {0, 1, len(whole) // 2, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 40)}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (copy / name).write_bytes(damaged)
        with pytest.raises(WeightsError, match="SHA-256") as error:
            OnnxBackend(copy)
        one_sentence(error)
    (copy / name).write_bytes(whole)
    OnnxBackend(copy)


def test_a_flipped_byte_anywhere_in_a_sealed_manifest(copy: Path) -> None:
    digest = read_manifest(copy).spec.digest
    whole = (copy / "manifest.json").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        (copy / "manifest.json").write_bytes(damaged)
        try:
            read_manifest(copy)
        except ModelFormatError:
            continue
        # What JSON does not see, it may pass: a space for another white space, an escape for its letter.
        assert json.loads(damaged) == json.loads(whole), bytes(damaged[max(0, place - 20) : place + 20])
        assert read_manifest(copy).spec.digest == digest


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "gone", "folder"])
def test_a_graph_of_another_length(copy: Path, change: str) -> None:
    file = copy / "decoder.onnx"
    whole = file.read_bytes()
    file.unlink()
    if change == "folder":
        file.mkdir()
    elif change != "gone":
        file.write_bytes({"cut": whole[:-1], "longer": whole + b"\0", "empty": b""}[change])
    with pytest.raises((WeightsError, NotFoundError)) as error:
        OnnxBackend(copy)
    one_sentence(error)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no format": lambda m: m.pop("format"),
    "other format": lambda m: m.update(format="anymask-onnx-2"),
    "no name": lambda m: m.pop("name"),
    "name of a number": lambda m: m.update(name=3),
    "no files": lambda m: m.pop("files"),
    "files of text": lambda m: m.update(files="encoder.onnx"),
    "one file": lambda m: m["files"].pop("decoder.onnx"),
    "three files": lambda m: m["files"].update(other={"bytes": 1, "sha256": "0" * 64}),
    "file outside": lambda m: m["files"].update({"../x": m["files"].pop("encoder.onnx")}),
    "negative size": lambda m: m["files"]["encoder.onnx"].update(bytes=-1),
    "size of text": lambda m: m["files"]["encoder.onnx"].update(bytes="9"),
    "huge size": lambda m: m["files"]["encoder.onnx"].update(bytes=2**40),
    "short digest": lambda m: m["files"]["encoder.onnx"].update(sha256="abc"),
    "digest of a list": lambda m: m["files"]["encoder.onnx"].update(sha256=["a"] * 64),
    "no features": lambda m: m.update(features=[]),
    "features without an embedding": lambda m: m.update(features=["skip8"]),
    "features twice": lambda m: m.update(features=["embedding", "embedding"]),
    "features of numbers": lambda m: m.update(features=["embedding", 1]),
    "long side 0": lambda m: m.update(long_side=0),
    "long side of a fraction": lambda m: m.update(long_side=512.0),
    "long side beyond": lambda m: m.update(long_side=10**9),
    "long side true": lambda m: m.update(long_side=True),
    "pad of text": lambda m: m.update(pad="round"),
    "pad 0": lambda m: m.update(pad=0),
    "two means": lambda m: m.update(pixel_mean=[1, 2]),
    "mean of text": lambda m: m.update(pixel_mean=["a", "b", "c"]),
    "std 0": lambda m: m.update(pixel_std=[1.0, 0.0, 1.0]),
    "std infinite": lambda m: m.update(pixel_std=[1.0, float("inf"), 1.0]),
    "threshold NaN": lambda m: m.update(mask_threshold=float("nan")),
    "stride 0": lambda m: m.update(low_res_stride=0),
    "unknown key": lambda m: m.update(script="print(1)"),
    "wrong seal": lambda m: m.update(sha256="0" * 64),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_manifest(copy: Path, name: str) -> None:
    change_manifest(copy, WRONG[name])
    with pytest.raises(ModelFormatError) as error:
        OnnxBackend(copy)
    one_sentence(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * 300_000,
        b'{"format": NaN}',
    ],
    ids=repr,
)
def test_a_manifest_that_is_none(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(ModelFormatError) as error:
        OnnxBackend(copy)
    one_sentence(error)


def test_the_digest_covers_files_and_frame(copy: Path) -> None:
    first = OnnxBackend(copy).spec.digest
    change_manifest(copy, lambda manifest: manifest.update(training={"hours": 3}))
    assert OnnxBackend(copy).spec.digest == first
    change_manifest(copy, lambda manifest: manifest.update(mask_threshold=0.5))
    second = OnnxBackend(copy).spec.digest
    data = onnx.load(copy / "decoder.onnx")
    data.doc_string = "another"
    replace_graph(copy, "decoder.onnx", data.SerializeToString())
    assert len({first, second, OnnxBackend(copy).spec.digest}) == 3


def test_garbage_that_the_manifest_vouches_for(copy: Path) -> None:
    whole = (copy / "encoder.onnx").read_bytes()
    noise = np.random.default_rng(0)
    cases = [b"\x00", b"PK\x03\x04", whole[: len(whole) // 2], noise.bytes(1000), b"\xff" * 64, whole * 2]
    for data in cases:
        replace_graph(copy, "encoder.onnx", data)
        with pytest.raises(ModelError) as error:
            OnnxBackend(copy, threads=1).encode(np.zeros((1, 3, 128, 128), dtype=np.float32))
        one_sentence(error)


def test_swapped_graphs(copy: Path) -> None:
    encoder, decoder = (copy / "encoder.onnx").read_bytes(), (copy / "decoder.onnx").read_bytes()
    replace_graph(copy, "encoder.onnx", decoder)
    replace_graph(copy, "decoder.onnx", encoder)
    with pytest.raises(ModelFormatError, match="must take"):
        OnnxBackend(copy, threads=1).encode(np.zeros((1, 3, 128, 128), dtype=np.float32))


def external(tensor: TensorProto, location: str) -> TensorProto:
    """The tensor, its values said to be in another file."""
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    entry = moved.external_data.add()
    entry.key, entry.value = "location", location
    return moved


def test_external_data_is_refused_before_it_is_followed(copy: Path) -> None:
    """Absolute, relative and climbing paths; the file is there and has the right bytes."""
    model = onnx.load(copy / "encoder.onnx")
    index = max(range(len(model.graph.initializer)), key=lambda i: len(model.graph.initializer[i].raw_data))
    tensor = model.graph.initializer[index]
    (copy / "weights.bin").write_bytes(tensor.raw_data)
    (copy.parent / "weights.bin").write_bytes(tensor.raw_data)
    for location in ("weights.bin", "../weights.bin", str(copy / "weights.bin"), "/etc/passwd"):
        model.graph.initializer[index].CopyFrom(external(tensor, location))
        replace_graph(copy, "encoder.onnx", model.SerializeToString())
        with pytest.raises(ModelFormatError, match="other files"):
            OnnxBackend(copy)


def hidden_places() -> dict[str, onnx.ModelProto]:
    """External tensors everywhere that ONNX has room for one."""
    bad = external(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]), "/etc/passwd")
    good = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    empty = helper.make_graph([], "inner", [], [])
    inner = helper.make_graph([], "inner", [], [], initializer=[bad])
    constant = helper.make_node("Constant", [], ["y"], value=bad)

    def model(*nodes: onnx.NodeProto, **graph: Any) -> onnx.ModelProto:
        return helper.make_model(helper.make_graph(list(nodes), "g", [], [], **graph))

    places = {
        "attribute": model(constant),
        "list of tensors": model(helper.make_node("Other", [], ["y"], values=[good, bad])),
        "subgraph": model(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=empty)),
        "list of graphs": model(helper.make_node("Other", [], ["y"], bodies=[empty, inner])),
        "deep subgraph": model(
            helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([constant], "x", [], []))
        ),
    }
    sparse = onnx.SparseTensorProto(dims=[1])
    sparse.values.CopyFrom(bad)
    places["sparse"] = model()
    places["sparse"].graph.sparse_initializer.append(sparse)
    places["function"] = model()
    places["function"].functions.append(
        helper.make_function("d", "f", [], ["y"], [constant], [helper.make_opsetid("", 17)])
    )
    places["training"] = model()
    places["training"].training_info.add().algorithm.CopyFrom(inner)
    location = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    places["location alone"] = model(initializer=[location])
    entries = TensorProto(name="w", data_type=1, dims=[1], raw_data=b"\0\0\0\0")
    entries.external_data.add(key="location", value="x")
    places["entries alone"] = model(initializer=[entries])
    return places


@pytest.mark.parametrize("place", sorted(hidden_places()))
def test_external_data_is_found_wherever_it_hides(place: str) -> None:
    with pytest.raises(ModelFormatError, match="other files"):
        refuse_external_data(hidden_places()[place].SerializeToString(), "model.onnx")


def test_the_walk_agrees_with_onnx_on_sound_files(nano_folder: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        refuse_external_data((nano_folder / name).read_bytes(), name)


def test_the_walk_survives_any_bytes(nano_folder: Path) -> None:
    """Mutations and noise end in a refusal or in nothing, never in another exception."""
    whole = (nano_folder / "decoder.onnx").read_bytes()[:20_000]
    chance = random.Random(0)
    for _ in range(300):
        data = bytearray(whole[: chance.randrange(1, len(whole))])
        for _ in range(chance.randrange(6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(ModelFormatError):
            refuse_external_data(bytes(data), "x")
    nested = b""
    for _ in range(500):  # an attribute in a node in a graph in an attribute ...
        for field in (6, 5, 1):
            length, head = len(nested), bytearray([field << 3 | 2])
            while length > 127:
                head.append(length & 127 | 128)
                length >>= 7
            nested = bytes([*head, length]) + nested
    with pytest.raises(ModelFormatError):
        refuse_external_data(b"\x3a\xff\xff\xff\x7f" + nested, "x")


def test_sessions_are_made_when_first_needed(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding made elsewhere needs no encoder."""
    import onnxruntime

    made = []
    session = onnxruntime.InferenceSession

    def record(model: bytes, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(model, bytes)  # never a path, from which external data could be followed
        made.append(len(model))
        return session(model, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    backend = OnnxBackend(nano_folder, threads=1)
    assert made == []
    pixels = np.zeros((1, 3, 128, 128), dtype=np.float32)
    backend.encode(pixels)
    backend.encode(pixels)
    assert made == [(nano_folder / "encoder.onnx").stat().st_size]


def test_threads_reach_both_sessions(nano_folder: Path) -> None:
    backend = OnnxBackend(nano_folder, threads=1)
    for graph in (backend._encoder, backend._decoder):
        options = graph._open().get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
