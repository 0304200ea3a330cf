"""Hostile files of weights: a small SAM that would load, with one thing wrong in each.

`code_runners`, `pickled`, `safetensors_files` and `sealed_files` write theirs below a folder and give name -> path;
folders are in `hostile_folders`.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile_pickles as hp
import safetensors.torch
import torch
from torch import Tensor

from anymask.model.families import CONFIG_KEY
from anymask.model.variants import TINY_TEST
from anymask.model.weights import FORMAT, METADATA_KEY, content_sha256

KEY = "prompt_encoder.no_mask_embed.weight"
HUGE = 10**12


def entries(weights: Mapping[str, Tensor]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Opcodes of each tensor, and the storages they point to."""
    codes, storages = {}, {}
    for number, (name, value) in enumerate(weights.items()):
        codes[name] = hp.tensor(str(number), value.numel(), 0, tuple(value.shape), value.stride())
        storages[str(number)] = value.contiguous().numpy().tobytes()
    return codes, storages


def pickle_of(codes: Mapping[str, bytes], more: bytes = b"") -> bytes:
    """A pickle of a dictionary: names -> opcodes, then other pairs."""
    return b"\x80\x02}(" + b"".join(hp.text(name) + code for name, code in codes.items()) + more + b"u."


def code_runners(folder: Path, weights: Mapping[str, Tensor], canary: Path) -> Iterator[tuple[str, Path]]:
    """Every payload in every container, alone and among good weights."""
    codes, storages = entries(weights)
    pairs = b"".join(hp.text(name) + code for name, code in codes.items())
    for number, (name, payload) in enumerate(hp.payloads(canary).items()):
        for container, wrap in hp.CONTAINERS.items():
            yield _write(folder, f"{name} in {container}", wrap(hp.alone(payload)), number)
        inside = hp.torch_zip(hp.among(payload, pairs), storages)
        yield _write(folder, f"{name} among weights", inside, number)
    payload = hp.payloads(canary)["os.system"]
    ordered = b"ccollections\nOrderedDict\n)R}(" + hp.text("x") + payload + b"ub"
    odd = {
        "as an attribute": pickle_of(codes, hp.text("extra") + ordered),
        "as a key": pickle_of(codes, payload + b"K\x01"),
        "as a persistent id": b"\x80\x02" + payload + b"Q.",
        "as a tensor's hooks": pickle_of(
            {**codes, KEY: codes[KEY].replace(b"ccollections\nOrderedDict\n)R", payload)}
        ),
        "as a size": pickle_of({**codes, KEY: b"ctorch\nSize\n(" + payload + b"tR"}),
    }
    for name, data in odd.items():
        yield _write(folder, f"payload {name}", hp.torch_zip(data, storages), 0)
    for root in ("../archive", "archive/../../x", "a\\..\\b", "/archive"):
        yield _write(folder, f"payload under {root!r}", hp.torch_zip(hp.alone(payload), root=root), 0)
    yield _write(folder, "payload in the list of keys", hp.torch_legacy(b"\x80\x02}.", hp.alone(payload)), 0)
    second = hp.torch_zip(pickle_of(codes), storages)
    yield _write(folder, "payload behind an archive", second + hp.alone(payload), 0)
    yield _write(folder, "payload before an archive", hp.alone(payload) + second, 0)


def pickled(folder: Path, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Path]]:
    """Tensors that are not what they say, dictionaries that are no dictionaries, archives that are bombs."""
    for table in (
        _tensors(weights),
        _dictionaries(weights),
        _archives(weights),
        _older(),
        _no_checkpoints(),
    ):
        for name, data in table.items():
            yield _write(folder, name, data, 0)


