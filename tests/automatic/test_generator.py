"""What the generator does beside the published algorithm: regions, points, batches, memory, threads, settings."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_backend import PlantedBackend, picture

import anymask
import anymask.automatic.generator as generator_module
from anymask.automatic.answers import click_arrays
from anymask.automatic.generator import Generator, generate
from anymask.automatic.grid import point_grid
from anymask.automatic.settings import MODEL_DEFAULTS, AutomaticSettings
from anymask.errors import EmbeddingMismatchError, InputError, LimitError, ModelError, PromptError
from anymask.predict.prompts import prompt_arrays
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
from anymask.types import Mask, Prompt

LOOSE: dict[str, Any] = {"points_per_side": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.4}
IMAGE = picture(90, 120)


def records(masks: Any) -> list[Any]:
    return [mask.to_record(0) for mask in masks]


def run(image: np.ndarray = IMAGE, backend: Any = None, **parameters: Any) -> list[Mask]:
    segmenter = Segmenter(backend or PlantedBackend())
    return Generator(segmenter, AutomaticSettings(**{**LOOSE, **parameters})).run(image).masks


@settings(max_examples=12, deadline=None)
@given(
    points_per_batch=st.integers(1, 40),
    crop_n_layers=st.integers(0, 1),
    adaptive=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batches_change_nothing(points_per_batch: int, crop_n_layers: int, adaptive: bool, seed: int) -> None:
    shared = {"crop_n_layers": crop_n_layers, "adaptive": adaptive}
    image = picture(70, 100, seed)
    one = run(image, points_per_batch=points_per_batch, **shared)
    other = run(image, points_per_batch=36, **shared)
    assert records(one) == records(other)


def test_clicks_are_given_to_the_decoder_as_prompts_are() -> None:
    """Without a loop, to the bit."""
    points = np.random.default_rng(0).random((40, 2)) * (120, 90)
    frame, low_res = Segmenter(PlantedBackend()).frame((90, 120)), (24, 32)
    found = click_arrays(points, frame, low_res)
    wanted = prompt_arrays([Prompt(points=point[None], labels=[1]) for point in points], frame, low_res)
    for name in ("points", "labels", "mask_input", "has_mask"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_batches_are_no_larger_than_asked_for() -> None:
    backend = PlantedBackend()
    run(backend=backend, points_per_batch=7)
    assert backend.decoded == [7, 7, 7, 7, 7, 1]


def test_batches_change_nothing_for_the_embedded_nano() -> None:
    """The engine may round otherwise in other batches; measured equal to the pixel."""
    segmenter = anymask.load("nano", threads=1)
    shared = {"points_per_side": 4, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.2}
    image = picture(60, 80)
    image[20:40, 30:60] = (250, 20, 20)
    one, other = (
        Generator(segmenter, AutomaticSettings(**shared, points_per_batch=size)).generate(image)
        for size in (3, 16)
    )
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert (a.array & b.array).sum() >= 0.999 * (a.array | b.array).sum()


def test_a_stability_equal_to_the_threshold_is_enough() -> None:
    masks = run(box_nms_thresh=1.0)
    chosen = masks[len(masks) // 2]
    limit = chosen.stability_score
    assert limit is not None
    above = float(np.nextafter(np.float32(limit), np.float32(1)))
    equal, more = (
        [mask.point for mask in run(box_nms_thresh=1.0, stability_score_thresh=thresh)]
        for thresh in (limit, above)
    )
    assert chosen.point in equal
    assert len(more) < len(equal)


def test_masks_carry_where_they_come_from() -> None:
    masks = run(crop_n_layers=1)
    grid = point_grid(6)
    crops = {mask.crop_box for mask in masks}
    assert len(crops) > 2
    for mask in masks:
        assert mask.crop_box is not None
        assert mask.point is not None
        x0, y0, x1, y1 = mask.crop_box
        places = {tuple(point) for point in (grid * [x1 - x0, y1 - y0] + [x0, y0]).tolist()}
        assert mask.point in places
        assert mask.box_xyxy[0] >= x0
        assert mask.box_xyxy[3] <= y1
        assert mask.stability_score is not None
        assert mask.stability_score >= np.float32(0.4)
        assert mask.low_res_logits is None


def test_generate_gives_the_best_first() -> None:
    found = generate(IMAGE, Segmenter(PlantedBackend()), **LOOSE, crop_n_layers=1)
    assert found.image_size == (90, 120)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert sorted(map(str, records(found))) == sorted(map(str, records(run(crop_n_layers=1))))


def test_an_embedding_will_do_without_crops() -> None:
    segmenter = Segmenter(PlantedBackend())
    embedding = segmenter.embed(IMAGE)
    assert records(generate(embedding, segmenter, **LOOSE)) == records(generate(IMAGE, segmenter, **LOOSE))
    with pytest.raises(InputError, match="crops need the picture"):
        generate(embedding, segmenter, **LOOSE, crop_n_layers=1)
    with pytest.raises(EmbeddingMismatchError):
        generate(embedding, Segmenter(FakeBackend()), **LOOSE)


def test_the_embedded_model_finds_something_with_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores are on another scale than the published thresholds."""
    segmenter = anymask.load("nano", threads=1)
    monkeypatch.setattr(generator_module, "load", lambda: segmenter)
    rows, columns = np.mgrid[:96, :128]
    disc = np.hypot(rows - 48, columns - 64) < 24
    image = np.where(disc[..., None], np.array([230, 60, 40]), np.array([30, 90, 40])).astype(np.uint8)
    found = generate(image, effort="fast")
    overlaps = [(mask.array & disc).sum() / (mask.array | disc).sum() for mask in found]
    assert max(overlaps) > 0.8
    assert min(found.scores) > MODEL_DEFAULTS["nano"]["pred_iou_thresh"]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_a_region_leaves_out_clicks_and_masks(kind: str) -> None:
    """What stays is what the whole image's clicks in the region find, if mostly inside; nothing else suppresses it."""
    inside = np.zeros(IMAGE.shape[:2], dtype=bool)
    inside[10:70, 20:90] = True
    region = (20, 10, 90, 70) if kind == "box" else inside
    backend = PlantedBackend()
    segmenter = Segmenter(backend)
    free = AutomaticSettings(**{**LOOSE, "box_nms_thresh": 1.0})
    found = Generator(segmenter, free).generate(IMAGE, region=region)
    clicks = [point for point in (point_grid(6) * [120, 90]) if inside[int(point[1]), int(point[0])]]
    assert sum(backend.decoded) == len(clicks) == 12
    every = Generator(segmenter, free).generate(IMAGE)
    wanted = [
        mask
        for mask in every
        if inside[int(mask.point[1]), int(mask.point[0])] and (mask.array & inside).sum() >= 0.5 * mask.area
    ]
    assert 0 < len(wanted) < len(every)
    assert records(found) == records(wanted)


