"""Embedding: checked at birth, and a file that gives back the same bits or a clear refusal."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anymask.errors import EmbeddingError, NotFoundError, OutputError
from anymask.types import Embedding


def features():
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((1, 4, 3, 5), dtype=np.float32), "high": np.ones((1, 2), np.float32)}


def embedding(**changes):
    values = {
        "features": features(),
        "image_size": (30, 50),
        "network_size": (48, 80),
        "image_digest": "a" * 64,
        "model_digest": "b" * 64,
        "preprocessing": "square-1024-v1",
    }
    return Embedding(**(values | changes))


def test_arrays_are_copies_and_read_only():
    given = features()
    value = embedding(features=given)
    given["image"][:] = 0
    assert np.array_equal(value.features["image"], features()["image"])
    assert not value.features["image"].flags.writeable
    with pytest.raises(TypeError):
        value.features["new"] = given["image"]


def test_repr_is_short():
    assert len(repr(embedding())) < 200


def test_round_trip(tmp_path):
    value = embedding()
    path = value.save(tmp_path / "photo.emb.safetensors")
    back = Embedding.load(path)
    assert sorted(back.features) == sorted(value.features)
    for name, array in value.features.items():
        assert np.array_equal(back.features[name], array)
        assert back.features[name].dtype == np.float32
    for name in ("image_size", "network_size", "image_digest", "model_digest", "preprocessing"):
        assert getattr(back, name) == getattr(value, name)
    assert np.array_equal(load_file(path)["image"], value.features["image"])  # an ordinary safetensors file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": {}}, "1 to 32"),
        ({"features": {str(i): np.ones(1, np.float32) for i in range(33)}}, "1 to 32"),
        ({"features": {"x": np.ones(3)}}, "float64"),
        ({"features": {"x": np.ones(0, np.float32)}}, "non-empty"),
        ({"features": {"x": [1.0]}}, "list"),
        ({"features": {"": np.ones(1, np.float32)}}, "name"),
        ({"features": {"x": np.array([np.nan], np.float32)}}, "NaN"),
        ({"features": {"x": np.array([np.inf], np.float32)}}, "infinity"),
        ({"image_size": (0, 5)}, "image_size"),
        ({"image_size": (5,)}, "image_size"),
        ({"image_size": (60_000, 60_000)}, "pixels"),
        ({"image_size": (1.5, 5)}, "image_size"),
        ({"network_size": (64, 100_000)}, "network_size"),
        ({"model_digest": ""}, "model_digest"),
        ({"preprocessing": 5}, "preprocessing"),
    ],
)
def test_what_is_refused_at_birth(changes, words):
    with pytest.raises(EmbeddingError, match=words):
        embedding(**changes)


def test_nothing_half_written(tmp_path):
    with pytest.raises(OutputError):
        embedding().save(tmp_path / "no" / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_missing_file(tmp_path):
    with pytest.raises(NotFoundError, match="nothing"):
        Embedding.load(tmp_path / "nothing")
    with pytest.raises(EmbeddingError):
        Embedding.load(tmp_path)


METADATA = {
    "format": "anymask-embedding",
    "version": "1",
    "image_height": "30",
    "image_width": "50",
    "network_height": "48",
    "network_width": "80",
    "image_digest": "a",
    "model_digest": "b",
    "preprocessing": "p",
}


def saved(path, metadata=METADATA, arrays=None):
    save_file(arrays or features(), path, metadata=metadata)
    return path


@pytest.mark.parametrize("key", sorted(METADATA))
def test_each_missing_key_is_refused(tmp_path, key):
    metadata = {name: text for name, text in METADATA.items() if name != key}
    with pytest.raises(EmbeddingError, match=key if key not in ("format", "version") else "version 1"):
        Embedding.load(saved(tmp_path / "x", metadata))


@pytest.mark.parametrize("text", ["-3", "3.5", "", "nan", "9" * 30, "²", "0"])
def test_a_bad_size_is_refused(tmp_path, text):
    with pytest.raises(EmbeddingError):
        Embedding.load(saved(tmp_path / "x", METADATA | {"image_height": text}))


@pytest.mark.parametrize(
    "array", [np.ones(3), np.ones(3, np.float16), np.ones(3, np.int8), np.full(3, np.nan, np.float32)]
)
def test_bad_arrays_are_refused(tmp_path, array):
    with pytest.raises(EmbeddingError):
        Embedding.load(saved(tmp_path / "x", arrays={"image": array}))


def test_every_truncation_and_many_damages_are_refused_or_harmless(tmp_path):
    path = embedding().save(tmp_path / "x")
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(EmbeddingError):
            Embedding.load(path)
    rng = np.random.default_rng(1)
    for _ in range(500):
        damaged = bytearray(good)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            value = Embedding.load(path)
        except EmbeddingError:
            continue
        assert all(np.isfinite(array).all() for array in value.features.values())


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    header = {
        "image": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]},
        "__metadata__": METADATA,
    }
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
    with pytest.raises(EmbeddingError, match="safetensors"):
        Embedding.load(tmp_path / "x")
