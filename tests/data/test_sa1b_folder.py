"""The reader of unpacked SA-1B pairs against what lies in the folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from anymask.data.dataset import Dataset
from anymask.data.sa1b_folder import Sa1bFolder
from anymask.errors import DatasetError


def write_pair(folder: Path, name: str, suffix: str = ".jpg", width: int = 3) -> None:
    info = {"image_id": 1, "width": width, "height": 2, "file_name": f"{name}{suffix}"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(name.encode() * 10)
    (folder / f"{name}.json").write_text(json.dumps({"image": info, "annotations": [{"id": width}]}))


def test_reads_every_pair_in_the_order_of_the_names(tmp_path: Path) -> None:
    for number, name in enumerate(("sa_2", "sa_10", "sa_1"), 5):
        write_pair(tmp_path / "set", name, width=number)
    (tmp_path / "set" / "alone.json").write_text("{}")
    (tmp_path / "set" / "._sa_1.jpg").write_bytes(b"")
    dataset = Sa1bFolder(tmp_path / "set")
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 3
    assert dataset.keys() == ["sa_1", "sa_10", "sa_2"]
    assert [(s.key, s.image, s.width, s.source, s.annotations) for s in dataset] == [
        (name, name.encode() * 10, width, "set", [{"id": width}])
        for name, width in (("sa_1", 7), ("sa_10", 6), ("sa_2", 5))
    ]
    assert list(pickle.loads(pickle.dumps(dataset))) == list(dataset)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="as a folder"):
        Sa1bFolder(tmp_path / "none")
    with pytest.raises(DatasetError, match="no image"):
        Sa1bFolder(tmp_path)
    write_pair(tmp_path, "a")
    dataset = Sa1bFolder(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DatasetError, match="not SA-1B"):
        dataset[0]
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"both 'a\.jpg' and 'a\.png'"):
        Sa1bFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.json").unlink()
    with pytest.raises(DatasetError, match="'a'"):
        Sa1bFolder(tmp_path)
    with pytest.raises(DatasetError, match="no file"):
        dataset[0]
