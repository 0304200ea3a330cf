"""The tar-shard reader against what was put into the tar."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from anymask.data.sa1b import TarShard, open_shards, parse_sample
from anymask.errors import DatasetError


def _record(name: str, width: int = 3) -> bytes:
    info = {"image_id": 1, "width": width, "height": 2, "file_name": f"{name}.jpg"}
    return json.dumps({"image": info, "annotations": [{"id": 7}]}).encode()


def _write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_reads_every_pair_whatever_the_order_of_members(tmp_path: Path) -> None:
    members = [
        ("b.json", _record("b", 5)),
        ("a.jpg", b"A" * 1000),
        ("b.jpg", b"BB"),
        ("a.json", _record("a")),
    ]
    shard = TarShard(_write(tmp_path / "set.tar", members))
    assert shard.keys() == ["a", "b"]
    assert [s.image for s in shard] == [b"A" * 1000, b"BB"]
    assert (shard[1].width, shard[1].height, shard[1].source) == (5, 2, "set")
    assert shard[0].annotations == [{"id": 7}]


def test_an_image_without_a_record_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "set.tar", [("lonely.jpg", b"x")])
    with pytest.raises(DatasetError, match="lonely"):
        TarShard(path)


def test_a_cut_shard_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "set.tar", [("a.json", _record("a")), ("a.jpg", b"x" * 5000)])
    shard = TarShard(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DatasetError, match="cut short"):
        shard[0]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_not_a_tar(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        TarShard(path)


def test_missing_shard_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no shard"):
        TarShard(tmp_path / "none.tar")
    with pytest.raises(DatasetError, match=r"no \.tar shard"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    "record", [b"{", b"[]", b'{"image": {}}', b'{"image": {"width": "x", "height": 1}, "annotations": []}']
)
def test_bad_records(record: bytes) -> None:
    with pytest.raises(DatasetError, match="not SA-1B"):
        parse_sample("k", "s", b"", record)
