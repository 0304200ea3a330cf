"""Figures from records: against means taken another way."""

from __future__ import annotations

import numpy as np
import pytest

from anymask.errors import InputError
from anymask.evaluation.plan import MaskRecord
from anymask.evaluation.protocols import Answer, ClickRecord, number_of_clicks
from anymask.evaluation.runner import ImageResult, SetResult
from anymask.evaluation.suites import SetFacts
from anymask.evaluation.summary import compare_results, metrics, summarise


def record(rng: np.random.Generator, mask_id: str, gain: float = 0.0) -> MaskRecord:
    def value() -> float:
        return float(np.clip(rng.uniform(0.3, 0.95) + gain, 0, 1))

    def answer() -> Answer:
        return Answer(value(), float(rng.uniform()), None, value(), value())

    length = int(rng.integers(9, 21))
    clicks = [value() * 0.8 for _ in range(length)]
    if length < 20:
        clicks[-1] = 0.95  # a series ends early only when it got there
    return MaskRecord(
        mask_id,
        area=int(rng.choice([500, 5000, 50000])),
        complexity=float(rng.choice([1.1, 2.0, 3.0, 9.0])),
        point=answer(),
        point_oracle=answer(),
        box=answer(),
        jitter=(value(), value(), value()),
        clicks=tuple(clicks),
    )


def results(seed: int, gain: float = 0.0, sets: int = 2, images: int = 12) -> list[SetResult]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(sets):
        pictures = tuple(
            ImageResult(f"i{i}", tuple(record(rng, f"m{j}", gain) for j in range(int(rng.integers(1, 5)))))
            for i in range(images)
        )
        masks = sum(len(picture.records) for picture in pictures)
        found.append(SetResult(f"set{number}", pictures, images, images, masks))
    return found


FACTS = {"set0": SetFacts("set0", domain="photographs"), "set1": SetFacts("set1", domain="microscopy")}


def test_means_are_over_masks_in_a_set_and_over_sets_in_all():
    sets = results(0)
    summary = summarise(sets, FACTS, 20)
    by_hand = [np.mean([r.box.iou for image in s.images for r in image.records]) for s in sets]
    assert [summary.sets[s.name]["box"] for s in sets] == pytest.approx(by_hand, abs=1e-12)
    assert summary.mean["box"] == pytest.approx(np.mean(by_hand), abs=1e-12)
    jitter = [np.mean([r.jitter[1] for image in s.images for r in image.records]) for s in sets]
    assert summary.mean["box_jitter_10"] == pytest.approx(np.mean(jitter), abs=1e-12)
    assert "random_point" not in summary.mean
    assert summary.counts["set1"] == (12, sets[1].masks)


def test_clicks_and_noc_agree_with_the_protocols_own_count():
    (result,) = results(1, sets=1)
    row = summarise([result], FACTS, 20).sets["set0"]
    series = [
        ClickRecord(tuple(Answer(v, 0.0, None) for v in r.clicks), Answer(0.0, 0.0, None))
        for r in result.records
    ]
    for threshold, name in ((0.85, "85"), (0.90, "90")):
        expected = number_of_clicks(series, threshold)
        assert row[f"noc_{name}"] == pytest.approx(expected.mean, abs=1e-12)
        assert row[f"failures_{name}"] == pytest.approx(expected.failures / expected.objects, abs=1e-12)
    assert row["clicks_5"] == pytest.approx(np.mean([s.after(5).iou for s in series]), abs=1e-12)


def test_strata_hold_every_mask_once():
    sets = results(2)
    summary = summarise(sets, FACTS, 20)
    masks = sum(s.masks for s in sets)
    for rows in summary.strata.values():
        for kind in ("size", "complexity", "domain"):
            chosen = [row for row in rows if row.kind == kind]
            assert sum(row.masks for row in chosen) == masks
            pooled = sum(row.mean * row.masks for row in chosen) / masks
            whole = np.mean([r.box.iou for s in sets for r in s.records])
            if rows is summary.strata["box"]:
                assert pooled == pytest.approx(whole, abs=1e-12)
    small = [r.box.iou for s in sets for r in s.records if r.area == 500]
    (row,) = (row for row in summary.strata["box"] if row.name == "small")
    assert (row.masks, row.mean) == (len(small), pytest.approx(np.mean(small), abs=1e-12))


def test_two_seeds_are_undecided_and_a_planted_loss_is_worse():
    table = {metric.key: metric for metric in metrics(20)}
    for key in ("box", "point", "clicks_5"):
        same = compare_results(paired(0, 0.0), paired(1, 0.0), table[key])
        assert same.overall.verdict == "undecided"
        worse = compare_results(paired(0, -0.1), paired(1, 0.0), table[key])
        assert worse.overall.verdict == "worse"
        assert compare_results(paired(0, 0.1), paired(1, 0.0), table[key]).overall.verdict == "better"
    noc = compare_results(slower(0), slower(2), table["noc_90"])
    assert noc.overall.verdict == "better"


def paired(noise: int, gain: float) -> list[SetResult]:
    """The same masks, measured with independent noise of 0.05 and a gain."""
    rng = np.random.default_rng(100 + noise)

    def shift(answer: Answer) -> Answer:
        return Answer(answer.iou + gain + float(rng.normal(0, 0.05)), answer.predicted_iou, None)

    found = []
    for result in results(7, sets=3, images=40):
        pictures = tuple(
            ImageResult(
                image.key,
                tuple(
                    MaskRecord(
                        r.mask_id,
                        r.area,
                        r.complexity,
                        point=shift(r.point),
                        box=shift(r.box),
                        clicks=tuple(v + gain + float(rng.normal(0, 0.05)) for v in r.clicks),
                    )
                    for r in image.records
                ),
            )
            for image in result.images
        )
        found.append(
            SetResult(result.name, pictures, result.total_images, result.seen_images, result.seen_masks)
        )
    return found


def slower(clicks: int) -> list[SetResult]:
    """The same masks, each needing so many more clicks."""
    found = []
    for result in results(8, sets=2):
        pictures = tuple(
            ImageResult(
                image.key,
                tuple(
                    MaskRecord(r.mask_id, r.area, r.complexity, clicks=(*([0.1] * (3 + clicks)), 0.95))
                    for r in image.records
                ),
            )
            for image in result.images
        )
        found.append(SetResult(result.name, pictures, 12, 12, result.seen_masks))
    return found


def test_results_on_other_masks_are_not_compared():
    metric = metrics(20)[0]
    first, second = results(0), results(0)
    short = SetResult("set1", second[1].images[1:], 12, 12, 0)
    with pytest.raises(InputError, match="same masks"):
        compare_results(first, [second[0], short], metric)
    with pytest.raises(InputError, match="same masks"):
        compare_results(first, second[:1], metric)
    with pytest.raises(InputError, match="no mask to report on in empty"):
        summarise([SetResult("empty", (), 3, 3, 0)], {"empty": SetFacts("empty")}, 20)
