"""Bytes of a file that need not stay in memory."""

from __future__ import annotations

import zipfile
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import pytest

from anymask.runtime.file_bytes import FileBytes

SIZE = 3 * 1024 * 1024 + 5
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes()


@pytest.fixture(params=["file", "member of an archive"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Traversable:
    if request.param == "file":
        path = tmp_path / "weights"
        path.write_bytes(CONTENT)
        return path
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("weights", CONTENT)
    return zipfile.Path(tmp_path / "model.zip", "weights")


def test_the_bytes_are_those_of_the_file_also_after_a_rest(stored: Traversable) -> None:
    data = FileBytes.of(stored, SIZE)
    assert data is not None
    assert data.array.tobytes() == CONTENT
    data.rest()
    assert data.array.tobytes() == CONTENT


def test_they_start_at_a_page(stored: Traversable) -> None:
    data = FileBytes.of(stored, SIZE)
    assert data is not None
    assert data.array.ctypes.data % 4096 == 0


def test_writing_does_not_change_the_file(stored: Traversable) -> None:
    data = FileBytes.of(stored, SIZE)
    assert data is not None
    data.array[:] = 0
    again = FileBytes.of(stored, SIZE)
    assert again is not None
    assert again.array.tobytes() == CONTENT


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_another_size_is_not_the_file(stored: Traversable, size: int) -> None:
    assert FileBytes.of(stored, size) is None


def test_a_file_that_is_replaced_does_not_change(tmp_path: Path) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(CONTENT)
    data = FileBytes.of(path, SIZE)
    other.write_bytes(bytes(SIZE))
    other.replace(path)
    assert data is not None
    data.rest()
    assert data.array.tobytes() == CONTENT


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what lies in memory")
def test_a_rest_takes_them_out_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    data = FileBytes.of(path, SIZE)
    assert data is not None
    assert data.array.max() == 255  # all pages were read
    assert resident_kb(path) > 3000
    data.rest()
    assert resident_kb(path) == 0


def resident_kb(path: Path) -> int:
    """Of a file's mappings in this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and first == "Rss:":
            total += int(line.split()[1])
    return total