def test_regions_skip_the_crops_they_do_not_meet() -> None:
    backend = PlantedBackend()
    generator = Generator(Segmenter(backend), AutomaticSettings(**LOOSE, crop_n_layers=2))
    encoded: list[tuple[int, ...]] = []
    encode = backend.encode
    backend.encode = lambda pixels: (encoded.append(pixels.shape), encode(pixels))[1]  # type: ignore[method-assign]
    generator.generate(picture(200, 200), region=(0, 0, 20, 20))
    assert len(encoded) == 3  # the image and the top left crop of each layer


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((5, 5, 5, 9), "x0 < x1"),
        ((0, 0, 500, 10), "within the 120 x 90 image"),
        ((1, 2, 3), "a box"),
        (np.zeros((90, 120), dtype=bool), "pixels set"),
        (np.ones((9, 9), dtype=bool), "image's size"),
        ((0.0, 0.0, float("nan"), 5.0), "a box"),
        ((0, 0, 1, 1), "no point of the grid"),
    ],
)
def test_regions_that_do_not_fit(region: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(IMAGE, Segmenter(PlantedBackend()), **LOOSE, region=region)


def test_a_persons_points_are_clicked_beside_the_grid_and_answered() -> None:
    """With thresholds nothing passes, only the best mask of each such point is there."""
    segmenter = Segmenter(PlantedBackend())
    strict = {"points_per_side": 3, "pred_iou_thresh": 1.0, "stability_score_thresh": 1.0}
    assert len(generate(IMAGE, segmenter, **strict)) == 0
    points = [(30.5, 40.0), (100, 80)]
    found = generate(IMAGE, segmenter, points=points, **strict)
    assert {mask.point for mask in found} == {(30.5, 40.0), (100.0, 80.0)}
    for mask in found:
        answers = segmenter.segment(IMAGE, points=[mask.point])
        assert mask.score == answers[0].score
        assert mask.counts.tolist() == answers[0].counts.tolist()
    beside = generate(IMAGE, segmenter, points=points, **{**LOOSE, "box_nms_thresh": 1.0})
    alone = generate(IMAGE, segmenter, **{**LOOSE, "box_nms_thresh": 1.0})
    assert {mask.point for mask in beside} >= {mask.point for mask in alone} | {(30.5, 40.0)}


@pytest.mark.parametrize("points", [[(1, 2, 3)], [(500, 5)], [5, 5], [("a", "b")], [(np.nan, 1)]])
def test_points_that_do_not_fit(points: Any) -> None:
    with pytest.raises(PromptError):
        generate(IMAGE, Segmenter(PlantedBackend()), points=points, **LOOSE)


def test_large_masks_are_dropped_before_they_suppress_others() -> None:
    everything = run(box_nms_thresh=1.0)
    limit = float(np.median([mask.area for mask in everything])) / (90 * 120)
    small = run(box_nms_thresh=0.3, max_area_share=limit)
    assert small
    assert max(mask.area for mask in small) <= limit * 90 * 120
    without = [mask for mask in everything if mask.area <= limit * 90 * 120]
    from reference_generator import plain_nms

    boxes = [[b[0], b[1], b[2] - 1, b[3] - 1] for b in (mask.box_xyxy for mask in without)]
    kept = plain_nms(boxes, [mask.score for mask in without], 0.3)
    assert records(small) == records(without[index] for index in kept)


def test_progress_ends_at_all_clicks() -> None:
    for parameters in (
        {},
        {"crop_n_layers": 1},
        {"adaptive": True, "points_per_side": 12, "enough_clicks": 1},
    ):
        seen: list[tuple[int, int]] = []
        generator = Generator(Segmenter(PlantedBackend()), AutomaticSettings(**{**LOOSE, **parameters}))
        generator.generate(
            IMAGE, points=[(5, 5)], progress=lambda done, total, s=seen: s.append((done, total))
        )
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert seen[-1][0] == seen[-1][1]
        assert len({total for _, total in seen}) == 1


def test_masks_let_go_for_memory_come_back() -> None:
    """With no room at all every survivor's batch is decoded again, with the same answer."""
    backend = PlantedBackend()
    settings = AutomaticSettings(**LOOSE, points_per_batch=5, crop_n_layers=1)
    roomy = Generator(Segmenter(backend), settings).run(IMAGE)
    poor = Generator(Segmenter(backend), settings, waiting_bytes=0).run(IMAGE)
    some = Generator(Segmenter(backend), settings, waiting_bytes=600, keep_logits=True).run(IMAGE)
    assert records(poor.masks) == records(roomy.masks) == records(some.masks)
    assert poor.clicks > some.clicks >= roomy.clicks == 36 * 5
    whole = [mask for mask in some.masks if mask.crop_box == (0, 0, 120, 90)]
    assert whole
    assert all(mask.low_res_logits is not None for mask in whole)
    assert all(mask.low_res_logits is None for mask in some.masks if mask not in whole)


def peak_of(points_per_side: int, waiting_bytes: int) -> tuple[int, int]:
    """Peak of a run beyond its start, and the masks accepted, on discs that are all distinct."""
    segmenter = Segmenter(FakeBackend(128))
    embedding = segmenter.embed(picture(1100, 1500))
    settings = AutomaticSettings(
        points_per_side=points_per_side,
        points_per_batch=8,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=0.05,
    )
    generator = Generator(segmenter, settings, waiting_bytes=waiting_bytes)
    generator.generate(embedding, region=(700, 500, 800, 600), points=[(5, 5)])  # warm caches
    tracemalloc.start()
    generator.generate(embedding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, 3 * points_per_side**2


def test_memory_does_not_grow_with_the_candidates() -> None:
    """Sixteen times the candidates, all accepted: the peak grows by their boxes and scores only."""
    pixels = 1100 * 1500
    few, few_candidates = peak_of(4, waiting_bytes=20_000)
    many, many_candidates = peak_of(16, waiting_bytes=20_000)
    assert many_candidates == 16 * few_candidates
    assert many - few < 800 * (many_candidates - few_candidates)
    assert many < 1.1 * few
    assert many < 10 * pixels + 4 * 2**20  # seven bytes a pixel, and what the runs of one mask take


def test_one_generator_serves_many_threads() -> None:
    generator = Generator(Segmenter(PlantedBackend()), AutomaticSettings(**LOOSE, crop_n_layers=1))
    images = [picture(60 + 10 * index, 100, index) for index in range(3)]
    alone = [records(generator.generate(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [records(found) for found in pool.map(generator.generate, images * 2)]
    assert together == alone * 2


def test_answers_that_are_damaged_are_refused() -> None:
    class Damaged(PlantedBackend):
        def decode(self, features: Any, prompts: Any) -> Any:
            logits, scores = super().decode(features, prompts)
            return (logits * np.nan, scores) if self.where == "logits" else (logits, scores * np.nan)

    for where in ("logits", "scores"):
        backend = Damaged()
        backend.where = where
        with pytest.raises(ModelError, match="NaN or infinity"):
            run(backend=backend)


def test_a_run_of_too_many_clicks_is_refused_before_anything_is_done() -> None:
    backend = PlantedBackend()
    with pytest.raises(LimitError, match="crops with their grids"):
        run(picture(300, 300), backend, points_per_side=256, crop_n_layers=2)
    assert backend.decoded == []


def test_a_flat_or_tiny_image() -> None:
    for size in ((1, 1), (1, 40), (3, 2)):
        image = np.zeros((*size, 3), dtype=np.uint8)
        found = generate(
            image, Segmenter(FakeBackend()), points_per_side=2, pred_iou_thresh=0, crop_n_layers=1
        )
        assert found.image_size == size


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_clicks_are_asked_in_the_settings_frame(crop_n_layers: int) -> None:
    """As by a segmenter that has it, in a stream too; a larger one than the model's own changes nothing."""
    small = Segmenter(PlantedBackend()).in_frame(64)
    values = AutomaticSettings(**LOOSE, crop_n_layers=crop_n_layers)
    wanted = records(Generator(small, values).run(IMAGE).masks)
    framed = Generator(Segmenter(PlantedBackend()), replace(values, frame_side=64))
    assert records(framed.run(IMAGE).masks) == wanted
    streamed = [found.run for found in framed.stream([IMAGE, IMAGE])]
    assert [records(one.masks) for one in streamed if one is not None] == [wanted, wanted]
    own = records(run(crop_n_layers=crop_n_layers))
    assert own != wanted
    assert records(run(crop_n_layers=crop_n_layers, frame_side=999)) == own


def test_an_embedding_keeps_its_own_frame() -> None:
    segmenter = Segmenter(PlantedBackend())
    framed = Generator(segmenter, AutomaticSettings(**LOOSE, frame_side=64))
    assert records(framed.run(segmenter.embed(IMAGE)).masks) == records(run())
    small = segmenter.in_frame(64).embed(IMAGE)
    assert records(framed.run(small).masks) == records(run(frame_side=64))
