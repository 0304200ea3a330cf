"""Answers without learning: geometry, the graph segmentation against scipy, and the contract of a model."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import ndimage, sparse

from anymask.errors import EmbeddingMismatchError, InputError, MissingExtraError, NotFoundError, PromptError
from anymask.evaluation import metrics
from anymask.evaluation.peers.baselines import (
    BASELINES,
    REGION_SIDE,
    Baseline,
    Ellipse,
    FilledBox,
    FloodFill,
    GrabCut,
    RandomWalker,
    Regions,
    baseline,
    filled_box,
    inscribed_ellipse,
)
from anymask.evaluation.peers.felzenszwalb import felzenszwalb
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend

BOX = (20.0, 15.0, 60.0, 45.0)


def scene(noise: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """A red ellipse on blue, with noise; the picture (72, 96, 3) and the ellipse."""
    truth = inscribed_ellipse(BOX, (72, 96))
    picture = np.where(truth[..., None], (200.0, 60.0, 50.0), (40.0, 70.0, 180.0))
    picture += np.random.default_rng(0).normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), truth


def test_the_shapes_can_still_be_had_where_they_were() -> None:
    assert metrics.filled_box is filled_box
    assert metrics.inscribed_ellipse is inscribed_ellipse


def test_a_box_is_answered_with_itself_and_its_ellipse() -> None:
    picture, truth = scene()
    for model, shape in ((FilledBox(), filled_box), (Ellipse(), inscribed_ellipse)):
        answer = model.segment(model.embed(picture), box=BOX)[0]
        np.testing.assert_array_equal(answer.array, shape(BOX, (72, 96)))
    assert metrics.iou(filled_box(BOX, (72, 96)), truth) == pytest.approx(math.pi / 4, rel=0.01)


def test_a_click_is_answered_with_squares_or_discs_around_it() -> None:
    picture, _ = scene()
    for model, shape in ((FilledBox(), filled_box), (Ellipse(), inscribed_ellipse)):
        masks = model.segment(model.embed(picture), points=[(48, 36)])
        for mask, half in zip(masks, (9, 4.5, 18), strict=True):  # of a shorter side of 72
            expected = shape((48 - half, 36 - half, 48 + half, 36 + half), (72, 96))
            np.testing.assert_array_equal(mask.array, expected)
        cut = model.segment(
            model.embed(picture), points=[(48, 36), (50, 36)], labels=[1, 0], multimask=False
        )[0]
        assert cut.array[36, 42]
        assert not cut.array[36, 50]


@pytest.mark.parametrize(
    ("kind", "least"), [(GrabCut, 0.95), (Regions, 0.8), (RandomWalker, 0.95), (FloodFill, 0.8)]
)
def test_colour_finds_an_object_of_one_colour_from_its_box(kind: type[Baseline], least: float) -> None:
    """Regions and floods lose the blurred rim, which is of neither colour."""
    picture, truth = scene()
    model = kind()
    answer = model.segment(model.embed(picture), box=(16, 11, 64, 49), multimask=False)[0]
    assert metrics.iou(answer.array, truth) > least
    assert metrics.iou(filled_box((16, 11, 64, 49), (72, 96)), truth) < 0.6


def test_grabcut_takes_clicks_as_certain() -> None:
    picture, truth = scene()
    model = GrabCut()
    assert not truth[18, 24]
    answer = model.segment(
        model.embed(picture), box=(16, 11, 64, 49), points=[(24.5, 18.5), (40.5, 30.5)], labels=[1, 0]
    )[0].array
    assert answer[18, 24]
    assert not answer[30, 40]


def test_a_click_finds_the_region_under_it() -> None:
    picture, truth = scene()
    model = Regions()
    embedding = model.embed(picture)
    for point, expected in (((40, 30), truth), ((5, 5), ~truth), ((96, 72), ~truth)):
        assert metrics.iou(model.segment(embedding, points=[point])[0].array, expected) > 0.8
    both = model.segment(embedding, points=[(40, 30), (5, 5)], multimask=False)[0].array
    assert both.mean() > 0.9
    kept = model.segment(embedding, points=[(40, 30), (5, 5)], labels=[1, 0], multimask=False)[0].array
    assert metrics.iou(kept, truth) > 0.8


def test_a_region_with_both_kinds_of_click_is_cut_between_them() -> None:
    model = Regions()
    embedding = model.embed(np.full((40, 60, 3), 90, dtype=np.uint8))
    answer = model.segment(embedding, points=[(15, 20), (45, 20)], labels=[1, 0], multimask=False)[0].array
    np.testing.assert_array_equal(answer, np.arange(60)[None, :] + 0.5 <= np.full((40, 1), 30))


def test_a_large_image_is_cut_into_regions_at_a_smaller_size_and_answered_at_its_own() -> None:
    picture, truth = scene()
    large, model = np.kron(picture, np.ones((6, 6, 1), dtype=np.uint8)), Regions()
    embedding = model.embed(large)
    assert embedding.features["regions"].shape == (3, REGION_SIDE * 3 // 4, REGION_SIDE)
    answer = model.segment(embedding, points=[(240, 180)])[0].array
    assert metrics.iou(answer, np.kron(truth, np.ones((6, 6), dtype=bool))) > 0.9


# ---- the two that spread from clicks


def halves(noise: float = 4.0) -> np.ndarray:
    """Orange on the left of column 60, green on the right, with noise; (80, 120, 3)."""
    left = (np.arange(120) < 60)[None, :, None]
    picture = np.where(left, (210.0, 120.0, 40.0), (40.0, 140.0, 90.0)).repeat(80, axis=0)
    picture += np.random.default_rng(1).normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def test_a_flood_parts_two_halves() -> None:
    model, left = FloodFill(), np.broadcast_to(np.arange(120) < 60, (80, 120))
    embedding = model.embed(halves())
    for point, truth in (((20, 40), left), ((100, 40), ~left)):
        answer = model.segment(embedding, points=[point], multimask=False)[0].array
        assert metrics.iou(answer, truth) > 0.97
    both = model.segment(embedding, points=[(20, 40), (100, 40)], multimask=False)[0].array
    assert both.mean() > 0.97


def test_a_walker_finds_the_panel_under_a_click_and_another_with_a_click_there() -> None:
    """Two halves in a frame of a third colour, whose border is background."""
    picture, left = np.full((100, 140, 3), 230, dtype=np.uint8), np.zeros((100, 140), dtype=bool)
    picture[10:90, 10:130], left[10:90, 10:70] = halves(), True
    both = left | left[:, ::-1]
    model = RandomWalker()
    embedding = model.embed(picture)
    one = model.segment(embedding, points=[(40, 50)])[1].array  # one small seed against a long border
    assert metrics.iou(one, left) > 0.95
    two = model.segment(embedding, points=[(40, 50), (100, 50)], multimask=False)[0].array
    assert metrics.iou(two, both) > 0.95
    parted = model.segment(embedding, points=[(40, 50), (100, 50)], labels=[1, 0], multimask=False)[0].array
    assert metrics.iou(parted, left) > 0.95


def ring(noise: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A white ring on grey, the ring and the disc in it; (90, 90). One pixel off each edge leaves 0.88 of the ring."""
    rows, columns = np.mgrid[:90, :90] + 0.5 - 45
    distance = np.hypot(rows, columns)
    shape, hole = (distance < 35) & (distance > 18), distance <= 18
    picture = np.where(shape[..., None], 230.0, 90.0).repeat(3, axis=2)
    picture += np.random.default_rng(2).normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), shape, hole


