"""The embedding cache: never wrong, never in the way."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import anymask
from anymask.predict.cache import EmbeddingCache
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, FloatArray
from anymask.runtime.fake_backend import FakeBackend
from anymask.types import Embedding


class Counting(FakeBackend):
    """Counts what the cache is to save."""

    encoded = 0

    def encode(self, pixels: FloatArray) -> Features:
        self.encoded += 1
        return super().encode(pixels)


@pytest.fixture
def segmenter(tmp_path: Path) -> Segmenter:
    """With a cache of its own."""
    return Segmenter(Counting(), EmbeddingCache(tmp_path / "new" / "embeddings", 10**6))


def picture(shade: int) -> np.ndarray:
    return np.full((16, 24, 3), shade, dtype=np.uint8)


def encoded(segmenter: Segmenter) -> int:
    assert isinstance(segmenter.backend, Counting)
    return segmenter.backend.encoded


def files(segmenter: Segmenter) -> list[Path]:
    assert segmenter.cache is not None
    return sorted(segmenter.cache.folder.iterdir())


def equal(first: Embedding, second: Embedding) -> bool:
    facts = ("image_size", "network_size", "image_digest", "model_digest", "preprocessing")
    return all(getattr(first, fact) == getattr(second, fact) for fact in facts) and all(
        np.array_equal(first.features[name], second.features[name])
        for name in {*first.features, *second.features}
    )


def test_a_picture_seen_before_is_not_encoded_again(segmenter: Segmenter) -> None:
    first, other = segmenter.embed(picture(1)), segmenter.embed(picture(2))
    assert encoded(segmenter) == 2
    assert equal(segmenter.embed(picture(1)), first)
    assert equal(segmenter.embed(picture(2)), other)
    assert encoded(segmenter) == 2
    assert not equal(first, other)
    assert equal(first, Segmenter(FakeBackend()).embed(picture(1)))


def test_another_model_has_its_own_entries(segmenter: Segmenter) -> None:
    first = segmenter.embed(picture(1))
    other = Segmenter(FakeBackend(64), segmenter.cache).embed(picture(1))
    assert other.model_digest != first.model_digest
    assert len(files(segmenter)) == 2
    assert equal(segmenter.embed(picture(1)), first)


def test_damaged_entries_are_dropped_and_made_again(segmenter: Segmenter) -> None:
    """A bit anywhere, tensor values included; cut, empty and foreign files too."""
    expected = segmenter.embed(picture(1))
    (path,) = files(segmenter)
    whole = path.read_bytes()
    chance = random.Random(0)
    damages = [whole[:-1], b"", b"junk", whole + b"\0"]
    for place in [0, 8, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(30))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        damages.append(bytes(flipped))
    for count, damage in enumerate(damages):
        (path,) = files(segmenter)
        path.write_bytes(damage)
        assert equal(segmenter.embed(picture(1)), expected)
        assert encoded(segmenter) == count + 2
        (path,) = files(segmenter)
        assert equal(Embedding.load(path), expected)


def test_an_entry_under_another_name_is_not_believed(segmenter: Segmenter) -> None:
    """Sound bytes, moved to another picture's key."""
    segmenter.embed(picture(1))
    (path,) = files(segmenter)
    expected = segmenter.embed(picture(2))
    (other,) = set(files(segmenter)) - {path}
    other.unlink()
    path.rename(path.with_name(other.name[:64] + path.name[64:]))
    assert equal(segmenter.embed(picture(2)), expected)
    assert encoded(segmenter) == 3


def test_the_least_recently_used_go_first(segmenter: Segmenter) -> None:
    assert segmenter.cache is not None
    segmenter.embed(picture(0))
    size = segmenter.cache.size()
    segmenter.cache.max_bytes = int(size * 3.5)
    for shade in (1, 2):
        segmenter.embed(picture(shade))
    for index, path in enumerate(sorted(files(segmenter), key=lambda file: file.stat().st_mtime_ns)):
        os.utime(path, (1000 + index, 1000 + index))
    segmenter.embed(picture(0))  # used again: now the newest
    segmenter.embed(picture(3))  # the fourth: one must go
    assert segmenter.cache.size() <= segmenter.cache.max_bytes
    assert encoded(segmenter) == 4
    for shade in (0, 2, 3):
        segmenter.embed(picture(shade))
    assert encoded(segmenter) == 4
    segmenter.embed(picture(1))
    assert encoded(segmenter) == 5


def test_no_room_at_all(tmp_path: Path) -> None:
    segmenter = Segmenter(Counting(), EmbeddingCache(tmp_path / "none", 0))
    for _ in range(2):
        segmenter.embed(picture(1))
    assert encoded(segmenter) == 2
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        segmenter = Segmenter(Counting(), EmbeddingCache(folder, 10**6))
        assert equal(segmenter.embed(picture(1)), segmenter.embed(picture(1)))


def test_unfinished_files_of_killed_processes_go(segmenter: Segmenter) -> None:
    segmenter.embed(picture(1))
    folder = files(segmenter)[0].parent
    old, young = folder / "a.part", folder / "b.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    segmenter.embed(picture(2))
    assert not old.exists()
    assert young.exists()
    assert segmenter.cache is not None
    segmenter.cache.clear()
    assert files(segmenter) == []


def test_threads_share_a_cache_that_is_too_small(segmenter: Segmenter) -> None:
    expected = [Segmenter(FakeBackend()).embed(picture(shade)) for shade in range(6)]
    assert segmenter.cache is not None
    segmenter.embed(picture(0))
    segmenter.cache.max_bytes = int(segmenter.cache.size() * 2.5)
    work = [index % 6 for index in range(120)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda shade: segmenter.embed(picture(shade)), work))
    assert all(equal(answer, expected[shade]) for answer, shade in zip(answers, work, strict=True))
    assert segmenter.cache.size() <= segmenter.cache.max_bytes


SCRIPT = """
import sys, numpy as np
from anymask.predict.cache import EmbeddingCache
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
plain, cached = Segmenter(FakeBackend()), Segmenter(FakeBackend(), EmbeddingCache(sys.argv[1], int(sys.argv[2])))
for index in range(60):
    image = np.full((16, 24, 3), index % 5, dtype=np.uint8)
    one, other = plain.embed(image), cached.embed(image)
    assert np.array_equal(one.features["embedding"], other.features["embedding"])
    assert one.image_digest == other.image_digest
"""


def test_processes_share_a_cache_that_is_too_small(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.embed(picture(0))
    assert segmenter.cache is not None
    room = str(int(segmenter.cache.size() * 2.5))
    folder = str(tmp_path / "shared")
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, folder, room]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    left = list(Path(folder).iterdir())
    assert all(path.suffix == ".safetensors" for path in left)
    assert sum(path.stat().st_size for path in left) <= int(room)


def test_load_with_a_cache(nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "cache"))
    first = anymask.load(nano_folder, threads=1, cache=True).embed(picture(9))
    assert len(list((tmp_path / "cache" / "embeddings").iterdir())) == 1
    again = anymask.load(nano_folder, threads=1, cache=True)

    def encode(pixels: FloatArray) -> Features:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(again.backend, "encode", encode)
    assert equal(again.embed(picture(9)), first)
    assert anymask.load(nano_folder, threads=1).cache is None
