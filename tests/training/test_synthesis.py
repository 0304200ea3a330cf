"""Pasted objects and drawn scenes: what the coverage says is what the pixels show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anymask.data.dataset import Sample
from anymask.data.sa1b import open_shards
from anymask.errors import InputError
from anymask.masks.rle import encode
from anymask.training import synthesis
from anymask.training.augmentation import augmented_view
from anymask.training.samples import BatchSource, is_held_back
from anymask.training.sampling_config import SamplingConfig
from anymask.training.scenes import SMALLEST, Canvas, scene
from anymask.training.shapes import SHAPES, Outline, clipped, rasterise
from anymask.training.synthesis import (
    Cutout,
    Layer,
    composite,
    cut_out,
    hidden_by,
    hide,
    place,
    visible_alphas,
)
from conftest import COLOURS
from conftest import scene as drawn_ellipses

CONFIG = SamplingConfig(images=3, masks=2, phases=((0, ((64, 96),)), (5, ((128, 128),))))
PASTING = replace(CONFIG, paste=1.0, paste_sources=("first", "second", "absent"))
EVERYWHERE = (slice(0, 96), slice(0, 128))


def _source(folder: Path, config: SamplingConfig, seed: int = 0) -> BatchSource:
    shards = open_shards(folder)
    return BatchSource(shards, [s.source for s in shards], config, seed)


def _square(size: int = 40, margin: int = 6, colour: int = 255) -> Cutout:
    """A plain square on black."""
    alpha = np.zeros((size, size), np.uint8)
    alpha[margin:-margin, margin:-margin] = 255
    return Cutout(np.repeat(alpha[..., None] // 255 * np.uint8(colour), 3, 2), alpha)


def _layer(top: int, left: int, height: int, width: int, colour: int) -> Layer:
    alpha = np.full((height, width), 255, np.uint8)
    return Layer(top, left, np.full((height, width, 3), colour, np.uint8), alpha, alpha)


# Batches


def test_without_synthesis_batches_are_those_of_before(shards: Path) -> None:
    """Sums of coverage and means of pixels that the code gave before it knew of cut-outs and scenes."""
    source = _source(shards, CONFIG)
    expected = {
        2: ([[9532, 8680], [3862, 4693], [7170, 5213]], [123.391, 126.447, 90.035]),
        5: ([[9705, 12624], [19446, 20293], [16422, 17001]], [116.092, 72.509, 71.629]),
    }
    for number, (coverage, light) in expected.items():
        batch = source[number]
        assert batch.coverage.sum((2, 3), dtype=torch.int64).numpy() == pytest.approx(
            np.array(coverage), rel=1e-3
        )
        assert batch.pixels.double().mean((1, 2, 3)).numpy() == pytest.approx(np.array(light), abs=0.05)


def test_settings_that_do_nothing_leave_the_stream_alone(shards: Path) -> None:
    other = replace(CONFIG, paste_objects=(2, 2), paste_area=(0.2, 0.3), paste_sources=("nowhere",))
    first, second = _source(shards, CONFIG)[3], _source(shards, other)[3]
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.coverage, second.coverage)


@pytest.mark.parametrize("change", [{"paste": 1.0}, {"scenes": 1.0}, {"paste": 0.5, "scenes": 0.5}])
def test_a_batch_depends_on_seed_and_step_alone(shards: Path, change: dict[str, float]) -> None:
    config = replace(PASTING, **change)
    first, second = _source(shards, config), _source(shards, config)
    first[0], first[3]
    one, again = first[6], second[6]
    assert torch.equal(one.pixels, again.pixels)
    assert torch.equal(one.coverage, again.coverage)
    assert not torch.equal(one.pixels, _source(shards, config, seed=1)[6].pixels)
    assert not torch.equal(one.pixels, _source(shards, CONFIG)[6].pixels)
    assert one.pixels.shape == (3, 3, 128, 128)
    assert one.coverage.shape == (3, 2, 32, 32)


def test_masks_of_batches_are_never_empty(shards: Path) -> None:
    config = replace(PASTING, paste=0.7, scenes=0.4)
    source = _source(shards, config)
    for number in range(12):
        batch = source[number]
        assert (batch.coverage.sum((2, 3), dtype=torch.int64) >= 255 * config.min_cells).all()
        assert (batch.pixels.double().std((1, 2, 3)) > 2.0).all()


def test_pasted_masks_stay_on_their_objects(shards: Path) -> None:
    """Objects are plain red, green or blue on grey, the view's own and pasted ones; so is what hides one."""
    plain = replace(PASTING, masks=12, grey=0.0, invert=0.0)
    source = _source(shards, plain)
    on_object, elsewhere, purity, counts = [], [], [], []
    for seed in range(24):
        sample = source.shards[0][seed % len(source.shards[0])]
        view = augmented_view(sample, 128, 160, plain, np.random.default_rng(seed), source._donate)
        assert view is not None
        pixels, coverage = view
        masks = list({mask.tobytes(): mask for mask in coverage}.values())
        small = cv2.resize(pixels, (40, 32), interpolation=cv2.INTER_AREA).astype(int)
        saturation, channel = small.max(2) - small.min(2), small.argmax(2)
        on_object += list(saturation[(coverage > 250).any(0)] > 25)
        elsewhere += list(saturation[(coverage == 0).all(0)] > 25)
        purity += [np.bincount(channel[m > 250]).max() / (m > 250).sum() for m in masks if (m > 250).any()]
        counts.append(len(masks))
    assert np.mean(on_object) > 0.995  # seen 1.000; 0.989 when coverage lies a cell aside
    assert np.mean(elsewhere) < 0.05  # seen 0.014; 0.18 when pasted objects have no masks
    assert (
        np.mean(purity) > 0.995
    )  # seen 1.000; 0.98 when pasted objects lie in the wrong order, 0.96 without occlusion
    assert np.mean(counts) > 3.5  # seen 4.6; the samples have one to three masks of their own