def test_a_flood_runs_round_a_ring_and_stays_out_of_its_hole() -> None:
    picture, shape, hole = ring()
    model = FloodFill()
    embedding = model.embed(picture)
    masks = model.segment(embedding, points=[(45, 18)])
    assert metrics.iou(masks[0].array, shape) > 0.87
    assert not (masks[0].array & hole).any()
    inside = model.segment(embedding, points=[(45, 45)], multimask=False)[0].array
    assert metrics.iou(inside, hole) > 0.87  # and not the grey beyond the ring, of the same colour
    box = model.segment(embedding, box=(6, 6, 84, 84), multimask=False)[0].array
    assert metrics.iou(box, shape | hole) > 0.9  # what floods from the edge reaches neither


def test_a_walker_stays_in_the_hole_of_a_ring() -> None:
    picture, shape, hole = ring()
    model = RandomWalker()
    embedding = model.embed(picture)
    inside = model.segment(embedding, points=[(45, 45)], multimask=False)[0].array
    assert metrics.iou(inside, hole) > 0.9
    both = model.segment(embedding, points=[(45, 18), (45, 45)], labels=[1, 0], multimask=False)[0].array
    assert metrics.iou(both, shape) > 0.9


@pytest.mark.parametrize("kind", [RandomWalker, FloodFill])
def test_a_background_click_takes_its_region_away(kind: type[Baseline]) -> None:
    """Two discs in one box; a click on one leaves the other. One pixel off their edges leaves 0.87 of them."""
    size = (60, 120)
    first, second = (inscribed_ellipse(box, size) for box in ((15, 15, 45, 45), (75, 15, 105, 45)))
    picture = np.where((first | second)[..., None], (200.0, 60.0, 50.0), (40.0, 70.0, 180.0))
    picture += np.random.default_rng(0).normal(0, 3, picture.shape)
    model = kind()
    embedding = model.embed(picture.clip(0, 255).astype(np.uint8))
    box = (10, 10, 110, 50)
    clicks = [(30, 30), (90, 30)]
    both = model.segment(embedding, box=box, points=clicks, multimask=False)[0].array
    assert metrics.iou(both, first | second) > 0.84
    one = model.segment(embedding, box=box, points=clicks, labels=[1, 0], multimask=False)[0].array
    assert metrics.iou(one, first) > 0.84
    assert not (one & second).any()


