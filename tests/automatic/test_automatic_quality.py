"""What benchmarks/automatic_quality.py measures: lists as the generator gives them, figures in closed form."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from labelled_pictures import encoded, records, write_shard
from planted_backend import PlantedBackend, picture

from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.data.dataset import Sample
from anymask.data.sa1b import TarShard
from anymask.errors import InputError
from anymask.evaluation.proposals import propose
from anymask.evaluation.subjects import Subject, open_subject
from anymask.predict.segmenter import Segmenter
from anymask.types import Mask

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = (90, 120)
SETTINGS = AutomaticSettings(points_per_side=6, pred_iou_thresh=0.6, stability_score_thresh=0.7)


@pytest.fixture(scope="module", autouse=True)
def _modules() -> Iterator[None]:
    sys.path.append(str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def quality(_modules: None) -> ModuleType:
    import automatic_quality

    return automatic_quality


@pytest.fixture(scope="module")
def lists(_modules: None) -> ModuleType:
    import automatic_lists

    return automatic_lists


@pytest.fixture(scope="module")
def figures(_modules: None) -> ModuleType:
    import automatic_figures

    return automatic_figures


@pytest.fixture(scope="module")
def thresholds(_modules: None) -> ModuleType:
    import automatic_thresholds

    return automatic_thresholds


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(PlantedBackend())


@pytest.fixture
def subject(segmenter: Segmenter) -> Subject:
    return Subject("planted", "planted", segmenter.spec.digest, segmenter)


@pytest.fixture(scope="module")
def labelled(segmenter: Segmenter) -> Sample:
    """A picture of which the model finds some objects: two of its own answers, one spoilt, and a box that is none."""
    pixels = picture(*SIZE)
    answers = Generator(segmenter, SETTINGS).generate(pixels)
    assert len(answers) > 4
    spoilt = answers[3].array.copy()
    spoilt[:, : SIZE[1] // 2] &= spoilt[::-1, : SIZE[1] // 2]
    stray = block(80, 0, 120, 6)
    objects = [answers[0].array, answers[2].array, spoilt, stray]
    return Sample("one", "bsds500", encoded(pixels), SIZE[1], SIZE[0], records(objects))


def block(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def told(masks: Any) -> list[Any]:
    return [(mask.rle, mask.score, mask.stability_score, mask.point) for mask in masks]


@pytest.mark.parametrize("pair", [(0.0, 0.0), (0.0, 0.7), (0.6, 0.0), (0.75, 0.8), (0.5, 0.86), (1.0, 1.0)])
@pytest.mark.parametrize("suppression", [0.5, 0.7, 0.9, 1.0])
def test_the_filters_are_the_generators(
    lists: ModuleType, segmenter: Segmenter, pair: tuple[float, float], suppression: float
) -> None:
    embedding = segmenter.embed(picture(*SIZE))
    settings = replace(
        SETTINGS, pred_iou_thresh=pair[0], stability_score_thresh=pair[1], box_nms_thresh=suppression
    )
    answers = lists.all_answers(segmenter, embedding, settings)
    kept = [answers.masks[index] for index in answers.kept(*pair, suppression)]
    assert told(kept) == told(Generator(segmenter, settings).generate(embedding))
    assert bool(kept) == (pair != (1.0, 1.0))


def test_proposals_are_those_of_the_evaluation(lists: ModuleType, segmenter: Segmenter) -> None:
    embedding = segmenter.embed(picture(*SIZE))
    answers = lists.all_answers(segmenter, embedding, SETTINGS)
    proposals = answers.ranked_as_proposals()
    assert told(proposals) == told(propose(segmenter, embedding, points_per_side=6))
    assert told(proposals) != told(answers.masks[index] for index in answers.kept(0, 0, 0.9))


def test_a_mask_belongs_to_one_object(lists: ModuleType) -> None:
    overlaps = np.array(
        [
            [0.9, 0.6],  # of the first, though it would do for the second
            [0.5, 0.5],  # of equals the first
            [0.49, 0.1],  # of none
            [0.0, 0.5],
            [0.0, 0.7],
        ]
    )
    assert lists.matched(overlaps) == (4, 2)
    assert lists.matched(overlaps[:3]) == (2, 1)
    assert lists.matched(overlaps[2:3]) == (0, 0)
    assert lists.matched(np.zeros((3, 0))) == lists.matched(np.zeros((0, 3))) == (0, 0)


def test_counts_of_a_list_in_closed_form(lists: ModuleType) -> None:
    objects = [block(0, 0, 40, 40), block(60, 0, 100, 40), block(0, 60, 20, 80)]
    found = [
        block(0, 0, 40, 40),  # IoU 1
        block(0, 0, 40, 38),  # 0.95 with the first object and with the mask before
        block(60, 0, 100, 32),  # 0.8
        block(60, 0, 100, 22),  # 0.55 with the object, 0.69 with the mask before
        block(70, 60, 110, 80),  # of nothing
    ]
    masks = [Mask(mask, 0.9 - index / 10) for index, mask in enumerate(found)]
    counts = lists.list_counts(masks, [*records(objects), {**records([found[4]])[0], "iscrowd": 1}])
    assert {name: counts[name] for name in ("masks", "matched_masks", "matched_objects", "repeats")} == {
        "masks": 5,
        "matched_masks": 4,
        "matched_objects": 2,
        "repeats": 1,
    }
    assert counts["proposals"]["total"]["all"] == 3
    # IoU 0.5 to 0.8 take both found objects, above only the one that is met exactly.
    assert counts["proposals"]["found"]["all"][-1] == [2] * 7 + [1] * 3


def test_figures_of_a_set_pool_its_objects(lists: ModuleType, figures: ModuleType) -> None:
    first = lists.list_counts(
        [Mask(block(0, 0, 40, 40), 0.9), Mask(block(0, 0, 40, 38), 0.8)], records([block(0, 0, 40, 40)])
    )
    objects = [block(0, 0, 40, 40), block(60, 0, 80, 20), block(0, 60, 20, 80)]
    second = lists.list_counts([Mask(block(0, 0, 40, 31), 0.9)], records(objects))
    found = figures.list_figures([first, second])
    assert found["recall_50"] == found["recall_75"] == pytest.approx(2 / 4)  # not the mean of 1 and 1/3
    assert found["recall_90"] == pytest.approx(1 / 4)
    assert found["ar_1000"] == pytest.approx((6 * 2 + 4 * 1) / 10 / 4)  # 31 of 40 rows are IoU 0.775
    assert found["ar_1000_small"] == 0
    assert found["ar_1000_medium"] == pytest.approx((6 * 2 + 4 * 1) / 10 / 2)
    assert found["ar_1000_large"] is None
    assert found["masks_per_image"] == pytest.approx(1.5)
    assert found["duplicates_per_object"] == pytest.approx(1 / 2)
    assert found["repeats_per_image"] == pytest.approx(1 / 2)
    nothing = figures.list_figures([lists.list_counts([], records(objects))])
    assert nothing["duplicates_per_object"] is None
    assert nothing["ar_1000"] == 0


def test_sets_weigh_the_same(figures: ModuleType, lists: ModuleType) -> None:
    good = {name: lists.list_counts([Mask(block(0, 0, 40, 40), 0.9)], records([block(0, 0, 40, 40)]))
            for name in lists.LISTS}  # fmt: skip
    bad = {name: lists.list_counts([], records([block(0, 0, 9, 9)] * 3)) for name in lists.LISTS}
    sets = [figures.set_figures(rows) for rows in ([good], [bad, bad])]
    assert [(one["images"], one["objects"]) for one in sets] == [(1, 1), (2, 6)]
    mean = figures.mean_of_sets(sets)
    assert mean["shipped"]["recall_50"] == pytest.approx(0.5)
    assert mean["proposals"]["duplicates_per_object"] == 0  # of the one set that has it
    assert mean["shipped"]["ar_1000_large"] is None


@pytest.mark.parametrize("more", [{}, {"adaptive": True}, {"min_mask_region_area": 30}, {"crop_n_layers": 1}])
def test_shipped_is_what_the_generator_gives(
    lists: ModuleType, subject: Subject, segmenter: Segmenter, labelled: Sample, more: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, **more)
    measured = lists.QualityTask(settings).measure(subject, labelled)
    masks = list(Generator(segmenter, settings).generate(labelled.image))
    assert measured["shipped"] == lists.list_counts(masks, labelled.annotations)
    raw = replace(SETTINGS, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    masks = list(Generator(segmenter, raw).generate(labelled.image))
    assert measured["unfiltered"] == lists.list_counts(masks, labelled.annotations)
    assert measured["shipped"]["masks"] < measured["unfiltered"]["masks"] < measured["proposals"]["masks"]
    assert json.loads(json.dumps(measured)) == measured


def test_only_models_are_measured(lists: ModuleType, labelled: Sample) -> None:
    with pytest.raises(InputError, match="ellipse"):
        lists.QualityTask(SETTINGS).measure(open_subject("baseline:ellipse"), labelled)


def test_other_settings_are_other_results(lists: ModuleType, thresholds: ModuleType) -> None:
    tasks = [lists.QualityTask(SETTINGS), lists.QualityTask(replace(SETTINGS, pred_iou_thresh=0.5))]
    tasks += [thresholds.ThresholdsTask(SETTINGS, thresholds.pairs_of(step)) for step in (0.5, 0.25)]
    assert len({task.digest for task in tasks}) == 4
    assert lists.QualityTask(replace(SETTINGS)).digest == tasks[0].digest


def test_pairs_are_all_combinations(thresholds: ModuleType) -> None:
    assert thresholds.pairs_of(0.5) == ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5))
    tenths = thresholds.pairs_of(0.1)
    assert len(tenths) == 100
    assert (0.4, 0.3) in tenths
    with pytest.raises(ValueError, match="step"):
        thresholds.pairs_of(0)


@pytest.mark.parametrize("count", [24, 25, 120])
def test_pictures_held_back_are_those_that_training_leaves_out(thresholds: ModuleType, count: int) -> None:
    samples = pytest.importorskip("anymask.training.samples")
    keys = [f"picture_{index:06d}" for index in range(count)]
    expected = [index for index in range(count) if samples.is_held_back(index, 25)]
    assert thresholds.held_back(keys, 25, None, 0) == expected
    drawn = thresholds.held_back(keys, 25, 2, 0)
    assert len(drawn) == min(2, len(expected))
    assert set(drawn) <= set(expected)


def test_a_pair_keeps_what_the_generator_gives(
    thresholds: ModuleType, lists: ModuleType, subject: Subject, segmenter: Segmenter, labelled: Sample
) -> None:
    pairs = ((0.0, 0.0), (0.6, 0.7), (0.6, 0.701), (1.0, 1.0))
    measured = thresholds.ThresholdsTask(SETTINGS, pairs).measure(subject, labelled)
    assert (measured["source"], measured["objects"]) == ("bsds500", 4)
    for (iou, stability), row in zip(pairs, measured["pairs"], strict=True):
        settings = replace(SETTINGS, pred_iou_thresh=iou, stability_score_thresh=stability)
        masks = list(Generator(segmenter, settings).generate(labelled.image))
        counts = lists.list_counts(masks, labelled.annotations)
        found = counts["proposals"]["found"]["all"][-1]
        assert row == [len(masks), found[0], found[5], counts["matched_masks"], counts["matched_objects"]]
    assert measured["pairs"][1][1] >= 2
    assert measured["pairs"][3] == [0, 0, 0, 0, 0]


def test_figures_of_a_pair_in_closed_form(thresholds: ModuleType) -> None:
    rows = [
        {"source": "bsds500", "objects": 10, "pairs": [[20, 5, 2, 8, 4]]},
        {"source": "bsds500", "objects": 4, "pairs": [[20, 1, 0, 2, 2]]},
        {"source": "ccp", "objects": 2, "pairs": [[50, 2, 1, 3, 2]]},
        {"source": "ccp", "objects": 0, "pairs": [[99, 0, 0, 0, 0]]},
    ]
    (found,) = thresholds.pooled(rows, [(0.4, 0.3)])
    assert (found["pred_iou_thresh"], found["stability_score_thresh"]) == (0.4, 0.3)
    assert found["recall_50"] == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert found["recall_75"] == pytest.approx((0.2 + 0 + 0.5) / 3)
    assert found["masks_per_image"] == pytest.approx(30)
    assert found["duplicates_per_object"] == pytest.approx((4 + 0 + 1) / 8)
    assert found["precision"] == pytest.approx(10 / 40)
    assert found["use"] == pytest.approx(6 / 40)
    recall = 1.75 / 3
    assert found["f"] == pytest.approx(2 * recall * 0.15 / (recall + 0.15))
    (unknown,) = thresholds.pooled(rows[2:], [(0.4, 0.3)])
    assert unknown["use"] is unknown["f"] is None
    assert unknown["recall_50"] == 1


def test_the_rule_takes_f_then_recall_then_higher_thresholds(thresholds: ModuleType) -> None:
    def row(iou: float, stability: float, recall: float, f: float | None) -> dict[str, float | None]:
        return {"pred_iou_thresh": iou, "stability_score_thresh": stability, "recall_50": recall, "f": f}

    low, most, same, worse, none = (
        row(0.2, 0.2, 0.5, 0.4004),
        row(0.4, 0.2, 0.6, 0.4),
        row(0.4, 0.3, 0.6, 0.4),
        row(0.9, 0.9, 0.9, 0.39),
        row(0.9, 0.9, 1.0, None),
    )
    assert thresholds.choose([low, worse, none]) == low
    assert thresholds.choose([low, most, worse, none]) == most
    assert thresholds.choose([most, same, low]) == thresholds.choose([same, low, most]) == same
    assert thresholds.choose([none]) is None


def test_a_run_from_shards_to_json(
    quality: ModuleType, nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shards = [TarShard(write_shard(data, source, images=4)) for source in ("discs", "more")]
    (data / "discs_raw.tar").write_bytes(b"no pictures")
    kept = tmp_path / "deep" / "kept.json"
    options = ["--data", str(data), "--model", str(nano_folder), "--points-per-side", "3", "--images", "2"]
    quality.main([*options, "--workers", "1", "--json", str(kept)])
    document = json.loads(kept.read_text())
    assert "mean of sets" in capsys.readouterr().out
    assert document["model_digest"] == open_subject(str(nano_folder)).digest
    assert str(tmp_path) not in kept.read_text()
    assert list(document["sets"]) == ["discs", "more"]
    for shard in shards:
        drawn = document["sets"][shard.source]
        assert len(drawn["pictures"]) == drawn["images"] == 2
        assert set(drawn["pictures"]) <= set(shard.keys())
        assert drawn["objects"] == 6
        assert 0 < drawn["proposals"]["masks_per_image"] <= 27
    quality.main([*options, "--workers", "2", "--json", str(tmp_path / "two.json")])
    again = json.loads((tmp_path / "two.json").read_text())
    assert again["sets"] == document["sets"]


def test_thresholds_ask_only_pictures_held_back(
    quality: ModuleType, nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_shard(data, "bsds500", images=51)
    write_shard(data, "few", images=24)
    kept = tmp_path / "kept.json"
    options = ["--data", str(data), "--model", str(nano_folder), "--points-per-side", "3", "--workers", "1"]
    quality.main([*options, "--thresholds", "--step", "0.5", "--json", str(kept)])
    document = json.loads(kept.read_text())
    assert "stability" in capsys.readouterr().out
    assert document["pictures"] == {"bsds500": 2}
    assert document["hold_back"] == 25
    assert [(row["pred_iou_thresh"], row["stability_score_thresh"]) for row in document["pairs"]] == [
        (0.0, 0.0),
        (0.0, 0.5),
        (0.5, 0.0),
        (0.5, 0.5),
    ]


def test_without_data_nothing_is_measured(
    quality: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quality.main([])
    assert "left out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        quality.main(["--write-card", "--data", str(tmp_path)])
    assert "--json" in capsys.readouterr().err