def _tensors(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    codes, storages = entries(weights)
    size, stride = tuple(weights[KEY].shape), weights[KEY].stride()
    key, numel = str(list(weights).index(KEY)), weights[KEY].numel()

    def one(*numbers: Any, held: Mapping[str, bytes] = storages) -> bytes:
        return hp.torch_zip(pickle_of({**codes, KEY: hp.tensor(*numbers)}), held)

    def value(opcodes: bytes) -> bytes:
        return hp.torch_zip(pickle_of({**codes, KEY: opcodes}), storages)

    sparse = io.BytesIO()
    torch.save({**weights, KEY: weights[KEY].to_sparse()}, sparse)
    complex_one = io.BytesIO()
    torch.save({**weights, KEY: weights[KEY].to(torch.complex64)}, complex_one)
    quantised = io.BytesIO()
    torch.save({**weights, KEY: torch.quantize_per_tensor(weights[KEY], 0.1, 0, torch.qint8)}, quantised)
    meta = io.BytesIO()
    torch.save({**weights, KEY: weights[KEY].to("meta")}, meta)
    nan = io.BytesIO()
    torch.save({**weights, KEY: torch.full_like(weights[KEY], float("nan"))}, nan)
    infinite = io.BytesIO()
    torch.save({**weights, KEY: torch.full_like(weights[KEY], float("inf"))}, infinite)
    return {
        "storage too short": one(key, numel, 0, size, stride, held={**storages, key: b"\0" * 4}),
        "storage empty": one(key, numel, 0, size, stride, held={**storages, key: b""}),
        "storage too long": one(key, numel, 0, size, stride, held={**storages, key: b"\0" * 4 * (numel + 1)}),
        "storage missing": one("999999", numel, 0, size, stride),
        "storage called ../../x": one("../../x", numel, 0, size, stride),
        "storage called /etc/passwd": one("/etc/passwd", numel, 0, size, stride),
        "storage announces 4 TB": one(key, HUGE, 0, size, stride),
        "storage announces less than nothing": one(key, -numel, 0, size, stride),
        "storage announces 2**63": one(key, 2**63 - 1, 0, size, stride),
        "offset outside": one(key, numel, numel, size, stride),
        "offset far outside": one(key, numel, 2**62, size, stride),
        "offset negative": one(key, numel, -1, size, stride),
        "stride outside": one(key, numel, 0, size, (stride[0], 10**6)),
        "stride that overflows": one(key, numel, 0, size, (2**62, 2**62)),
        "stride negative": one(key, numel, 0, size, (stride[0], -1)),
        "size negative": one(key, numel, 0, (-1, -numel), stride),
        "size beyond the storage": one(key, numel, 0, (1, numel + 1), stride),
        "size that overflows": one(key, numel, 0, (2**40, 2**40), (0, 0)),
        "size of 4 TB by strides of zero": one(key, numel, 0, (10**6, 10**6), (0, 0)),
        "size of many dimensions": one(key, numel, 0, (1,) * 3000, (1,) * 3000),
        "size and stride of other lengths": one(key, numel, 0, size, stride[:1]),
        "a sparse tensor": sparse.getvalue(),
        "a complex tensor": complex_one.getvalue(),
        "a quantised tensor": quantised.getvalue(),
        "a tensor without memory": meta.getvalue(),
        "a tensor of NaN": nan.getvalue(),
        "a tensor of infinities": infinite.getvalue(),
        "a number": value(b"K\x07"),
        "a text": value(hp.text("weights")),
        "nothing": value(b"N"),
        "a list of tensors": value(b"]" + codes[KEY] + b"a"),
        "a byte array of 100 GB": value(
            hp.call("builtins", "bytearray", b"\x8a\x06" + (10**11).to_bytes(6, "little"))
        ),
        "a class": value(b"ctorch\nTensor\n"),
        "a function": value(b"ctorch._utils\n_rebuild_tensor_v2\n"),
        "a tensor with a state": value(codes[KEY] + b"(K\x00K\x00)tb"),
    }


def _dictionaries(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    codes, storages = entries(weights)
    good = pickle_of(codes)[2:-1]

    def whole(opcodes: bytes) -> bytes:
        return hp.torch_zip(b"\x80\x02" + opcodes, storages)

    deep = b"".join(b"}(" + hp.text("state_dict") for _ in range(50_000)) + b"}" + b"u" * 50_000
    tuples = b"N" + b"\x85" * 50_000
    without = {name: code for name, code in codes.items() if name != KEY}
    return {
        "two keys that differ in module.": whole(pickle_of({**codes, f"module.{KEY}": codes[KEY]})[2:]),
        "a key too few": whole(pickle_of(without)[2:]),
        "a key too many": whole(pickle_of({**codes, "adapter": codes[KEY]})[2:]),
        "a key with a line's end": whole(pickle_of({**without, KEY + "\n\x1b[2J": codes[KEY]})[2:]),
        "a number as a key": whole(pickle_of(codes, b"K\x01" + codes[KEY])[2:]),
        "nothing as a key": whole(pickle_of(codes, b"N" + codes[KEY])[2:]),
        "a deep tuple as a key": whole(pickle_of(codes, tuples + codes[KEY])[2:]),
        "a list as a key": whole(pickle_of(codes, b"]" + codes[KEY])[2:]),
        "a dictionary in itself": whole(b"}q\x00" + hp.text("model") + b"h\x00s."),
        "a ring of dictionaries": whole(b"}q\x00" + hp.text("model") + b"}" + hp.text("model") + b"h\x00ss."),
        "dictionaries 50,000 deep": whole(deep + b"."),
        "lists 50,000 deep": whole(b"]" * 50_000 + b"a" * 49_999 + b"."),
        "an empty dictionary": whole(b"}."),
        "a list": whole(b"]" + good + b"a."),
        "a set": whole(hp.call("builtins", "set", b"]") + b"."),
        "nothing at all": whole(b"N."),
        "no end": whole(good),
        "an early end": whole(good[: len(good) // 2] + b"."),
        "a missing memo": whole(b"h\x63."),
        "a missing mark": whole(b"t."),
        "an empty stack": whole(b"0."),
        "a text of 2**63 bytes": whole(b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"x."),
        "a number of 2 GB": whole(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01."),
        "a frame of 2**60 bytes": whole(b"\x95" + struct.pack("<Q", 2**60) + b"N."),
        "a protocol of tomorrow": hp.torch_zip(b"\x80\x63N.", storages),
        "a persistent id that is a text": whole(hp.text("storage") + b"Q."),
        "a persistent id of another kind": whole(b"(" + hp.text("module") + b"K\x01tQ."),
    }


def _archives(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    codes, storages = entries(weights)
    data_pkl = pickle_of(codes)
    good = hp.torch_zip(data_pkl, storages)
    members = {f"archive/data/{key}": data for key, data in storages.items()} | {"archive/version": b"3\n"}

    def with_member(name: str, data: bytes = b"x", **facts: Any) -> bytes:
        file = io.BytesIO(good)
        with zipfile.ZipFile(file, "a") as archive:
            info = zipfile.ZipInfo(name)
            for fact, value in facts.items():
                setattr(info, fact, value)
            archive.writestr(info, data)
        return file.getvalue()

    def patched(field: int, value: bytes) -> bytes:
        """The first entry of the archive's directory, changed."""
        data = bytearray(good)
        at = data.find(b"PK\x01\x02") + field
        data[at : at + len(value)] = value
        return bytes(data)

    twice = with_member("archive/version", b"3\n")
    zeros = {**members, "archive/data.pkl": data_pkl, "archive/data/0": b"\0" * 200_000_000}
    end = good.rfind(b"PK\x05\x06")
    many64 = (
        good[:end]
        + b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**60, 2**60, 2**62, 0)
        + b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
        + good[end:end + 8] + b"\xff" * 12 + b"\0\0"
    )  # fmt: skip
    return {
        "a member called ../evil": with_member("../evil"),
        "a member called archive/../../evil": with_member("archive/../../evil"),
        "a member called /tmp/evil": with_member("/tmp/evil"),
        "a member called C:evil": with_member("C:/evil"),
        "a member called with backslashes": with_member("archive\\..\\evil"),
        "a member that is a link": with_member("archive/link", b"/etc", external_attr=(stat.S_IFLNK | 0o777) << 16),
        "a member that stands twice": twice,
        "a member that is packed": with_member("archive/packed", b"\0" * 1000, compress_type=zipfile.ZIP_DEFLATED),
        "a bomb of 200 MB in 200 KB": hp.zip_of(zeros, zipfile.ZIP_DEFLATED),
        "a bomb in bzip2": hp.zip_of({**members, "archive/data.pkl": data_pkl, "b": b"\0" * 10**7}, zipfile.ZIP_BZIP2),
        "30,000 members": hp.zip_of({f"archive/data/{n}": b"" for n in range(30_000)} | {"archive/data.pkl": data_pkl}),
        "2**60 members": many64,
        "a member that is encrypted": patched(8, b"\x01\x00"),
        "a member of 4 GB by its entry": patched(24, b"\xfe\xff\xff\xff"),
        "members that overlap": patched(20, struct.pack("<II", len(good) - 200, len(good) - 200)),
        "an entry that points outside": patched(42, b"\xff\xff\xff\x7f"),
        "a description of 17 MB": hp.torch_zip(data_pkl + b"\0" * 17 * 2**20, storages),
        "no description": hp.zip_of(members),
        "two descriptions": hp.zip_of({**members, "archive/data.pkl": data_pkl, "b/data.pkl": data_pkl}),
        "a TorchScript program": with_member("archive/constants.pkl", b"\x80\x02)."),
        "TorchScript code": with_member("archive/code/__torch__.py", b"import os"),
        "an unknown byte order": hp.zip_of({**members, "archive/data.pkl": data_pkl, "archive/byteorder": b"odd"}),
        "an archive cut at half": good[: len(good) // 2],
        "an archive without its end": good[: good.rfind(b"PK\x05\x06")],
        "an archive of one byte less": good[:-1],
        "an archive with a byte more": good + b"\0",
        "an empty archive": hp.zip_of({}),
        "a script before the archive": b"#!/bin/sh\n" + good,
    }  # fmt: skip


def _older_pickle(numel: int) -> bytes:
    code = hp.tensor("0", numel, 0, (numel,), (1,)).replace(b"tQ", b"NtQ", 1)
    return pickle_of({KEY: code})


def older_layout(numel: int, data: bytes) -> bytes:
    """A file as `torch.save` wrote it before: one tensor of ``numel`` floats and its ``data``."""
    keys = b"\x80\x02]" + hp.text("0") + b"a."
    return hp.torch_legacy(_older_pickle(numel), keys + struct.pack("<q", numel) + data)


def _older() -> dict[str, bytes]:
    storage = _older_pickle
    keys = b"\x80\x02]" + hp.text("0") + b"a."
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"N.N"))
        link = tarfile.TarInfo("../../evil")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return {
        "older: a tar file": tar.getvalue(),
        "older: storage cut": older_layout(8, b"\0" * 3),
        "older: storage of another length": hp.torch_legacy(
            storage(8), keys + struct.pack("<q", 9) + b"\0" * 36
        ),
        "older: storage of 4 TB": hp.torch_legacy(storage(HUGE), keys + struct.pack("<q", HUGE)),
        "older: storage of less than nothing": hp.torch_legacy(storage(-8), keys + struct.pack("<q", -8)),
        "older: no storages": hp.torch_legacy(storage(8), b""),
        "older: unknown keys": hp.torch_legacy(storage(8), b"\x80\x02]" + hp.text("7") + b"a."),
        "older: keys that are no list": hp.torch_legacy(storage(8), b"\x80\x02K\x07."),
        "older: another magic number": b"\x80\x02K\x07." + hp.torch_legacy(storage(8)),
        "older: cut": hp.torch_legacy(storage(8))[:60],
    }


def _no_checkpoints() -> dict[str, bytes]:
    return {
        "empty": b"",
        "one byte": b"\x80",
        "a web page": b"<!DOCTYPE html><title>404</title>",
        "an ELF program": b"\x7fELF" + b"\0" * 100,
        "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 100,
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "safetensors under another name": safetensors.torch.save({"a": torch.zeros(1)}),
        "zeros": b"\0" * 10_000,
        "pickle opcodes at random": b"\x80\x02" + bytes(range(256)) * 4,
    }


def safetensors_files(folder: Path, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Path]]:
    """Headers that lie, and values that are none."""
    good = safetensors.torch.save(dict(weights))
    length = struct.unpack("<Q", good[:8])[0]
    header: dict[str, Any] = json.loads(good[8 : 8 + length])
    body = good[8 + length :]

    def remade(change: Mapping[str, Any], data: bytes = body, raw: str | None = None) -> bytes:
        text = raw if raw is not None else json.dumps({**header, **change})
        encoded = text.encode()
        return struct.pack("<Q", len(encoded)) + encoded + data

    def one(**facts: Any) -> bytes:
        return remade({KEY: {**header[KEY], **facts}})

    start, stop = header[KEY]["data_offsets"]
    raw = json.dumps(header)
    doubled = raw[:-1] + f', "{KEY}": ' + json.dumps(header[KEY]) + "}"
    table = {
        "header of 2**63 bytes": struct.pack("<Q", 2**63) + good[8:],
        "header of 200 MB": struct.pack("<Q", 200 * 2**20) + good[8:],
        "header longer than the file": struct.pack("<Q", len(good)) + good[8:],
        "header of no bytes": struct.pack("<Q", 0) + good[8:],
        "header that is no JSON": good[:8] + b"[" * length + body,
        "header that is a list": remade({}, raw="[]"),
        "header that is deep": remade({}, raw='{"a":' * 20_000 + "1" + "}" * 20_000),
        "header that is not UTF-8": good[:9] + b"\xff\xfe" + good[11:],
        "offsets outside": one(data_offsets=[len(body), len(body) + stop - start]),
        "offsets that overlap": one(data_offsets=[0, stop - start]),
        "offsets turned round": one(data_offsets=[stop, start]),
        "offsets below nothing": one(data_offsets=[-4, stop - start - 4]),
        "offsets of 2**64": one(data_offsets=[2**64, 2**64 + 4]),
        "shape larger than its bytes": one(shape=[1, 33]),
        "shape that overflows": one(shape=[2**40, 2**40]),
        "shape below nothing": one(shape=[-1, -32]),
        "a dtype that is none": one(dtype="F99"),
        "whole numbers for weights": one(dtype="I32"),
        "values cut": good[:-4],
        "values and more": good + b"\0" * 4,
        "a hole": remade({}, data=b"\0" * 8 + body),
        "one key twice": remade({}, raw=doubled),
        "metadata that is no text": remade({"__metadata__": {"a": {"b": 1}}}),
        "a name with a line's end": remade({KEY + "\n\x1b[31m": header[KEY], KEY: None}),
        "empty file": b"",
        "a pickle under this name": hp.alone(b"N"),
    }
    for name, data in table.items():
        yield _write(folder, f"safetensors: {name}", data, 0, ".safetensors")
    values = {
        "a tensor of NaN": {**weights, KEY: torch.full_like(weights[KEY], float("nan"))},
        "a tensor of infinities": {**weights, KEY: torch.full_like(weights[KEY], -float("inf"))},
        "a key too few": {name: value for name, value in weights.items() if name != KEY},
        "a key too many": {**weights, "adapter": torch.zeros(1)},
        "a shape transposed": {**weights, KEY: weights[KEY].T.contiguous()},
    }
    for name, tensors in values.items():
        data = safetensors.torch.save(dict(tensors))
        yield _write(folder, f"safetensors: {name}", data, 0, ".safetensors")


def sealed_files(folder: Path, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Path]]:
    """Files as `save_network` writes them, with a right seal, by someone who knows the format and means harm."""
    sizes = {"family": TINY_TEST.family, **TINY_TEST.to_dict()}
    table: dict[str, Any] = {
        "embed_dim of a billion": {**sizes, "embed_dim": 10**9, "num_heads": 1},
        "depth of a billion": {**sizes, "depth": 10**9},
        "image_size of a million": {**sizes, "image_size": 16 * 10**6},
        "image_size of 4,096": {**sizes, "image_size": 4096},
        "depth of 900": {**sizes, "depth": 900},
        "mlp_ratio of NaN": {**sizes, "mlp_ratio": float("nan")},
        "mlp_ratio below nothing": {**sizes, "mlp_ratio": -4.0},
        "infinite sizes": {**sizes, "prompt_dim": float("inf")},
        "no patches": {**sizes, "patch_size": 0},
        "a text for a number": {**sizes, "embed_dim": "os.system"},
        "a list for a number": {**sizes, "embed_dim": [24] * 24},
        "heads below nothing": {**sizes, "num_heads": -2},
        "an unknown family": {**sizes, "family": "os"},
        "a family that is a list": {**sizes, "family": []},
        "an unknown size": {**sizes, "__class__": "x"},
        "no sizes": {"family": "sam"},
        "sizes that are a list": [1, 2],
        "sizes that are nothing": None,
    }
    for name, said in table.items():
        facts = {CONFIG_KEY: json.dumps(said)}
        seal = content_sha256(weights, facts)
        record = json.dumps({"format": FORMAT, "sha256": seal, "facts": facts}, sort_keys=True)
        data = safetensors.torch.save(dict(weights), {METADATA_KEY: record})
        yield _write(folder, f"sealed: {name}", data, 0, ".safetensors")
    for name, text in {"no record": "{}", "a list": "[]", "no JSON": "{", "deep": "[" * 5000}.items():
        data = safetensors.torch.save(dict(weights), {METADATA_KEY: text})
        yield _write(folder, f"sealed: {name} for a record", data, 0, ".safetensors")


def _write(folder: Path, name: str, data: bytes, number: int, suffix: str = "") -> tuple[str, Path]:
    suffix = suffix or (".pth", ".pt", ".bin")[number % 3]
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}{suffix}"
    assert not path.exists(), name
    path.write_bytes(data)
    return name, path