def test_chances_of_a_walk_are_those_of_a_gamblers_ruin() -> None:
    """In one row of one colour chances fall evenly from the foreground seeds to those of background."""
    model = RandomWalker()
    embedding = model.embed(np.full((1, 121, 3), 90, dtype=np.uint8))
    masks = model.segment(embedding, box=(10, 0, 111, 1))
    # Seeds: columns 44 to 76, the third in the middle of the box, and those up to 9 and from 111 outside it.
    columns = np.arange(121)
    chance = np.clip(np.minimum((columns - 9) / 35, (111 - columns) / 35), 0, 1)
    for mask, least in zip(masks, (0.5, 0.25, 0.1), strict=True):
        sure = np.abs(chance - least) > 1e-6
        np.testing.assert_array_equal(mask.array[0][sure], chance[sure] > least)


def test_a_flood_honours_its_tolerance() -> None:
    """A ramp in lightness alone: three tolerances reach three distances, which CIELAB tells."""
    picture = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(20, axis=0)
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lightness = np.where(linear > 216 / 24389, 116 * np.cbrt(linear) - 16, linear * 24389 / 27)
    model = FloodFill()
    masks = model.segment(model.embed(picture), points=[(128.5, 10)])
    assert len(masks) == 3
    for mask, tolerance in zip(masks, (10.0, 5.0, 20.0), strict=True):
        expected = np.abs(lightness - lightness[128]) <= tolerance
        apart = mask.array != expected
        assert apart.sum(axis=1).max() <= 2  # the smoothing, at the ends
    boxed = model.segment(model.embed(picture), points=[(128.5, 10)], box=(120, 0, 256, 20), multimask=False)[
        0
    ]
    assert not boxed.array[:, :120].any()


def test_without_scikit_image_the_walker_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RandomWalker()
    embedding = model.embed(scene()[0])
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anymask\[eval\]'"):
        model.segment(embedding, points=[(40, 30)])


@pytest.mark.parametrize("kind", BASELINES)
def test_every_baseline_keeps_the_contract_of_a_model(kind: type[Baseline]) -> None:
    model, segmenter = kind(), Segmenter(FakeBackend())
    picture, _ = scene()
    embedding = model.embed(picture)
    assert embedding.image_size == (72, 96)
    assert embedding.image_digest == segmenter.embed(picture).image_digest
    prompts: list[dict[str, object]] = [
        {"points": [(40, 30)]},
        {"points": [(40, 30), (5, 5)], "labels": [1, 0], "multimask": False},
        {"points": [(0, 0), (96, 72)], "multimask": False},
        {"box": (0, 0, 96, 72), "multimask": False},
        {"box": (3.2, 3.3, 3.4, 3.5), "multimask": False},
        {"box": BOX, "points": [(40, 30), (22, 17)], "labels": [1, 0], "multimask": False},
        {"box": BOX, "points": [(2, 2)], "labels": [0], "mask": np.zeros((24, 32)), "multimask": False},
    ]
    for prompt in prompts:
        masks = model.segment(embedding, **prompt)  # type: ignore[arg-type]
        again = model.segment(embedding, **prompt)  # type: ignore[arg-type]
        assert 1 <= len(masks) <= (3 if prompt.get("multimask", True) else 1)
        assert [mask.rle for mask in masks] == [mask.rle for mask in again]
        assert masks.image_size == (72, 96)
        assert all(masks.scores[:-1] >= masks.scores[1:])
    with pytest.raises(EmbeddingMismatchError):
        model.segment(segmenter.embed(picture), points=[(1, 1)])
    with pytest.raises(EmbeddingMismatchError):
        segmenter.segment(embedding, points=[(1, 1)])
    with pytest.raises(PromptError, match="foreground point or a box"):
        model.segment(embedding, points=[(1, 1)], labels=[0])
    with pytest.raises(PromptError, match="outside"):
        model.segment(embedding, points=[(97, 1)])


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
def test_tiny_images_are_answered_too(kind: type[Baseline], size: tuple[int, int]) -> None:
    model = kind()
    embedding = model.embed(np.full((*size, 3), 7, dtype=np.uint8))
    assert model.segment(embedding, points=[(0.5, 0.5)])[0].size == size
    assert model.segment(embedding, box=(0, 0, size[1], size[0]), multimask=False)[0].size == size


