"""BSDS500 ground truth: files written here by scipy, and the real ones where they are."""

from __future__ import annotations

import contextlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from anymask.data.bsds500 import BoundaryArchive, Bsds500Test, parse_boundaries, read_links
from anymask.errors import DatasetError, MissingExtraError

EVAL = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


def _mat(boundaries: list[np.ndarray], segmentations: list[np.ndarray] | None = None) -> bytes:
    cells = np.empty((1, len(boundaries)), dtype=object)
    for index, boundary in enumerate(boundaries):
        labels = segmentations[index] if segmentations else boundary.astype(np.uint16) + 1
        cells[0, index] = {"Segmentation": labels, "Boundaries": boundary}
    buffer = io.BytesIO()
    savemat(buffer, {"groundTruth": cells}, do_compression=True)
    return buffer.getvalue()


def _write(path: Path, members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = (
                (len(data) if kind == tarfile.REGTYPE else 0),
                kind,
                "/etc/passwd",
            )
            archive.addfile(info, io.BytesIO(data))
    return path


def test_every_annotator_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [(rng.random((12, 9)) < 0.3).astype(np.uint8) for _ in range(3)]
    labels = [rng.integers(1, 40, (12, 9)).astype(np.uint16) for _ in range(3)]
    archive = BoundaryArchive(
        _write(tmp_path / "a.tar", [("gt/7.mat", _mat(drawn[:1])), ("gt/21_b.mat", _mat(drawn, labels))])
    )
    assert archive.keys() == ["21_b", "7"]
    truth = archive["21_b"]
    assert truth.size == (12, 9)
    assert all((got == given.astype(bool)).all() for got, given in zip(truth.boundaries, drawn, strict=True))
    assert all((got == given).all() for got, given in zip(truth.segmentations, labels, strict=True))
    assert len(archive["7"].boundaries) == 1
    with pytest.raises(DatasetError, match="no ground truth for '8'"):
        archive["8"]


@pytest.mark.parametrize("name", ["../1.mat", "/etc/1.mat", "gt/../../1.mat", "gt/a b.mat", "gt/.mat"])
def test_odd_member_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="plain file"):
        BoundaryArchive(_write(tmp_path / "a.tar", [(name, _mat([np.ones((2, 2), np.uint8)]))]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DatasetError, match="plain file"):
        BoundaryArchive(_write(tmp_path / "a.tar", [("gt/1.mat", b"")], kind))


def test_an_image_twice_is_refused(tmp_path: Path) -> None:
    data = _mat([np.ones((2, 2), np.uint8)])
    with pytest.raises(DatasetError, match="twice"):
        BoundaryArchive(_write(tmp_path / "a.tar", [("a/1.mat", data), ("b/1.mat", data)]))


def test_missing_empty_and_foreign_archives(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no ground truth at"):
        BoundaryArchive(tmp_path / "none.tar")
    with pytest.raises(DatasetError, match=r"no \.mat"):
        BoundaryArchive(_write(tmp_path / "a.tar", [("readme.txt", b"x")]))
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DatasetError, match="tar archive"):
        BoundaryArchive(tmp_path / "b.tar")


def test_a_cut_archive_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2, (200, 200)).astype(np.uint8)
    path = _write(tmp_path / "a.tar", [("1.mat", _mat([drawn]))])
    archive = BoundaryArchive(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match="cut short"):
        archive["1"]


def test_damaged_files_raise_dataset_errors_only() -> None:
    good = _mat([np.ones((20, 20), np.uint8)] * 2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(good[: rng.integers(0, len(good))] if rng.random() < 0.5 else good)
        for position in rng.integers(0, max(len(data), 1), 4):
            if len(data):
                data[position] = rng.integers(0, 256)
        with contextlib.suppress(DatasetError):  # any other error fails the test
            parse_boundaries("1", bytes(data))


@pytest.mark.parametrize(
    ("boundaries", "segmentations"),
    [
        ([np.ones((2, 3), np.uint8), np.ones((3, 2), np.uint8)], None),
        ([np.ones((2, 3), np.uint8)], [np.ones((3, 3), np.uint16)]),
        ([np.ones((2, 3, 2), np.uint8)], None),
        ([np.array([["a", "b"]], dtype=object)], [np.ones((1, 2), np.uint16)]),
        ([], None),
    ],
)
def test_maps_that_do_not_go_together(
    boundaries: list[np.ndarray], segmentations: list[np.ndarray] | None
) -> None:
    with pytest.raises(DatasetError):
        parse_boundaries("1", _mat(boundaries, segmentations))


def test_without_scipy_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"anymask\[eval\]"):
        parse_boundaries("1", b"")


def test_links(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,path\nother_000001,x/9.jpg\nbsds500_test_000002,data/images/test/10081.jpg\n")
    assert read_links(manifest) == {"bsds500_test_000002": "10081"}
    manifest.write_text("name,file\na,b\n")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_links(manifest)
    with pytest.raises(DatasetError, match="no manifest"):
        read_links(tmp_path / "none.csv")


@pytest.mark.skipif(
    not (EVAL / "bsds500_test_raw.tar").is_file(), reason=f"the BSDS500 ground truth is not at {EVAL}"
)
def test_the_real_test_set_links_up() -> None:
    data = Bsds500Test(EVAL)
    assert len(data) == 200
    sample = data[0]
    assert sample.truth.key == data.keys()[0] == "100007"
    assert (sample.truth.size, len(sample.truth.boundaries)) == ((321, 481), 5)
    assert sample.image[:2] == b"\xff\xd8"
    for boundary, labels in zip(sample.truth.boundaries, sample.truth.segmentations, strict=True):
        changes = np.zeros(labels.shape, bool)
        changes[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        changes[:-1] |= labels[:-1] != labels[1:]
        assert (changes & ~boundary).mean() < 0.01  # boundaries run where labels change
