"""Embed and segment: the promises of the front door, over a fake and a real network."""

from __future__ import annotations

import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

import anymask
from anymask.errors import (
    AnymaskError,
    EmbeddingMismatchError,
    LimitError,
    ModelError,
    NotFoundError,
    PromptError,
)
from anymask.limits import MAX_OBJECTS_PER_CALL
from anymask.predict import segmenter as module
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, FloatArray, PromptArrays
from anymask.runtime.fake_backend import RADII, FakeBackend
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.types import Embedding, MaskSet, Prompt


@pytest.fixture
def fake() -> Segmenter:
    """Discs and boxes in a frame of 128."""
    return Segmenter(FakeBackend())


@pytest.fixture(scope="module", params=["fake", "onnx"])
def segmenter(request: pytest.FixtureRequest, nano_folder: Path) -> Segmenter:
    """The fake and a real network."""
    return Segmenter(FakeBackend() if request.param == "fake" else OnnxBackend(nano_folder, threads=1))


def picture(height: int = 64, width: int = 128) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def same(first: MaskSet, second: MaskSet) -> bool:
    """Equal masks; scores and logits to rounding."""
    return len(first) == len(second) and all(
        np.array_equal(one.array, other.array)
        and abs(one.score - other.score) <= 1e-5
        and one.low_res_logits is not None
        and other.low_res_logits is not None
        and np.abs(one.low_res_logits - other.low_res_logits).max() <= 1e-5
        for one, other in zip(first, second, strict=True)
    )


def test_a_click_gives_a_disc_around_it(fake: Segmenter) -> None:
    """The fake's frame is the image here, so the answer has a closed form."""
    masks = fake.segment(picture(), points=[(80, 32)])
    assert [round(mask.score, 6) for mask in masks] == pytest.approx([0.6, 0.5, 0.4])
    y, x = np.mgrid[:64, :128]
    for mask, radius in zip(masks, RADII[1:], strict=True):
        assert mask.size == (64, 128)
        assert mask.point == (80.0, 32.0)
        assert mask.array[32, 80]
        truth = np.hypot(x - 80, y - 32) < radius
        assert np.count_nonzero(mask.array & truth) / np.count_nonzero(mask.array | truth) > 0.7
        assert 0 < mask.stability_score < 1
        assert mask.low_res_logits is not None
        assert mask.low_res_logits.shape == (16, 32)


def test_three_candidates_or_one(segmenter: Segmenter) -> None:
    """Tokens 1 to 3 when ambiguous, token 0 when not, best first."""
    embedding = segmenter.embed(picture())
    three = segmenter.segment(embedding, points=[(20, 20)])
    one = segmenter.segment(embedding, points=[(20, 20)], multimask=False)
    assert (len(three), len(one)) == (3, 1)
    assert list(three.scores) == sorted(three.scores, reverse=True)
    prompts = PromptArrays(
        np.array([[[20, 20], [0, 0]]], dtype=np.float32),
        np.array([[1, -1]], dtype=np.float32),
        np.zeros((1, 1, 16, 32), dtype=np.float32),
        np.zeros(1, dtype=np.float32),
    )
    logits, scores = segmenter.backend.decode(embedding.features, prompts)
    assert np.array_equal(one[0].low_res_logits, logits[0, 0])
    assert one[0].score == scores[0, 0]
    best = 1 + int(np.argmax(scores[0, 1:]))
    assert np.array_equal(three[0].low_res_logits, logits[0, best])
    assert three[0].score == scores[0, best]


def test_a_background_click_takes_away(fake: Segmenter) -> None:
    embedding = fake.embed(picture())
    whole = fake.segment(embedding, points=[(60, 30)], multimask=False)[0].array
    less = fake.segment(embedding, points=[(60, 30), (72, 30)], labels=[1, 0], multimask=False)[0].array
    assert less.sum() < whole.sum()
    assert not (less & ~whole).any()
    assert whole[30, 72]
    assert not less[30, 72]


