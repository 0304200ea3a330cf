"""The closer look: where it looks, what it asks there, and what it puts back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from bright_backend import BrightBackend
from hypothesis import given
from hypothesis import strategies as st

import anymask
from anymask import CloserLook, Mask, Prompt, Segmenter
from anymask.errors import EmbeddingMismatchError, InputError, MaskError, PromptError
from anymask.evaluation.metrics import iou
from anymask.predict import closer as module
from anymask.predict.closer import SMALLEST_SIDE, CloserEmbedding, look_window
from anymask.runtime.backend import Features, FloatArray, PromptArrays
from anymask.runtime.fake_backend import RADII, FakeBackend
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.types import Embedding, MaskSet

DARK, BRIGHT = 6, 250


def ring(x: int, y: int, height: int = 480, width: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """A picture with one bright square ring of 40 x 40 pixels, 12 thick, its corner at (x, y); and its mask."""
    truth = np.zeros((height, width), dtype=bool)
    truth[y : y + 40, x : x + 40] = True
    truth[y + 12 : y + 28, x + 12 : x + 28] = False
    return np.where(truth[..., None], BRIGHT, DARK).astype(np.uint8).repeat(3, axis=2), truth


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def equal(first: Mask, second: Mask) -> bool:
    return (
        np.array_equal(first.array, second.array)
        and first.score == second.score
        and first.point == second.point
        and first.crop_box == second.crop_box
        and first.stability_score == second.stability_score
        and np.array_equal(first.low_res_logits, second.low_res_logits)
    )


@pytest.mark.parametrize(
    ("box", "image_size", "factor", "given", "window"),
    [
        ((100, 200, 140, 240), (500, 600), 2.5, {}, (70, 170, 170, 270)),
        ((100, 200, 140, 240), (500, 600), 1.0, {}, (100, 200, 140, 240)),
        ((100, 200, 180, 210), (500, 600), 2.0, {}, (60, 165, 220, 245)),  # slim: 160 x 20 becomes 160 x 80
        ((200, 100, 210, 180), (500, 600), 2.0, {}, (165, 60, 245, 220)),
        ((101, 200, 140, 240), (500, 600), 2.5, {}, (71, 170, 170, 270)),  # 71.75 and 169.25, outwards
        ((0, 0, 40, 40), (500, 600), 2.5, {}, (0, 0, 70, 70)),  # clipped, not moved
        ((560, 460, 600, 500), (500, 600), 2.5, {}, (530, 430, 600, 500)),
        ((100, 100, 104, 104), (500, 600), 2.5, {}, (86, 86, 118, 118)),  # at least 32
        ((0, 498, 2, 500), (500, 600), 2.5, {}, (0, 468, 32, 500)),
        ((3, 3, 5, 5), (20, 600), 2.5, {}, (0, 0, 32, 20)),
        ((100, 200, 140, 240), (500, 600), 2.5, {"points": [(300.5, 20.5)]}, (70, 20, 301, 270)),
        ((100, 200, 140, 240), (500, 600), 2.5, {"points": [(600, 500), (0, 0)]}, (0, 0, 600, 500)),
        ((100, 200, 140, 240), (500, 600), 2.5, {"box": (90.2, 150.2, 400.7, 210)}, (70, 150, 401, 270)),
    ],
)
def test_windows_by_hand(box, image_size, factor, given, window) -> None:
    arrays = {name: np.array(value, dtype=np.float64) for name, value in given.items()}
    assert look_window(box, image_size, factor, **arrays) == window


@st.composite
def objects(draw):
    """An image's size, an object's box in it, clicks and perhaps a box anywhere in the image."""
    height, width = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    place = st.tuples(st.floats(0, width), st.floats(0, height))
    points = draw(st.lists(place, max_size=4))
    corners = draw(st.none() | st.tuples(place, place))
    box = None if corners is None else np.concatenate([np.min(corners, 0), np.max(corners, 0)])
    return (height, width), (x0, y0, x1, y1), np.array(points) if points else None, box


@given(objects(), st.floats(1, 8))
def test_a_window_lies_in_the_image_and_holds_all_it_should(given, factor) -> None:
    (height, width), (x0, y0, x1, y1), points, box = given
    left, top, right, bottom = look_window((x0, y0, x1, y1), (height, width), factor, points, box)
    assert all(type(side) is int for side in (left, top, right, bottom))
    assert 0 <= left <= x0 < x1 <= right <= width
    assert 0 <= top <= y0 < y1 <= bottom <= height
    assert right - left >= min(width, SMALLEST_SIDE)
    assert bottom - top >= min(height, SMALLEST_SIDE)
    for x, y in np.reshape([] if points is None else points, (-1, 2)):
        assert left <= x <= right
        assert top <= y <= bottom
    if box is not None:
        assert left <= box[0] <= box[2] <= right
        assert top <= box[1] <= box[3] <= bottom


@given(objects(), st.floats(1, 8))
def test_an_unclipped_window_is_the_object_s_box_grown_about_its_middle(given, factor) -> None:
    _, (x0, y0, x1, y1), _, _ = given
    far = 100_000
    shifted = (x0 + far // 2, y0 + far // 2, x1 + far // 2, y1 + far // 2)
    window = np.array(look_window(shifted, (far, far), factor), dtype=float)
    sides, wanted = window[2:] - window[:2], factor * np.array([x1 - x0, y1 - y0])
    wanted = np.maximum(np.maximum(wanted, wanted.max() / 2), SMALLEST_SIDE)
    assert (np.abs(sides - wanted) <= 2).all()
    middle = np.array([shifted[0] + shifted[2], shifted[1] + shifted[3]]) / 2
    assert (np.abs((window[:2] + window[2:]) / 2 - middle) <= 1).all()


def test_a_small_ring_is_a_blur_at_first_and_a_ring_at_the_closer_look() -> None:
    """One cell of the first look is 20 image pixels, of the second under 3."""
    pixels, truth = ring(300, 200)
    segmenter = Segmenter(BrightBackend())
    for prompt in ({"points": [(302, 214)]}, {"box": (300, 200, 340, 240)}):
        plain = segmenter.segment(pixels, **prompt, multimask=False)[0]
        closer = CloserLook(segmenter).segment(pixels, **prompt, multimask=False)[0]
        assert iou(plain.array, truth) < 0.55
        assert plain.array[212:228, 312:328].mean() > 0.9
        assert iou(closer.array, truth) > 0.85
        assert closer.array[212:228, 312:328].mean() < 0.15


@pytest.mark.parametrize("shift", [(20, 0), (0, 40), (-100, 60), (160, -120)])
def test_a_moved_object_is_found_moved(shift) -> None:
    """By whole cells of the first look, so that the second sees the very same window."""
    dx, dy = shift
    look = CloserLook(Segmenter(BrightBackend()))
    here = look.segment(ring(300, 200)[0], points=[(302, 214)])
    there = look.segment(ring(300 + dx, 200 + dy)[0], points=[(302 + dx, 214 + dy)])
    for one, other in zip(here, there, strict=True):
        assert one.area == other.area > 0
        assert np.array_equal(np.roll(one.array, (dy, dx), (0, 1)), other.array)
        x0, y0, x1, y1 = one.crop_box
        assert other.crop_box == (x0 + dx, y0 + dy, x1 + dx, y1 + dy)


def test_the_window_is_asked_with_the_prompt_moved_and_the_first_answer() -> None:
    backend = BrightBackend()
    pixels, _ = ring(300, 200)
    prompt = {"points": [(302, 214), (330.5, 190)], "labels": [1, 0], "box": (290, 195, 345, 245)}
    (mask,) = CloserLook(Segmenter(backend)).segment(pixels, **prompt, multimask=False)
    x0, y0, x1, y1 = mask.crop_box
    _, window = backend.encoded
    assert window.shape[2:] == Segmenter(backend).frame((y1 - y0, x1 - x0)).network_size
    first, second = backend.asked
    corners = np.array([(302, 214), (330.5, 190), (290, 195), (345, 245)])
    assert np.allclose(first.points[0], corners * (128 / 640), atol=1e-4)
    long_side, resized = max(x1 - x0, y1 - y0), Segmenter(backend).frame((y1 - y0, x1 - x0)).resized_size
    scale = np.array([resized[1] / (x1 - x0), resized[0] / (y1 - y0)])
    assert np.abs(scale - 128 / long_side).max() < 0.5 / min(x1 - x0, y1 - y0)
    assert np.allclose(second.points[0], (corners - (x0, y0)) * scale, atol=1e-4)
    assert second.labels.tolist() == first.labels.tolist() == [[1, 0, 2, 3]]
    assert first.has_mask.tolist() == [0]
    assert second.has_mask.tolist() == [1]


def test_the_first_answer_is_cut_out_where_the_window_is() -> None:
    """The fake's logits are a cone over the click; its slope and top are known at every place of the window."""
    backend, seen = FakeBackend(), []
    decode = backend.decode

    def record(features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        seen.append(prompts)
        return decode(features, prompts)

    backend.decode = record  # type: ignore[method-assign]
    masks = CloserLook(Segmenter(backend)).segment(noise(512, 512), points=[(200, 300)])
    x0, y0, x1, y1 = masks[0].crop_box
    given = seen[1].mask_input[0, 0]
    rows, columns = (np.mgrid[: given.shape[0], : given.shape[1]] + 0.5) * (4 / 128 * max(x1 - x0, y1 - y0))
    x, y = x0 + columns, y0 + rows
    shift = 2 * 512 / 128  # the fake measures from the corners of its cells of four network pixels
    distance = np.hypot(x - 200 - shift, y - 300 - shift)
    sloping = (distance > 32) & (distance < 60)  # the top is blunt, and -8 the ground
    sloping &= (x < x1 - 8) & (y < y1 - 8)
    assert sloping.sum() > 100
    assert np.abs(given - (RADII[1] - distance * 128 / 512))[sloping].max() < 0.25


def test_both_looks_in_closed_form() -> None:
    """The second radius in the window, and one and a half times the first answer fed back to it."""
    masks = CloserLook(Segmenter(FakeBackend())).segment(noise(512, 512), points=[(200, 300)])
    x0, y0, x1, y1 = masks[0].crop_box
    side = max(x1 - x0, y1 - y0)
    radius = (RADII[0] + 1.5 * RADII[1]) / (128 / side + 1.5 * 128 / 512)
    y, x = np.mgrid[:512, :512] + 0.5
    disc = np.hypot(x - 200 - 4, y - 300 - 4) < radius  # the corners of cells, of both looks
    assert iou(masks[0].array, disc) > 0.93
    first = Segmenter(FakeBackend()).segment(noise(512, 512), points=[(200, 300)])[0]
    assert iou(first.array, disc) < 0.9


def test_what_is_put_back_is_what_the_window_answers() -> None:
    """Inside to the pixel; nothing outside."""
    backend = BrightBackend()
    pixels, _ = ring(300, 200)
    (mask,) = CloserLook(Segmenter(backend)).segment(pixels, points=[(302, 214)], multimask=False)
    x0, y0, x1, y1 = mask.crop_box
    alone = Segmenter(BrightBackend()).segment(
        pixels[y0:y1, x0:x1], points=[(302 - x0, 214 - y0)], multimask=False
    )[0]
    assert np.array_equal(mask.array[y0:y1, x0:x1], alone.array)
    assert mask.area == alone.area > 0
    assert mask.stability_score == alone.stability_score


def test_scores_order_and_points_are_those_of_the_first_look() -> None:
    segmenter = Segmenter(FakeBackend())
    pixels = noise(700, 900)
    plain = segmenter.segment(pixels, points=[(400, 300)])
    closer = CloserLook(segmenter).segment(pixels, points=[(400, 300)])
    assert [mask.score for mask in closer] == [mask.score for mask in plain]
    assert [mask.point for mask in closer] == [(400.0, 300.0)] * 3
    assert not np.array_equal(closer[0].array, plain[0].array)


def test_an_object_that_fills_the_image_is_left_as_it_was() -> None:
    """Discs of 48, 96 and 160 pixels' radius: windows of .22, .88 and all of the image."""
    segmenter = Segmenter(FakeBackend())
    pixels = noise(512, 512)
    plain = segmenter.segment(pixels, points=[(250, 250)])
    closer = CloserLook(segmenter).segment(pixels, points=[(250, 250)])
    assert closer[0].crop_box is not None
    assert equal(closer[1], plain[1])
    assert equal(closer[2], plain[2])
    all_closer = CloserLook(segmenter, largest_share=1.0).segment(pixels, points=[(250, 250)])
    assert all(mask.crop_box is not None for mask in all_closer)
    none_closer = CloserLook(segmenter, largest_share=0.01).segment(pixels, points=[(250, 250)])
    assert all(equal(*pair) for pair in zip(none_closer, plain, strict=True))
    backend = BrightBackend()
    CloserLook(Segmenter(backend), largest_share=0.0001).segment(ring(300, 200)[0], points=[(302, 214)])
    assert len(backend.encoded) == 1


def test_an_empty_answer_is_left_as_it_was_and_costs_nothing() -> None:
    backend = BrightBackend()
    dark = np.full((300, 400, 3), DARK, dtype=np.uint8)
    masks = CloserLook(Segmenter(backend)).segment(dark, points=[(50, 50)])
    assert [mask.area for mask in masks] == [0, 0, 0]
    assert all(equal(*pair) for pair in zip(masks, Segmenter(backend).segment(dark, [(50, 50)]), strict=True))
    assert sum(pixels.shape[2:] == (96, 128) for pixels in backend.encoded) == len(backend.encoded) == 2


def test_a_second_look_that_finds_nothing_leaves_the_first() -> None:
    class Blind(BrightBackend):
        def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
            logits, scores = super().decode(features, prompts)
            return (np.full_like(logits, -3.0) if prompts.has_mask.any() else logits), scores

    backend = Blind()
    pixels, _ = ring(300, 200)
    masks = CloserLook(Segmenter(backend)).segment(pixels, points=[(302, 214)])
    assert len(backend.encoded) == 2
    assert all(
        equal(*pair) for pair in zip(masks, Segmenter(backend).segment(pixels, [(302, 214)]), strict=True)
    )


def test_candidates_with_one_window_share_one_encode() -> None:
    same, different = BrightBackend(), BrightBackend()
    CloserLook(Segmenter(same)).segment(ring(300, 200)[0], points=[(302, 214)])
    assert len(same.encoded) == 2
    two = [Prompt(points=[(302, 214)]), Prompt(box=(290, 190, 340, 240))]
    CloserLook(Segmenter(different)).segment_many(ring(300, 200)[0], two)
    assert len(different.encoded) == 3


def test_candidates_with_nearly_one_window_share_the_first_one_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discs of 94, 188 and 312 pixels' radius: windows of some 470, 940 and all 1000 pixels a side."""
    backend, encoded = FakeBackend(), []
    encode = backend.encode
    monkeypatch.setattr(backend, "encode", lambda pixels: (encoded.append(pixels), encode(pixels))[1])
    masks = CloserLook(Segmenter(backend), largest_share=1.0).segment(noise(1000, 1000), points=[(500, 500)])
    assert len(encoded) == 1 + 2
    assert masks[0].crop_box != masks[1].crop_box == masks[2].crop_box != (0, 0, 1000, 1000)
    assert masks[1].area < masks[2].area


def test_the_second_look_alone_at_some_of_the_answers() -> None:
    backend = BrightBackend()
    look = CloserLook(Segmenter(backend))
    picture = anymask.read_image(ring(300, 200)[0])
    both = look.segment(picture, points=[(302, 214)])
    first = look.segmenter.segment(picture, points=[(302, 214)])
    (best,) = look.look_closer(picture, Prompt(points=[(302, 214)]), first[:1])
    assert equal(best, both[0])
    with pytest.raises(MaskError, match="picture"):
        look.look_closer(anymask.read_image(noise(20, 30)), Prompt(points=[(3, 4)]), first)


@pytest.mark.parametrize(
    ("other", "wanted", "box", "serves"),
    [
        ((0, 0, 100, 100), (0, 0, 100, 100), (40, 40, 60, 60), True),
        ((0, 0, 100, 100), (5, 0, 105, 100), (40, 40, 60, 60), True),
        ((0, 0, 100, 100), (15, 0, 115, 100), (40, 40, 60, 60), False),  # IoU .74
        ((0, 0, 100, 100), (5, 0, 105, 100), (40, 40, 101, 60), False),  # the object reaches outside
        ((0, 0, 100, 100), (200, 0, 300, 100), (40, 40, 60, 60), False),
    ],
)
def test_which_windows_are_about_the_same(other, wanted, box, serves) -> None:
    x0, y0, x1, y1 = box
    array = np.zeros((120, 320), dtype=bool)
    array[y0:y1, x0:x1] = True
    assert module._serves(other, wanted, Mask(array, 0.5)) is serves


@pytest.fixture(params=["fake", "onnx"])
def look(request: pytest.FixtureRequest, nano_folder: Path) -> CloserLook:
    """Over the fake and a real network, whose random weights answer with the whole image."""
    backend = FakeBackend() if request.param == "fake" else OnnxBackend(nano_folder, threads=1)
    return CloserLook(Segmenter(backend), largest_share=1.0)


def test_an_answer_can_be_given_back(look: CloserLook) -> None:
    """Its low-resolution logits are those of the whole image's frame, of the first look."""
    embedding = look.embed(noise(300, 400))
    answer = look.segment(embedding, points=[(200, 150)])[0]
    plain = look.segmenter.segment(embedding, points=[(200, 150)])[0]
    assert answer.low_res_logits is not None
    assert plain.low_res_logits is not None
    assert answer.crop_box is not None
    assert np.abs(answer.low_res_logits - plain.low_res_logits).max() < 1e-5
    again = look.segment(
        embedding, [(200, 150), (40, 40)], [1, 0], mask=answer.low_res_logits, multimask=False
    )
    by_plain = look.segmenter.segment(
        embedding, [(200, 150), (40, 40)], [1, 0], mask=plain.low_res_logits, multimask=False
    )
    assert len(again) == 1
    assert again[0].score == pytest.approx(by_plain[0].score, abs=1e-5)
    assert again.image_size == (300, 400)
    by_mask = look.segment(embedding, mask=answer.array, multimask=False)
    assert by_mask.image_size == (300, 400)


def test_many_objects_equal_one_by_one(look: CloserLook, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = look.embed(noise(300, 400))
    drawn = np.zeros((300, 400), dtype=bool)
    drawn[50:90, 60:110] = True
    prompts = [Prompt(points=[(30 * k, 20 * k)], labels=[1]) for k in range(1, 9)]
    prompts += [
        Prompt(box=(20, 30, 90, 80)),
        Prompt(mask=drawn),
        Prompt([(70, 70), (5, 5)], [1, 0], mask=drawn),
    ]
    for limit in (module.ARRAY_BYTES, 0):
        monkeypatch.setattr(module, "ARRAY_BYTES", limit)
        together = look.segment_many(embedding, prompts, multimask=True)
        for prompt, masks in zip(prompts, together, strict=True):
            alone = look.segment(embedding, prompt.points, prompt.labels, prompt.box, prompt.mask)
            for one, other in zip(masks, alone, strict=True):
                assert iou(one.array, other.array) > 0.999 or one.area == other.area == 0
                assert one.crop_box == other.crop_box
                assert one.score == pytest.approx(other.score, abs=1e-5)
    assert look.segment_many(embedding, []) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 700), (20, 20), (31, 33)])
