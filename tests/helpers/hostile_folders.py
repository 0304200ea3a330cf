"""Hostile folders of weights: as transformers writes them, and ONNX graphs with a manifest; one thing wrong in each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile_pickles as hp
import safetensors.torch
from torch import Tensor


def folders(folder: Path, weights: Mapping[str, Tensor], canary: Path) -> Iterator[tuple[str, Path]]:
    """Folders as transformers writes them; outside each lies a file of good weights that must not be reached."""
    safetensors.torch.save_file(dict(weights), folder / "outside.safetensors")
    names = list(weights)
    half = len(names) // 2
    shards = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    plain = {name: shard for shard, held in shards.items() for name in held}

    def make(
        case: str,
        weight_map: Any = plain,
        config: bytes = b'{"model_type": "sam"}',
        index: bytes | None = None,
    ) -> Path:
        path = folder / f"folder {case}".replace("/", "_")
        path.mkdir()
        for shard, held in shards.items():
            safetensors.torch.save_file({name: weights[name] for name in held}, path / shard)
        (path / "config.json").write_bytes(config)
        (path / "model.safetensors.index.json").write_bytes(
            index if index is not None else json.dumps({"weight_map": weight_map}).encode()
        )
        return path

    outside = {
        "../outside.safetensors", str(folder / "outside.safetensors"), "./../outside.safetensors", "..",
        "sub/../../outside.safetensors", "a.safetensors/../../outside.safetensors", "..\\outside.safetensors",
        "file:///outside.safetensors", "", ".", "a.safetensors\0", "missing.safetensors", "config.json",
        "~/a.safetensors",
    }  # fmt: skip
    for number, place in enumerate(sorted(outside)):
        yield f"index names {place!r}", make(f"out {number}", {**plain, names[0]: place})
    for number, place in enumerate((None, 7, ["a.safetensors"], {"a": 1})):
        yield f"index names {place!r}", make(f"odd {number}", {**plain, names[0]: place})
    yield "index with a key in the wrong file", make("wrong file", {**plain, names[0]: "b.safetensors"})
    yield (
        "index without a key that is there",
        make("unsaid", {n: s for n, s in plain.items() if n != names[0]}),
    )
    yield "index with a key that is nowhere", make("nowhere", {**plain, "nowhere": "a.safetensors"})
    yield (
        "index of 1,000 files",
        make("many", {**plain, **{f"k{n}": f"s{n}.safetensors" for n in range(1000)}}),
    )
    yield "index that is a list", make("list", index=b"[]")
    yield "index without a map", make("no map", index=b"{}")
    yield "index with an empty map", make("empty map", {})
    yield "index that is no JSON", make("no json", index=b"{")
    yield "index that is deep", make("deep", index=b"[" * 100_000)
    yield "index of 17 MB", make("large", index=b" " * 17 * 2**20 + b"{}")
    yield "config of another model", make("sam2", config=b'{"model_type": "sam2_video"}')
    yield "config without a type", make("untyped", config=b"{}")
    yield "config that is a list", make("config list", config=b"[1]")
    yield "config that is no JSON", make("config text", config=b"\xff")
    pipe = make("pipe")
    (pipe / "a.safetensors").unlink()
    os.mkfifo(pipe / "a.safetensors")
    yield "a pipe for weights", pipe
    device = make("device")
    (device / "a.safetensors").unlink()
    (device / "a.safetensors").symlink_to("/dev/zero")
    yield "a device for weights", device
    runner = folder / "folder runner"
    runner.mkdir()
    (runner / "config.json").write_text('{"model_type": "sam"}')
    (runner / "pytorch_model.bin").write_bytes(hp.torch_zip(hp.alone(hp.payloads(canary)["os.system"])))
    yield "a payload in pytorch_model.bin", runner


def graphs(folder: Path, model: Path) -> Iterator[tuple[str, Path]]:
    """Folders of ONNX graphs with a manifest that is sealed anew where that is the point."""
    whole = json.loads((model / "manifest.json").read_text())
    decoder = (model / "decoder.onnx").read_bytes()
    external = b"\x3a" + _protobuf(
        b"\x2a" + _protobuf(b"\x6a" + _protobuf(b"\x0a\x08location\x12\x0b/etc/passwd"))
    )

    def make(case: str, data: bytes | None = None, seal: bool = True, **change: Any) -> Path:
        path = folder / f"graphs {case}"
        path.mkdir()
        for name in ("encoder.onnx", "decoder.onnx"):
            os.link(model / name, path / name) if _same_disk(model, path) else (path / name).symlink_to(
                model / name
            )
        manifest = {**whole, **change}
        if data is not None:
            (path / "decoder.onnx").unlink()
            (path / "decoder.onnx").write_bytes(data)
            facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            manifest["files"] = {**manifest["files"], "decoder.onnx": facts}
        if seal:
            rest = {key: value for key, value in manifest.items() if key != "sha256"}
            text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
            manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
        return path

    files = whole["files"]
    yield "a graph with data elsewhere", make("external", external)
    yield "a graph that is cut", make("cut", decoder[: len(decoder) // 2])
    yield "a graph with a byte more", make("more", decoder + b"\x3a")
    yield "a graph that is empty", make("empty", b"\x3a\x00"[:1])
    yield "a graph that is noise", make("noise", bytes(range(256)) * 8)
    yield "a graph nested without end", make("deep", _nested(100))
    yield "a manifest with another name and its old seal", make("renamed", seal=False, name="other")
    yield "a manifest for files elsewhere", make("paths", files={**files, "../x.onnx": files["decoder.onnx"]})
    yield (
        "a manifest of a graph of 2**40 bytes",
        make("large", files={**files, "decoder.onnx": {**files["decoder.onnx"], "bytes": 2**40}}),
    )
    yield "a manifest with a frame of a million", make("frame", long_side=10**6)
    yield "a manifest of another format", make("format", format="anymask-onnx-999")
    yield "a manifest without features", make("features", features=[])
    yield "a manifest of a graph that is not there", _without(make("gone"))


def _without(path: Path) -> Path:
    (path / "decoder.onnx").unlink()
    return path


def _nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = b"\x0a" + _protobuf(b"\x2a" + _protobuf(b"\x32" + _protobuf(graph)))
    return b"\x3a" + _protobuf(graph)


def _protobuf(body: bytes) -> bytes:
    """A length, seven bits a byte, and the body."""
    length, head = len(body), b""
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length]) + body


def _same_disk(first: Path, second: Path) -> bool:
    return first.stat().st_dev == second.stat().st_dev