def test_a_mask_fed_back_moves_the_answer(segmenter: Segmenter) -> None:
    embedding = segmenter.embed(picture())
    first = segmenter.segment(embedding, points=[(60, 30)])[0]
    again = segmenter.segment(embedding, points=[(60, 30)], mask=first.low_res_logits, multimask=False)[0]
    plain = segmenter.segment(embedding, points=[(60, 30)], multimask=False)[0]
    assert np.abs(again.low_res_logits - plain.low_res_logits).max() > 1e-4
    alone = segmenter.segment(embedding, mask=first.low_res_logits, multimask=False)[0]
    drawn = segmenter.segment(embedding, mask=first.array, multimask=False)[0]
    assert alone.point is None
    assert drawn.size == (64, 128)


def test_many_objects_equal_one_by_one(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged prompts, over several batches of the decoder, kept as arrays and as run lengths."""
    embedding = segmenter.embed(picture(90, 70))
    inside = np.zeros((90, 70), dtype=bool)
    inside[10:40, 10:30] = True
    prompts = [Prompt(points=[(index * 3, 20 + index)] * (1 + index % 4)) for index in range(20)]
    prompts += [Prompt(box=(3, 4, 30 + index, 60)) for index in range(5)]
    prompts += [Prompt(mask=inside), Prompt(points=[(5, 5)], labels=[0], box=(2, 2, 60, 60), mask=inside)]
    monkeypatch.setattr(module, "PROMPTS_PER_DECODE", 7)
    monkeypatch.setattr(module, "SLOTS_PER_DECODE", 16)
    for multimask in (True, False):
        monkeypatch.setattr(module, "ARRAY_BYTES", 2**30 if multimask else 0)
        together = segmenter.segment_many(embedding, prompts, multimask=multimask)
        assert len(together) == len(prompts)
        for prompt, masks in zip(prompts, together, strict=True):
            alone = segmenter.segment(
                embedding, prompt.points, prompt.labels, prompt.box, prompt.mask, multimask
            )
            assert same(masks, alone), prompt
            assert [mask.point for mask in masks] == [mask.point for mask in alone]
            assert [mask.stability_score for mask in masks] == pytest.approx(
                [mask.stability_score for mask in alone], abs=1e-4
            )


def test_the_decoder_never_gets_more_than_its_bound(fake: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    decode = fake.backend.decode

    def record(features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        seen.append(prompts.labels.shape)
        return decode(features, prompts)

    monkeypatch.setattr(fake.backend, "decode", record)
    embedding = fake.embed(picture(20, 20))
    lengths = [1] * 70 + [900, 900, 900] + [3] * 5 + [1024]
    fake.segment_many(embedding, [Prompt(points=[(5, 5)] * length) for length in lengths])
    assert sum(count for count, _ in seen) == len(lengths)
    assert max(count for count, _ in seen) <= module.PROMPTS_PER_DECODE
    assert all(count == 1 or count * slots <= module.SLOTS_PER_DECODE for count, slots in seen)
    assert fake.segment_many(embedding, []) == []


def test_too_many_prompts_are_refused_before_any_is_decoded(fake: Segmenter) -> None:
    embedding = fake.embed(picture(8, 8))
    with pytest.raises(LimitError, match=str(MAX_OBJECTS_PER_CALL)):
        fake.segment_many(embedding, [Prompt(points=[(1, 1)])] * (MAX_OBJECTS_PER_CALL + 1))
    with pytest.raises(PromptError, match="Prompt"):
        fake.segment_many(embedding, [{"points": [(1, 1)]}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ({}, "at least one"),
        ({"points": []}, "at least one"),
        ({"points": [(1, 2, 3)]}, "pairs"),
        ({"points": [(math.nan, 1)]}, "finite"),
        ({"points": [(1, 1)], "labels": [2]}, "labels"),
        ({"points": [(1, 1)], "labels": [1, 0]}, "labels"),
        ({"labels": [1]}, "labels"),
        ({"points": [(129, 1)]}, "outside"),
        ({"box": (5, 5, 5, 9)}, "x0 < x1"),
        ({"box": (9, 5, 5, 9)}, "x0 < x1"),
        ({"box": (0, 0, 128, 65)}, "outside"),
        ({"mask": np.ones((63, 128), dtype=bool)}, "resize"),
        ({"mask": np.ones((64, 128), dtype=np.uint8)}, "bool"),
        ({"mask": np.ones((15, 32), dtype=np.float32)}, "32 x 16"),
    ],
)
def test_bad_prompts_are_told_in_one_sentence(
    segmenter: Segmenter, prompt: dict[str, object], says: str
) -> None:
    with pytest.raises(PromptError, match=says) as error:
        segmenter.segment(picture(), **prompt)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 700), (700, 33), (2, 65_535)])
def test_any_shape_of_image(segmenter: Segmenter, size: tuple[int, int]) -> None:
    height, width = size
    embedding = segmenter.embed(np.full((*size, 3), 90, dtype=np.uint8))
    assert embedding.image_size == size
    full = np.ones(size, dtype=bool)
    for masks in (
        segmenter.segment(embedding, points=[(0, 0), (width, height)], labels=[1, 0]),
        segmenter.segment(embedding, box=(0, 0, width, height)),
        segmenter.segment(embedding, mask=full),
    ):
        assert [mask.array.shape for mask in masks] == [size] * 3
        segmenter.segment(embedding, mask=masks[0].low_res_logits, multimask=False)


def test_a_turned_photo_is_prompted_as_it_is_seen(fake: Segmenter, tmp_path: Path) -> None:
    """EXIF orientation 6: stored 40 x 90, seen 90 wide after a quarter turn; same pixels, same embedding."""
    upright = picture(40, 90)
    stored = PillowImage.fromarray(np.rot90(upright).copy())
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    embedding = fake.embed(path)
    assert embedding.image_size == (40, 90)
    assert embedding.image_digest == fake.embed(upright).image_digest
    mask = fake.segment(embedding, points=[(85, 20)], multimask=False)[0]
    assert mask.size == (40, 90)
    assert mask.array[20, 85]


def test_every_kind_of_source_is_the_same_image(segmenter: Segmenter, tmp_path: Path) -> None:
    pixels = picture(30, 40)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    sources = [
        path,
        str(path),
        buffer.getvalue(),
        io.BytesIO(buffer.getvalue()),
        PillowImage.fromarray(pixels),
        pixels,
    ]
    sources += [anymask.Image(pixels)]
    embeddings = [segmenter.embed(source) for source in sources]
    assert len({embedding.image_digest for embedding in embeddings}) == 1
    expected = segmenter.segment(pixels, points=[(9, 9)])
    assert all(same(segmenter.segment(source, points=[(9, 9)]), expected) for source in [path, embeddings[0]])
    with pytest.raises(NotFoundError):
        segmenter.embed(tmp_path / "gone.png")
    with pytest.raises(AnymaskError):
        segmenter.segment(None, points=[(1, 1)])  # type: ignore[arg-type]


def test_saved_embeddings_give_the_same_masks(segmenter: Segmenter, tmp_path: Path) -> None:
    embedding = segmenter.embed(picture())
    embedding.save(tmp_path / "photo.emb.safetensors")
    loaded = Embedding.load(tmp_path / "photo.emb.safetensors")
    segmenter.check(loaded, picture())
    assert same(
        segmenter.segment(loaded, box=(3, 3, 60, 60)), segmenter.segment(embedding, box=(3, 3, 60, 60))
    )


def test_embeddings_of_another_origin_are_refused(segmenter: Segmenter) -> None:
    embedding = segmenter.embed(picture())
    other = picture()
    other[0, 0, 0] ^= 1
    with pytest.raises(EmbeddingMismatchError, match="another image"):
        segmenter.check(embedding, other)
    segmenter.check(embedding, picture())
    changes = {
        "another model": {"model_digest": "0" * 64},
        "made with": {"preprocessing": "longest-side-9"},
        "network frame": {"network_size": (128, 128)},
    }
    for says, change in changes.items():
        bad = dataclasses.replace(embedding, **change)  # type: ignore[arg-type]
        for act in (segmenter.check, lambda e: segmenter.segment(e, points=[(1, 1)])):
            with pytest.raises(EmbeddingMismatchError, match=says) as error:
                act(bad)
            assert "\n" not in str(error.value)
    with pytest.raises(EmbeddingMismatchError, match="another model"):
        Segmenter(FakeBackend(64)).segment(embedding, points=[(1, 1)])
    cut = {name: np.array(array[..., :-1]) for name, array in embedding.features.items()}
    with pytest.raises(AnymaskError):
        segmenter.segment(dataclasses.replace(embedding, features=cut), points=[(1, 1)])


class Broken(FakeBackend):
    """Answers NaN or infinity somewhere."""

    def __init__(self, place: str, value: float) -> None:
        super().__init__()
        self.place, self.value = place, value

    def encode(self, pixels: FloatArray) -> Features:
        embedding = super().encode(pixels)["embedding"].copy()
        if self.place == "features":
            embedding[0, 0, 0, 0] = self.value
        return {"embedding": embedding}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        logits, scores = super().decode(features, prompts)
        if self.place == "logits":
            logits[-1, -1, -1, -1] = self.value
        if self.place == "scores":
            scores[-1, -1] = self.value
        return logits, scores


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["features", "logits", "scores"])
def test_a_network_that_answers_nonsense_is_told(place: str, value: float) -> None:
    with pytest.raises(ModelError, match="NaN or infinity"):
        Segmenter(Broken(place, value)).segment(picture(), points=[(3, 3)])


def test_threads_share_a_segmenter(segmenter: Segmenter) -> None:
    embedding = segmenter.embed(picture())
    places = [(3 + 5 * index, 30) for index in range(20)]
    expected = [segmenter.segment(embedding, points=[place]) for place in places]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda place: segmenter.segment(embedding, points=[place]), places))
    assert all(same(one, other) for one, other in zip(answers, expected, strict=True))


def test_load_takes_a_path_and_settings(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = anymask.load(nano_folder, threads=1)
    assert segmenter.spec.name == "small"
    assert "small" in repr(segmenter)
    monkeypatch.setenv("ANYMASK_MODEL", str(nano_folder))
    monkeypatch.setenv("ANYMASK_THREADS", "1")
    assert anymask.load().spec == segmenter.spec
    with pytest.raises(ModelError):
        anymask.load(nano_folder, backend="torch")
    with pytest.raises(AnymaskError, match="backend"):
        anymask.load(nano_folder, backend="tea")
    with pytest.raises(AnymaskError, match="threads"):
        anymask.load(nano_folder, threads=-1)
    with pytest.raises(NotFoundError, match="known models"):
        anymask.load("vit_zz")


def test_a_smaller_frame_is_another_segmenter_of_the_same_model() -> None:
    fake, image = Segmenter(FakeBackend(long_side=128)), picture(96, 200)
    small = fake.in_frame(64)
    assert small.spec == dataclasses.replace(fake.spec, long_side=64)
    assert small.embed(image).network_size == (32, 64)
    assert small.segment(image, points=[(50, 40)])[0].array.shape == (96, 200)
    for made_by, asked in ((fake, small), (small, fake)):
        with pytest.raises(EmbeddingMismatchError, match="longest-side-"):
            asked.segment(made_by.embed(image), points=[(50, 40)])


def test_frames_that_cannot_be_smaller_stay() -> None:
    fake = Segmenter(FakeBackend(long_side=128))
    assert fake.in_frame(None) is fake
    assert fake.in_frame(128) is fake
    fake.backend.spec = dataclasses.replace(fake.spec, pad="square")
    assert fake.in_frame(64) is fake