def test_any_shape_of_image(look: CloserLook, size: tuple[int, int]) -> None:
    height, width = size
    embedding = look.embed(np.full((*size, 3), 90, dtype=np.uint8))
    for masks in (
        look.segment(embedding, points=[(0, 0), (width, height)], labels=[1, 0]),
        look.segment(embedding, points=[(width, height)]),
        look.segment(embedding, box=(0, 0, width / 3, height)),
    ):
        assert isinstance(masks, MaskSet)
        assert [mask.array.shape for mask in masks] == [size] * 3
        look.segment(embedding, mask=masks[0].low_res_logits, multimask=False)


@pytest.mark.parametrize("factor", [0, 0.99, -1, math.nan, math.inf])
def test_a_factor_out_of_range_is_told_in_one_sentence(factor: float) -> None:
    with pytest.raises(InputError, match=r"factor must be a number from 1, got") as error:
        CloserLook(Segmenter(FakeBackend()), factor=factor)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, math.nan])
def test_a_share_out_of_range_is_told_in_one_sentence(share: float) -> None:
    with pytest.raises(InputError, match=r"largest share must be over 0 and at most 1, got"):
        CloserLook(Segmenter(FakeBackend()), largest_share=share)


def test_bad_prompts_are_refused_as_the_segmenter_does(look: CloserLook) -> None:
    embedding = look.embed(noise(30, 40))
    with pytest.raises(PromptError, match="outside"):
        look.segment(embedding, points=[(41, 3)])
    with pytest.raises(PromptError, match="at least one"):
        look.segment(embedding)