def test_no_object_comes_from_a_held_back_image(shards: Path) -> None:
    source = _source(shards, replace(PASTING, hold_back=2))
    rng = np.random.default_rng(0)
    keys = {donation[0].key for donation in (source._donate(rng) for _ in range(40)) if donation is not None}
    kept = {shard.keys()[i] for shard in source.shards for i in range(len(shard)) if not is_held_back(i, 2)}
    assert len(keys) > 4
    assert keys <= kept


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("paste", 1.5, "share of views"),
        ("scenes", -0.1, "share of views"),
        ("paste_objects", (3, 2), "least <= greatest"),
        ("paste_objects", (0, 2), "least <= greatest"),
        ("paste_area", (0.5, 0.5), "least < greatest"),
    ],
)
def test_bad_settings_are_named(field: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(CONFIG, **{field: value})


def test_pasting_needs_a_shard_to_cut_from(shards: Path) -> None:
    with pytest.raises(InputError, match="none of its sources"):
        _source(shards, replace(CONFIG, paste=0.5, paste_sources=("nowhere",)))


# Cut-outs


def _sample(mask: np.ndarray, image: np.ndarray, category: str = "thing") -> Sample:
    ys, xs = np.nonzero(mask)
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
    annotation = {"segmentation": encode(mask), "bbox": box, "area": int(mask.sum()), "category": category}
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return Sample("key", "source", data, mask.shape[1], mask.shape[0], [annotation])


def test_whole_objects_keep_off_the_border_and_within_the_area() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    mask = np.zeros((50, 100), bool)
    mask[10:20, 2:52] = True  # a tenth of the image, just off the border
    sample = _sample(mask, image)
    assert len(synthesis.whole_objects(sample, (0.1, 0.6))) == 1
    assert len(synthesis.whole_objects(sample, (0.1, 0.6), "thing")) == 1
    assert not synthesis.whole_objects(sample, (0.1, 0.6), "other")
    assert not synthesis.whole_objects(sample, (0.11, 0.6))
    assert not synthesis.whole_objects(sample, (0.01, 0.09))
    assert not synthesis.whole_objects(_sample(np.roll(mask, -1, 1), image), (0.1, 0.6))


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_cut_out_of_a_reduced_image_stays_in_register(reduction: int) -> None:
    """An odd-sized picture with a bright ellipse: the light inside the alpha is the ellipse's."""
    mask = np.zeros((151, 203), np.uint8)
    cv2.ellipse(mask, (97, 71), (53, 31), 20, 0, 360, 1, -1)
    image = np.repeat(mask[..., None] * np.uint8(200) + np.uint8(20), 3, 2)
    sample = _sample(mask.astype(bool), image)
    cutout = cut_out(synthesis.decode_reduced(sample.image, reduction), sample.annotations[0], reduction)
    assert cutout.alpha.sum() / 255 * reduction**2 == pytest.approx(mask.sum(), rel=0.01)
    grey = cutout.pixels.mean(2)
    expected = 20.0 + 200.0 * cutout.alpha / 255
    assert np.abs(grey - expected).mean() < 4.0  # JPEG's ringing; one pixel aside gives over 10
    assert not cutout.alpha[0].any()
    assert not cutout.alpha[:, -1].any()


def test_placed_alpha_is_the_composite_of_white_on_black() -> None:
    """The alpha is warped like the pixels: pasted white on black gives the alpha itself, at any zoom and turn."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cutout = _square(size=60 + seed)
        layer = place(cutout, float(rng.uniform(0.3, 1.4)), EVERYWHERE, rng)
        assert layer is not None
        seen = composite(np.zeros((96, 128, 3), np.uint8), [layer])
        (alpha,) = visible_alphas([layer], 96, 128)
        assert alpha is not None
        # white on black squares itself where the edge is soft: pixel = 255 * share ** 2
        assert np.abs(seen[..., 0] - 255.0 * (alpha / 255.0) ** 2).max() <= 2.0


def test_area_of_a_placed_square() -> None:
    """Zoom, stretch, flip and turn keep the area at side squared times zoom squared."""
    errors = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        zoom = float(rng.uniform(0.4, 1.2))
        layer = place(_square(), zoom, (slice(0, 400), slice(0, 400)), rng, near=(200.0, 200.0))
        assert layer is not None
        errors.append(layer.alpha.sum() / 255 / (28 * 28 * zoom**2) - 1)
    assert np.abs(errors).max() < 0.06  # a shrunk square's size is rounded to whole pixels
    assert abs(np.mean(errors)) < 0.02


def test_nothing_is_pasted_outside_the_window() -> None:
    inside = (slice(10, 50), slice(20, 70))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        layer = place(_square(), 1.3, inside, rng)
        if layer is None:
            continue
        view = np.full((96, 128, 3), 90, np.uint8)
        layer = synthesis.dress(layer, view, inside, rng)
        changed = (composite(view, [layer]) != view).any(2)
        changed[inside] = False
        assert not changed.any()


def test_later_layers_hide_earlier_ones() -> None:
    layers = [_layer(10, 10, 20, 20, 50), _layer(20, 20, 20, 20, 100), _layer(0, 0, 8, 8, 150)]
    seen = composite(np.zeros((64, 64, 3), np.uint8), layers)[..., 0]
    alphas = visible_alphas(layers, 64, 64)
    for layer, alpha, area in zip(layers, alphas, (300, 400, 64), strict=True):
        assert alpha is not None
        assert (alpha == np.where(seen == layer.pixels[0, 0, 0], 255, 0)).all()
        assert (alpha > 0).sum() == area
    assert (hidden_by(layers, 64, 64) == np.where(seen > 0, 255, 0)).all()


def test_what_is_mostly_hidden_is_dropped() -> None:
    below = _layer(0, 0, 10, 10, 50)
    for covered, is_kept in ((5, True), (6, True), (7, False)):
        above = _layer(0, 0, 10, covered, 90)
        assert (visible_alphas([below, above], 16, 16)[0] is not None) == is_kept
        own = np.zeros((16, 16), np.uint8)
        own[:10, :10] = 255
        left = hide(own, hidden_by([above], 16, 16))
        assert (left is not None) == is_kept
        assert left is None or left.sum() == 255 * 10 * (10 - covered)


def test_an_edge_of_any_softness_lies_where_the_alpha_says() -> None:
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    profiles = set()
    for seed in range(40):
        soft = synthesis.soften(alpha, np.random.default_rng(seed))
        profiles.add(soft[20].tobytes())
        assert soft.mean() == pytest.approx(alpha.mean(), rel=0.01)
        assert (soft[alpha == 0] <= 128).all()  # half way in, half way out
        assert not soft[20, :6].any()  # no wider than the blur's two pixels and its tail
    assert len(profiles) > 8


def test_colours_change_on_their_own_and_stay_in_range() -> None:
    image, masks = drawn_ellipses(3)
    alpha = masks[0].astype(np.uint8) * np.uint8(255)
    below = np.full_like(image, 200)
    means = [
        synthesis.recolour(image, below, alpha, np.random.default_rng(seed))[masks[0]].mean(0)
        for seed in range(60)
    ]
    assert np.std(means, axis=0).min() > 10.0
    assert np.abs(np.mean(means, axis=0) - 200.0).max() < np.abs(COLOURS[0].astype(float) - 200.0).max()


# Scenes


def test_area_of_a_circle_and_a_turned_rectangle() -> None:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], 1)
    for radius, centre in ((3.0, (20.3, 17.9)), (11.4, (40.0, 31.2)), (30.0, (50.5, 40.7))):
        patch = rasterise(Outline((unit * radius + centre,)), 96, 128)
        assert patch is not None
        assert patch.alpha.sum() / 255 == pytest.approx(np.pi * radius**2, rel=0.02 if radius < 5 else 0.005)
        rows, columns = np.indices(patch.alpha.shape) + 0.5
        total = patch.alpha.sum()
        seen = (
            (patch.alpha * columns).sum() / total + patch.left,
            (patch.alpha * rows).sum() / total + patch.top,
        )
        assert seen == pytest.approx(centre, abs=0.05)
    turn = np.array([[np.cos(0.6), np.sin(0.6)], [-np.sin(0.6), np.cos(0.6)]])
    corners = np.array([[-20, -7], [20, -7], [20, 7], [-20, 7]]) @ turn + (60.2, 50.9)
    patch = rasterise(Outline((corners,)), 96, 128)
    assert patch is not None
    assert patch.alpha.sum() / 255 == pytest.approx(40 * 14, rel=0.01)


def test_holes_strokes_and_the_border() -> None:
    square = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0]])
    hole = (square - 30) * 0.5 + 30
    patch = rasterise(Outline((square, hole)), 96, 128)
    assert patch is not None
    assert patch.alpha.sum() / 255 == pytest.approx(1600 - 400, rel=0.01)
    line = rasterise(Outline((np.array([[20.0, 30.0], [80.0, 30.0]]),), 6.0), 96, 128)
    assert line is not None
    assert line.alpha.sum() / 255 == pytest.approx(
        60 * 6 + np.pi * 9, rel=0.1
    )  # OpenCV's lines have round ends
    cut = rasterise(Outline((square - (30, 0),)), 96, 128)
    assert cut is not None
    assert cut.alpha.sum() / 255 == pytest.approx(
        20 * 40, abs=0.125 * 40 + 1
    )  # an eighth of a pixel along one edge
    assert rasterise(Outline((square + 200,)), 96, 128) is None


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_is_seen_and_about_as_large_as_asked(shape) -> None:  # type: ignore[no-untyped-def]
    for seed in range(10):
        patch = rasterise(shape(np.random.default_rng(seed), 30.0).moved(np.array([128.0, 128.0])), 256, 256)
        assert patch is not None
        assert 8 < max(patch.alpha.shape) < 128
        assert patch.alpha.max() > 200


def test_parts_lie_within_their_whole_and_cover_it_not() -> None:
    canvas = Canvas(np.random.default_rng(0), 96, 128, ())
    square = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0]])
    whole = rasterise(Outline((square,)), 96, 128)
    assert whole is not None
    index = canvas.register(whole)
    sticking_out = rasterise(Outline((square + 25.3,)), 96, 128)
    assert sticking_out is not None
    part = clipped(sticking_out, canvas.alphas[index])
    assert part is not None
    canvas.cover(part, keep=[index])
    child = canvas.register(part)
    assert canvas.alphas[index].sum() / 255 == pytest.approx(1600, rel=0.01)
    assert (canvas.alphas[child] <= canvas.alphas[index]).all()
    above = rasterise(Outline((square + np.array([20.0, -5.0]),)), 96, 128)
    assert above is not None
    canvas.cover(above)
    assert (canvas.alphas[child] <= canvas.alphas[index]).all()
    assert canvas.alphas[index].sum() / 255 == pytest.approx(1600 - 20 * 35, rel=0.01)


def test_scenes_nest_and_their_masks_show() -> None:
    """Any two masks are nested, or apart but for their soft edges; pixels are lively and none is left out of range."""
    photograph = drawn_ellipses(1)[0]
    nested = 0
    lights, spreads = [], []
    for seed in range(40):
        pixels, masks = scene(np.random.default_rng(seed), 96, 128, [photograph] if seed % 2 else [])
        assert pixels.shape == (96, 128, 3)
        assert pixels.dtype == np.uint8
        assert masks
        lights.append(pixels.mean())
        spreads.append(pixels.std())
        hard = [mask > 127 for mask in masks]
        for i, first in enumerate(hard):
            assert masks[i].shape == (96, 128)
            assert masks[i].sum() / 255 >= SMALLEST
            for j in range(i + 1, len(hard)):
                if (masks[j] <= masks[i]).all():
                    nested += 1
                else:
                    assert not (first & hard[j]).any(), (seed, i, j)
    assert nested > 30
    assert 60 < np.mean(lights) < 195
    assert min(spreads) > 3.0
    assert np.mean(spreads) > 20.0


def test_a_mask_is_where_the_scene_changes() -> None:
    """Neighbours across an object's outline differ more than neighbours within it, in nearly every scene."""
    higher = []
    for seed in range(40):
        pixels, masks = scene(np.random.default_rng(seed), 128, 128)
        step = np.abs(np.diff(pixels.astype(int), axis=1)).max(2)
        edges = np.zeros_like(step, dtype=bool)
        for mask in masks:
            edges |= np.diff((mask > 127).astype(np.int8), axis=1) != 0
        near = cv2.dilate(edges.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        if edges.sum() > 20 and (~near).sum() > 20:
            higher.append(step[edges].mean() > step[~near].mean())
    assert len(higher) > 25
    assert np.mean(higher) > 0.85


def test_scenes_are_functions_of_the_generator() -> None:
    first, masks = scene(np.random.default_rng(9), 64, 96)
    again, same = scene(np.random.default_rng(9), 64, 96)
    assert (first == again).all()
    assert all((a == b).all() for a, b in zip(masks, same, strict=True))
    assert (scene(np.random.default_rng(10), 64, 96)[0] != first).any()
