"""What benchmarks/automatic_quality.py --grids measures: grids as the generator runs them, figures in closed form."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from labelled_pictures import encoded, records
from planted_backend import PlantedBackend, ScreeningBackend, picture

from anymask.automatic.generator import Generator
from anymask.automatic.recall import adaptive_recall
from anymask.automatic.settings import AutomaticSettings
from anymask.data.dataset import Sample
from anymask.evaluation.subjects import Subject
from anymask.predict.segmenter import Segmenter
from anymask.types import Mask

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = (90, 120)
SETTINGS = AutomaticSettings(points_per_side=8, pred_iou_thresh=0.6, stability_score_thresh=0.7)


@pytest.fixture(scope="module")
def grids() -> Iterator[ModuleType]:
    sys.path.append(str(BENCHMARKS))
    import automatic_grids

    yield automatic_grids
    sys.path.remove(str(BENCHMARKS))


def told(masks: list[Mask]) -> list[Any]:
    return [(mask.rle, mask.score, mask.stability_score, mask.point) for mask in masks]


@pytest.mark.parametrize("kind", [PlantedBackend, ScreeningBackend])
def test_nothing_is_decoded_twice_and_nothing_changes(grids: ModuleType, kind: type[PlantedBackend]) -> None:
    backend = kind()
    plain, remembered = Segmenter(kind()), Segmenter(grids.Remembered(backend))
    embedding = plain.embed(picture(*SIZE))
    for adaptive in (False, True):
        settings = replace(SETTINGS, adaptive=adaptive, points_per_batch=7)
        wanted, found = (Generator(each, settings).run(embedding) for each in (plain, remembered))
        assert told(found.masks) == told(wanted.masks)
        assert found.clicks == wanted.clicks
        assert sum(backend.decoded) == 64


def test_a_picture_is_measured_as_by_the_generator_alone(grids: ModuleType) -> None:
    segmenter, pixels = Segmenter(PlantedBackend()), picture(*SIZE)
    answers = list(Generator(segmenter, SETTINGS).generate(pixels))
    objects = [answers[0].array, answers[2].array]
    sample = Sample("one", "bsds500", encoded(pixels), SIZE[1], SIZE[0], records(objects))
    subject = Subject("planted", "planted", segmenter.spec.digest, segmenter)
    choices = ((1, 0.0), (8, 0.5))
    measured = grids.GridsTask(SETTINGS, choices).measure(subject, sample)
    assert measured["objects"] == 2
    assert measured["full"] == [64, len(answers), len(answers), 2, 2]
    for (enough, least), row in zip(choices, measured["choices"], strict=True):
        settings = replace(SETTINGS, enough_clicks=enough, least_promise=least)
        alone = adaptive_recall(segmenter, pixels, settings)
        assert row[:3] == [alone.adaptive_clicks, alone.adaptive_masks, alone.found]
        assert 2 >= row[3] >= row[4]
    assert measured["choices"][0][0] < 64


def test_figures_in_closed_form(grids: ModuleType) -> None:
    rows = [
        {"objects": 4, "full": [100, 10, 10, 4, 2], "choices": [[50, 8, 6, 3, 2]]},
        {"objects": 1, "full": [100, 6, 6, 0, 0], "choices": [[30, 6, 6, 0, 0]]},
        {"objects": 0, "full": [100, 3, 3, 0, 0], "choices": [[1, 0, 0, 0, 0]]},
    ]
    full, chosen = grids.grid_figures(rows, [(2, 0.5)])
    assert full["clicks"] == full["again"] == 1
    assert full["recall_50"] == pytest.approx(0.5)
    assert chosen == pytest.approx(
        {
            "enough_clicks": 2,
            "least_promise": 0.5,
            "clicks": 0.4,
            "masks_per_image": 7.0,
            "again": 0.75,
            "recall_50": 0.375,
            "recall_75": 0.25,
        }
    )


def test_the_rule_takes_the_fewest_clicks_of_those_that_lose_no_more_than_a_point(grids: ModuleType) -> None:
    def row(clicks: float, recall_50: float, recall_75: float) -> dict[str, float]:
        return {"clicks": clicks, "recall_50": recall_50, "recall_75": recall_75}

    full, most = row(1.0, 0.30, 0.20), row(0.9, 0.30, 0.20)
    fewer, fewest = row(0.6, 0.29, 0.19), row(0.3, 0.31, 0.18)
    assert grids.choose_grid([full, most, fewer, fewest]) is fewer
    assert grids.choose_grid([full, fewest]) is None