def test_an_embedding_needs_its_picture(tmp_path: Path) -> None:
    look = CloserLook(Segmenter(FakeBackend()))
    pixels = noise(300, 400)
    embedding = look.embed(pixels)
    loaded = CloserEmbedding.load(embedding.save(tmp_path / "photo.safetensors"))
    assert type(loaded) is Embedding
    with pytest.raises(EmbeddingMismatchError, match="needs the picture"):
        look.segment(loaded, points=[(20, 30)])
    whole = CloserEmbedding.of(loaded, embedding.picture)
    for one, other in zip(
        look.segment(whole, points=[(200, 150)]), look.segment(embedding, points=[(200, 150)]), strict=True
    ):
        assert equal(one, other)
    with pytest.raises(EmbeddingMismatchError, match="another image"):
        CloserEmbedding.of(loaded, look.embed(noise(400, 300)).picture)
    with pytest.raises(EmbeddingMismatchError, match="another model"):
        CloserLook(Segmenter(FakeBackend(64))).segment(embedding, points=[(20, 30)])


def test_the_digest_tells_what_decides_the_answers() -> None:
    segmenter = Segmenter(FakeBackend())
    looks = [
        CloserLook(segmenter),
        CloserLook(segmenter, factor=2),
        CloserLook(segmenter, largest_share=0.4),
        CloserLook(Segmenter(FakeBackend(64))),
    ]
    assert len({look.digest for look in looks} | {segmenter.spec.digest}) == 5
    assert CloserLook(segmenter, 2.5, 0.5).digest == looks[0].digest
    assert looks[1].spec == segmenter.spec
    assert "factor=2" in repr(looks[1])
