"""Many images in flight: the same masks in order, one image ahead, errors that stop no other; crops in batches."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_backend import PlantedBackend, picture

from anymask.automatic.encoding import EncodesMany, embed_many, images_per_encode
from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.automatic.streaming import looked_ahead
from anymask.errors import AnymaskError, ImageError, InputError, ModelError
from anymask.predict.cache import EmbeddingCache
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, PromptArrays

LOOSE: dict[str, Any] = {"points_per_side": 5, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.4}


class Together(PlantedBackend):
    """Takes three pictures of one size at a time."""

    images_per_encode = 3

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[int] = []

    def encode_many(self, pixels: np.ndarray) -> list[Features]:
        """See `EncodesMany.encode_many`."""
        self.encoded.append(len(pixels))
        return [PlantedBackend.encode(self, one[None]) for one in pixels]

    def encode(self, pixels: np.ndarray) -> Features:
        """See `Backend.encode`."""
        self.encoded.append(0)
        return super().encode(pixels)


def records(masks: Any) -> list[Any]:
    return [mask.to_record(0) for mask in masks]


def generator(backend: Any = None, **parameters: Any) -> Generator:
    return Generator(Segmenter(backend or PlantedBackend()), AutomaticSettings(**{**LOOSE, **parameters}))


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_a_stream_gives_what_runs_give(crop_n_layers: int) -> None:
    images = [picture(60 + 20 * index, 90, index) for index in range(4)]
    found = list(generator(crop_n_layers=crop_n_layers).stream(images))
    assert [one.index for one in found] == [0, 1, 2, 3]
    for one, image in zip(found, images, strict=True):
        alone = generator(crop_n_layers=crop_n_layers).run(image)
        assert one.run is not None
        assert one.image is not None
        assert one.error is None
        assert (one.image.pixels == image).all()
        assert records(one.run.masks) == records(alone.masks)
        assert (one.run.clicks, one.run.image_size) == (alone.clicks, alone.image_size)
        assert records(one.masks) == records(generator(crop_n_layers=crop_n_layers).generate(image))


def test_embeddings_stream_too() -> None:
    backend = PlantedBackend()
    embedding = Segmenter(backend).embed(picture(50, 70))
    (found,) = generator(backend).stream([embedding])
    assert found.image is None
    assert records(found.masks) == records(generator().generate(picture(50, 70)))


class Watched(PlantedBackend):
    """Its first decoding waits until the second image is encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded, self.second = 0, threading.Event()
        self.ahead: list[int] = []

    def encode(self, pixels: np.ndarray) -> Features:
        """See `Backend.encode`."""
        self.encoded += 1
        if self.encoded == 2:
            self.second.set()
        return super().encode(pixels)

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.decode`."""
        assert self.second.wait(30), "the second image was not encoded while the first was decoded"
        self.ahead.append(self.encoded)
        return super().decode(features, prompts)


def test_the_next_image_is_encoded_while_one_is_decoded_and_no_more() -> None:
    backend = Watched()
    asked: list[int] = []

    def images() -> Any:
        for index in range(6):
            asked.append(index)
            yield picture(60, 60, index)

    for done, _ in enumerate(generator(backend).stream(images()), start=1):
        assert len(asked) <= done + 1
    assert backend.ahead[0] == 2
    assert max(np.diff([0, *sorted(set(backend.ahead))])) <= 2


def test_nothing_is_read_before_the_first_is_asked_for_and_little_after_the_last() -> None:
    asked: list[int] = []

    def images() -> Any:
        for index in range(50):
            asked.append(index)
            yield picture(40, 40, index)

    stream = generator().stream(images())
    assert asked == []
    next(stream)
    stream.close()
    assert len(asked) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anymask-look-ahead")]


def test_images_that_fail_stop_no_other(tmp_path: Path) -> None:
    """One that cannot be read, one too small for the region, one whose second crop's answers are damaged."""

    class Damaged(PlantedBackend):
        def decode(self, features: Features, prompts: PromptArrays) -> tuple[np.ndarray, np.ndarray]:
            logits, scores = super().decode(features, prompts)
            self.crops = getattr(self, "crops", {})
            number = self.crops.setdefault(id(features), len(self.crops))
            return logits, scores * np.nan if number == 6 else scores

    (tmp_path / "bad.png").write_bytes(b"no picture")
    images: list[Any] = [
        picture(60, 80),
        tmp_path / "bad.png",
        picture(9, 9),
        picture(60, 81),
        picture(60, 82),
    ]
    backend = Damaged()
    kept: list[Features] = []  # so that no two have one id
    encode = backend.encode
    backend.encode = lambda pixels: (kept.append(encode(pixels)), kept[-1])[1]  # type: ignore[method-assign]
    found = list(generator(backend, crop_n_layers=1).stream(images, region=(0, 0, 50, 50)))
    errors = [type(one.error) for one in found]
    assert issubclass(errors[1], ImageError)
    assert errors[0] is errors[4] is type(None)
    assert errors[2:4] == [InputError, ModelError]
    assert [one.image is None for one in found] == [False, True, False, False, False]
    for index in (0, 4):
        alone = generator(crop_n_layers=1).generate(images[index], region=(0, 0, 50, 50))
        assert records(found[index].masks) == records(alone)
    with pytest.raises(ModelError):
        _ = found[3].masks


def test_what_is_no_error_of_ours_comes_up() -> None:
    def images() -> Any:
        yield picture(40, 40)
        raise KeyError("mine")

    stream = generator().stream(images())
    assert next(stream).index == 0
    with pytest.raises(KeyError, match="mine"):
        next(stream)


def test_looking_ahead_keeps_the_order_and_the_errors() -> None:
    assert list(looked_ahead(iter(range(100)))) == list(range(100))
    assert list(looked_ahead(iter([None, None]))) == [None, None]

    def broken() -> Any:
        yield 1
        raise ValueError("two")

    items = looked_ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)


def test_crops_of_one_size_are_encoded_together_with_the_same_masks() -> None:
    image = picture(200, 200)
    backend = Together()
    assert isinstance(backend, EncodesMany)
    assert not isinstance(PlantedBackend(), EncodesMany)
    together = generator(backend, crop_n_layers=2, points_per_side=4).run(image)
    alone = generator(crop_n_layers=2, points_per_side=4).run(image)
    assert records(together.masks) == records(alone.masks)
    assert max(backend.encoded) == 3
    assert sum(backend.encoded) == 1 + 4 + 16
    streamed = list(generator(backend, crop_n_layers=2, points_per_side=4).stream([image, image]))
    assert [records(one.run.masks) for one in streamed if one.run] == [records(alone.masks)] * 2


def test_embedding_many_is_embedding_each(tmp_path: Path) -> None:
    pictures = [picture(60, 80, index) for index in range(5)]
    backend = Together()
    cached = Segmenter(backend, EmbeddingCache(tmp_path, 10**8))
    assert images_per_encode(cached) == 3
    first = cached.embed(pictures[1])
    backend.encoded.clear()
    many = embed_many(cached, pictures)
    assert backend.encoded == [3, 1]
    for one, image in zip(many, pictures, strict=True):
        alone = Segmenter(PlantedBackend()).embed(image)
        assert one.image_digest == alone.image_digest
        assert one.image_size == alone.image_size
        for name, array in alone.features.items():
            np.testing.assert_array_equal(one.features[name], array)
    assert (first.features["embedding"] == many[1].features["embedding"]).all()
    backend.encoded.clear()
    embed_many(cached, pictures)
    assert backend.encoded == []  # all from the cache
    embed_many(Segmenter(backend), [*pictures[:2], picture(80, 60)])
    assert backend.encoded == [0, 0, 0]  # not of one size
    assert images_per_encode(Segmenter(PlantedBackend())) == 1


def test_damaged_features_of_one_of_many_are_refused() -> None:
    class Damaged(Together):
        def encode_many(self, pixels: np.ndarray) -> list[Features]:
            found = super().encode_many(pixels)
            return [*found[:-1], {name: array * np.nan for name, array in found[-1].items()}]

    with pytest.raises(ModelError, match="NaN or infinity"):
        embed_many(Segmenter(Damaged()), [picture(60, 60, index) for index in range(3)])
    assert issubclass(ModelError, AnymaskError)