def test_baselines_are_found_by_name() -> None:
    assert [type(baseline(kind.name)) for kind in BASELINES] == list(BASELINES)
    assert len({kind().digest for kind in BASELINES}) == len(BASELINES)
    with pytest.raises(
        NotFoundError, match="filled_box, ellipse, grabcut, regions, random_walker, flood_fill"
    ):
        baseline("sam")


# ---- the graph segmentation


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays of labels name the same regions."""
    pairs = len(np.unique(np.stack([first.ravel(), second.ravel()]), axis=1).T)
    return pairs == len(np.unique(first)) == len(np.unique(second))


@pytest.mark.parametrize("seed", range(5))
def test_at_scale_zero_regions_are_the_connected_pieces_of_equal_colour(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 3, (13, 17))
    expected, count = np.zeros(values.shape, dtype=int), 0
    for value in range(3):
        pieces, found = ndimage.label(values == value, np.ones((3, 3)))
        expected[pieces > 0] = pieces[pieces > 0] + count
        count += found
    picture = np.repeat((values * 80)[..., None], 3, axis=2).astype(np.uint8)
    regions = felzenszwalb(picture, [0.0], sigma=0, min_size=1)[0]
    assert same_partition(regions, expected)
    assert regions.max() + 1 == count


@pytest.mark.parametrize("scale", [50.0, 300.0, 1000.0])
def test_regions_are_not_too_fine(scale: float) -> None:
    """The paper's definition 1, with spanning trees from scipy: regions are of one piece, and the weakest edge
    between two neighbours is stronger than what holds one of them together."""
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.uniform(0, 255, (4, 4, 3)), np.ones((5, 6, 1)))
    picture = (blocks + rng.normal(0, 8, blocks.shape)).clip(0, 255).astype(np.uint8)
    regions = felzenszwalb(picture, [scale], sigma=0, min_size=1)[0]
    assert 2 < regions.max() + 1 < 240
    pixels, number = picture.astype(float), np.arange(480).reshape(20, 24)
    inside: dict[int, list[tuple[int, int, float]]] = {r: [] for r in range(regions.max() + 1)}
    between: dict[tuple[int, int], float] = {}
    for (row, column), here in np.ndenumerate(regions):
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            r, c = row + down, column + right
            if r < 20 and 0 <= c < 24:
                weight = float(np.linalg.norm(pixels[row, column] - pixels[r, c]))
                if here == regions[r, c]:
                    inside[int(here)].append((number[row, column], number[r, c], weight + 1e-6))
                else:
                    pair = (min(here, regions[r, c]), max(here, regions[r, c]))
                    between[pair] = min(between.get(pair, np.inf), weight)
    internal = {}
    for region, edges in inside.items():
        heads, tails, weights = zip(*edges, strict=True) if edges else ((), (), ())
        graph = sparse.coo_matrix((weights, (heads, tails)), shape=(480, 480)).tocsr()
        tree = sparse.csgraph.minimum_spanning_tree(graph)
        area = int((regions == region).sum())
        assert tree.nnz == area - 1  # in one piece
        internal[region] = (tree.max() if area > 1 else 0.0) + scale / area
    for (a, b), weight in between.items():
        assert weight > min(internal[a], internal[b]) - 1e-3


def test_no_region_is_left_smaller_than_the_least_size_and_larger_scales_give_fewer() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    planes = felzenszwalb(picture, [30.0, 300.0, 1e9], min_size=15)
    assert all(np.bincount(plane.ravel()).min() >= 15 for plane in planes)
    counts = [len(np.unique(plane)) for plane in planes]
    assert counts[0] >= counts[1] > counts[2] == 1


def test_only_pictures_are_cut_into_regions() -> None:
    with pytest.raises(InputError, match=r"\(H, W, 3\)"):
        felzenszwalb(np.zeros((4, 4), dtype=np.uint8), [1.0])
