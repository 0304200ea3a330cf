"""Plans: what is drawn, what is measured, and that records survive a file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from labelled_pictures import picture, sample

from anymask.errors import InputError, MaskError
from anymask.evaluation.metrics import boundary_iou, complexity, iou
from anymask.evaluation.peers.baselines import Ellipse, FilledBox
from anymask.evaluation.plan import PROTOCOLS, MaskRecord, Plan, draw, measure_sample, sample_digest


def test_every_protocol_gives_its_figures_and_a_smaller_plan_the_same_ones():
    one, (_, masks) = sample(3), picture(3)
    whole = measure_sample(Ellipse(), one, Plan())
    assert [record.mask_id for record in whole] == ["1", "2", "3"]
    for record, truth in zip(whole, masks, strict=True):
        assert record.area == truth.sum()
        assert record.complexity == complexity(truth)
        ys, xs = np.nonzero(truth)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        answer = Ellipse().segment(Ellipse().embed(one.image), box=box)[0].array
        assert record.box is not None
        assert record.box.iou == iou(answer, truth)
        assert record.box.boundary_iou == boundary_iou(answer, truth)
        assert len(record.jitter) == 3
        assert 9 <= len(record.clicks) <= 20
        assert record.point is not None
        assert record.point_oracle is not None
        assert record.clicks[0] == record.point.iou <= record.point_oracle.iou
    for name, field in (("box", "box"), ("random-point", "random_point")):
        alone = measure_sample(Ellipse(), one, Plan(protocols=(name,)))
        assert [getattr(r, field) for r in alone] == [getattr(r, field) for r in whole]
        assert all(r.clicks == () and r.point is None for r in alone)


def test_a_record_comes_back_from_json_as_it_was():
    for plan in (Plan(), Plan(protocols=("clicks",), max_clicks=4), Plan(protocols=("box",))):
        for record in measure_sample(FilledBox(), sample(1, category="disc"), plan):
            assert MaskRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
            assert record.category == "disc"


def test_digests_change_with_what_decides_the_result_and_with_nothing_else():
    plan = Plan()
    others = [Plan(masks=3), Plan(seed=1), Plan(max_clicks=5), Plan(protocols=("box",))]
    assert len({plan.digest, *(other.digest for other in others)}) == 5
    assert Plan(protocols=tuple(reversed(PROTOCOLS))).digest == plan.digest
    one = sample(1)
    moved = replace(one, annotations=[*one.annotations[:2], {**one.annotations[2], "area": 1}])
    digests = {
        sample_digest(one),
        sample_digest(moved),
        sample_digest(sample(2)),
        sample_digest(replace(one, key="x")),
    }
    assert len(digests) == 4
    assert sample_digest(sample(1)) == sample_digest(one)


def test_a_larger_draw_holds_the_smaller_ones_whatever_the_order():
    keys = [f"image {i}" for i in range(100)]
    previous: set[str] = set()
    for count in (1, 10, 50, 99):
        chosen = draw(keys, count, 0, "image")
        assert chosen == sorted(chosen)
        assert len(chosen) == count
        names = {keys[i] for i in chosen}
        assert previous <= names
        shuffled = keys[::-1]
        assert {shuffled[i] for i in draw(shuffled, count, 0, "image")} == names
        previous = names
    assert draw(keys, None, 0, "image") == draw(keys, 1000, 0, "image") == list(range(100))
    assert draw(keys, 10, 1, "image") != draw(keys, 10, 0, "image")


def test_draws_are_even():
    keys = [str(i) for i in range(20)]
    hits = np.zeros(20)
    for seed in range(1000):
        hits[draw(keys, 5, seed, "mask")] += 1
    expected, spread = 250.0, np.sqrt(1000 * 0.25 * 0.75)
    assert np.abs(hits - expected).max() < 4.5 * spread


def test_bad_plans_and_bad_masks_are_refused():
    for bad in (
        {"protocols": ("click",)},
        {"protocols": ()},
        {"masks": 0},
        {"max_clicks": 0},
        {"max_clicks": 101},
    ):
        with pytest.raises(InputError):
            Plan(**bad)
    other_size = replace(sample(1), annotations=sample(1, size=(50, 80)).annotations)
    with pytest.raises(MaskError, match=r"\(50, 80\).*\(60, 80\)"):
        measure_sample(FilledBox(), other_size, Plan(protocols=("box",)))
