"""The adaptive grid: its levels, what it leaves out, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
from planted_backend import PlantedBackend, picture

from anymask.automatic.adaptive import Explained, Promise, coarse_to_fine
from anymask.automatic.generator import Generator
from anymask.automatic.grid import point_grid
from anymask.automatic.recall import AdaptiveRecall, adaptive_recall, found_again
from anymask.automatic.settings import AutomaticSettings
from anymask.errors import InputError
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, PromptArrays
from anymask.runtime.checks import low_res_size
from anymask.runtime.fake_backend import FakeBackend
from anymask.types import Mask


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 16, 32, 33])
def test_levels_hold_each_click_once(side: int) -> None:
    levels = coarse_to_fine(side)
    assert sorted(np.concatenate(levels).tolist()) == list(range(side * side))


def test_the_first_levels_of_32_by_hand() -> None:
    levels = coarse_to_fine(32)
    assert [len(level) for level in levels] == [16, 64, 256, 688]
    assert [divmod(int(index), 32) for index in levels[0][:3]] == [(4, 4), (4, 12), (4, 20)]
    grid = point_grid(32)
    for level, step in zip(levels, (8, 4, 2, 1), strict=True):
        assert not set(map(tuple, np.floor(grid[level] * 32).astype(int))) & {
            tuple(point)
            for other in levels
            if other is not level
            for point in np.floor(grid[other] * 32).astype(int)
        }
        assert (np.floor(grid[level] * 32).astype(int) % step == step // 2).all()


class Rooms(FakeBackend):
    """Every click gets the room it is in: the left half, or the right half less a coin, or the coin."""

    def __init__(self) -> None:
        super().__init__(128)
        self.clicks: list[tuple[float, float]] = []

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.decode`."""
        height, width = low_res_size(self.spec, features)
        y, x = np.mgrid[:height, :width] * 4.0 + 2.0
        coin = np.hypot(x - 98, y - 66) < 9
        rooms = [x < 64, (x >= 64) & ~coin, coin]
        logits = np.full((len(prompts), 4, height, width), -20.0, dtype=np.float32)
        for index, (px, py) in enumerate(prompts.points[:, 0]):
            self.clicks.append((float(px), float(py)))
            room = next((r for r in rooms if r[int(py) // 4, int(px) // 4]), rooms[0])
            logits[index, 1:] = np.where(room, 20.0, -20.0)
        return logits, np.tile(np.float32([0.5, 0.9, 0.4, 0.3]), (len(prompts), 1))


def test_places_found_often_enough_are_not_clicked_again_but_a_coin_on_them_is() -> None:
    settings = AutomaticSettings(points_per_side=32, stability_score_thresh=0.5, adaptive=True)
    backend = Rooms()
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    run = Generator(Segmenter(backend), settings).run(image)
    assert sorted(mask.area for mask in run.masks) == sorted(
        mask.area
        for mask in Generator(
            Segmenter(Rooms()), AutomaticSettings(points_per_side=32, stability_score_thresh=0.5)
        )
        .run(image)
        .masks
    )
    assert len(run.masks) == 3
    first_level = 16
    on_coin = [(x, y) for x, y in backend.clicks[first_level:] if np.hypot(x - 98, y - 66) < 7]
    on_rooms = [(x, y) for x, y in backend.clicks[first_level:] if np.hypot(x - 98, y - 66) > 16]
    assert on_coin
    assert not on_rooms  # eight clicks of the first level found each room, five are enough
    assert run.clicks < 100


def test_two_masks_of_one_click_count_once() -> None:
    """By hand on a crop of 8 x 8: the group of the whole crop, then a finer one on its left half."""
    explained = Explained(2, enough=2, duplicate_iou=0.7)

    def note(click: int, columns: int) -> list[bool]:
        explained.note(click, (0, 0, columns, 8), 8 * columns, np.array([columns > 1, columns > 7]))
        return explained.open(np.arange(2)).tolist()

    assert note(0, 8) == [True, True]
    assert note(0, 8) == [True, True]  # the same click again
    assert note(1, 8) == [False, False]
    assert note(2, 4) == [True, False]  # a finer group: one click of two
    assert note(3, 8) == [True, False]  # the coarser one explains nothing there any more
    assert note(4, 4) == [False, False]


def test_promise_is_the_mean_of_the_answers_around() -> None:
    chance = np.random.default_rng(5)
    side = 11
    clicks = chance.permutation(side * side)[:30]
    scores = chance.random(30).astype(np.float32)
    promise = Promise(side)
    assert promise.of(np.arange(4), 2).tolist() == [0.0] * 4
    promise.note(clicks[:10], scores[:10])
    promise.note(clicks[10:], scores[10:])
    y, x = np.divmod(clicks, side)
    for reach in (1, 2, 5):
        for place in range(side * side):
            row, column = divmod(place, side)
            near = np.zeros(0)
            wide = reach
            while not near.size:
                near = scores[(abs(y - row) <= wide) & (abs(x - column) <= wide)]
                wide *= 2
            assert promise.of(np.array([place]), reach)[0] == pytest.approx(near.mean(), abs=1e-6)


class HalfDull(Rooms):
    """The right half of the picture has no mask with a good score."""

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.decode`."""
        logits, scores = super().decode(features, prompts)
        x, y = np.mgrid[:32, :32] * 4.0 + 2.0
        for index, (px, py) in enumerate(prompts.points[:, 0]):
            logits[index, 1:] = np.where(np.hypot(y - px, x - py) < 5, 20.0, -20.0)  # no two alike
            if px >= 64:
                scores[index] = 0.1
        return logits, scores


@pytest.mark.parametrize(("least_promise", "fewest", "most"), [(0.65, 0, 130), (0.0, 512, 512)])
def test_hopeless_places_are_given_up(least_promise: float, fewest: int, most: int) -> None:
    backend = HalfDull()
    settings = AutomaticSettings(
        points_per_side=32,
        pred_iou_thresh=0.6,
        stability_score_thresh=0.5,
        adaptive=True,
        least_promise=least_promise,
    )
    run = Generator(Segmenter(backend), settings).run(np.zeros((128, 128, 3), dtype=np.uint8))
    assert sum(x < 64 for x, _ in backend.clicks) == 512
    assert fewest <= sum(x >= 64 for x, _ in backend.clicks) <= most
    assert run.clicks == len(backend.clicks)
    assert len(run.masks) > 100


def test_a_region_without_clicks_of_the_first_level() -> None:
    backend = HalfDull()
    settings = AutomaticSettings(
        points_per_side=32, pred_iou_thresh=0.6, stability_score_thresh=0.5, adaptive=True
    )
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    Generator(Segmenter(backend), settings).run(image, region=(1, 1, 15, 15))
    assert backend.clicks[0] == (10.0, 10.0)  # of the second level; of the first the nearest is at 18
    assert len(backend.clicks) == 16


def test_recall_counts_what_both_grids_found() -> None:
    settings = AutomaticSettings(
        points_per_side=16,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.3,
        box_nms_thresh=0.6,
        enough_clicks=4,
        least_promise=0,
    )
    segmenter, image = Segmenter(PlantedBackend()), picture(90, 120)
    measured = adaptive_recall(segmenter, image, settings)
    full = Generator(segmenter, settings).run(image)
    assert (measured.full_masks, measured.full_clicks) == (len(full.masks), 256)
    assert 0 < measured.adaptive_clicks < 256
    assert measured.clicks_saved == 1 - measured.adaptive_clicks / 256
    assert 0.5 < measured.recall <= 1
    patient = AutomaticSettings(**{**vars_of(settings), "enough_clicks": 4096})
    every = adaptive_recall(segmenter, image, patient)
    assert every.adaptive_clicks == 256
    assert every.full_masks == measured.full_masks


def vars_of(settings: AutomaticSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def test_masks_found_again_by_definition() -> None:
    chance = np.random.default_rng(0)

    def masks(count: int) -> list[Mask]:
        made = []
        for _ in range(count):
            array = np.zeros((20, 20), dtype=bool)
            x, y, wide, high = chance.integers(0, 5, 2).tolist() + chance.integers(6, 12, 2).tolist()
            array[y : y + high, x : x + wide] = True
            made.append(Mask(array, 0.5))
        return made

    wanted, found = masks(25), masks(8)
    for iou in (0.3, 0.7, 0.9):
        expected = sum(
            any((a.array & b.array).sum() >= iou * (a.array | b.array).sum() for b in found) for a in wanted
        )
        assert found_again(wanted, found, iou) == expected
    assert AdaptiveRecall(0, 0, 0, 9, 3).recall == 1.0
    with pytest.raises(InputError, match="overlap"):
        adaptive_recall(Segmenter(FakeBackend()), picture(9, 9), AutomaticSettings(), iou=0)
