"""The runner: same digits with any number of workers, goes on where it stopped, says which image is bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from labelled_pictures import sample, write_shard

from anymask.data.sa1b import TarShard
from anymask.errors import DatasetError, InputError
from anymask.evaluation.plan import Plan, measure_sample
from anymask.evaluation.runner import measure_set, run_task
from anymask.evaluation.subjects import open_subject

PLAN = Plan(protocols=("box", "random-point", "clicks"), max_clicks=3)


class Counted:
    """A dataset that counts what is read."""

    def __init__(self, dataset):
        self.dataset, self.reads = dataset, 0

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.reads += 1
        return self.dataset[index]


@pytest.fixture
def shard(tmp_path):
    return TarShard(write_shard(tmp_path / "data", images=7))


def test_workers_do_not_change_a_digit(shard, tmp_path):
    subject = open_subject("baseline:ellipse", threads=1)
    alone = measure_set(subject, "discs", shard, PLAN, tmp_path / "one")
    many = measure_set(subject, "discs", shard, PLAN, tmp_path / "two", workers=2)
    assert alone == many
    assert [image.key for image in alone.images] == shard.keys()
    for image, one in zip(alone.images, shard, strict=True):
        assert list(image.records) == measure_sample(subject.model, one, PLAN)
    assert (alone.total_images, alone.seen_images, alone.seen_masks, alone.masks) == (7, 7, 21, 21)


def test_a_stopped_run_goes_on_and_a_finished_one_asks_nothing(shard, tmp_path, monkeypatch):
    subject = open_subject("baseline:ellipse", threads=1)
    calls = []
    ask = subject.model.segment
    monkeypatch.setattr(subject.model, "segment", lambda *a, **k: calls.append(1) or ask(*a, **k))
    rows = run_task(subject, "discs", shard, range(7), PLAN, tmp_path)
    first = [next(rows) for _ in range(3)]
    rows.close()
    partly = len(calls)
    whole = measure_set(subject, "discs", shard, PLAN, tmp_path)
    assert len(calls) == pytest.approx(partly * 7 / 3, rel=0.2)
    asked = len(calls)
    assert measure_set(subject, "discs", shard, PLAN, tmp_path) == whole
    assert measure_set(subject, "discs", shard, PLAN, tmp_path, workers=2) == whole
    assert len(calls) == asked
    assert [row["key"] for row in first] == [image.key for image in whole.images[:3]]


def test_changed_data_is_measured_again(tmp_path):
    subject = open_subject("baseline:filled_box", threads=1)
    samples = [sample(i) for i in range(3)]
    before = measure_set(subject, "s", samples, PLAN, tmp_path)
    samples[1] = replace(samples[1], annotations=samples[2].annotations)
    after = measure_set(subject, "s", samples, PLAN, tmp_path)
    assert after.images[0] == before.images[0]
    assert after.images[1] != before.images[1]


def test_a_subset_is_drawn_by_name_and_counted(shard, tmp_path):
    subject = open_subject("baseline:filled_box", threads=1)
    plan = Plan(protocols=("box",), masks=2)
    part = measure_set(subject, "discs", shard, plan, tmp_path, images=3)
    assert (len(part.images), part.seen_images, part.total_images) == (3, 3, 7)
    assert (part.masks, part.seen_masks) == (6, 9)
    whole = measure_set(subject, "discs", shard, plan, tmp_path)
    assert set(part.images) <= set(whole.images)
    counted = Counted(shard)
    measure_set(subject, "discs", counted, plan, tmp_path, images=3)
    assert counted.reads == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_image_is_named(tmp_path, workers):
    samples = [sample(0), replace(sample(1), image=b"no image"), sample(2)]
    subject = open_subject("baseline:filled_box", threads=1)
    with pytest.raises(DatasetError, match=r"discs_000001.*bad set"):
        measure_set(subject, "bad set", samples, PLAN, tmp_path, workers=workers)
    assert len(list(tmp_path.glob("*.jsonl"))) == 1  # what was measured before it is kept


def test_images_without_masks_are_left_out_and_counted(tmp_path):
    samples = [sample(0), replace(sample(1), annotations=[]), sample(2)]
    result = measure_set(open_subject("baseline:filled_box", threads=1), "s", samples, PLAN, tmp_path)
    assert (len(result.images), result.seen_images) == (2, 3)
    assert np.mean([r.box.iou for r in result.records]) > 0.7  # discs in their boxes: pi / 4


def test_too_many_workers_are_refused(tmp_path):
    with pytest.raises(InputError, match="workers"):
        measure_set(
            open_subject("baseline:filled_box", threads=1), "s", [sample(0)], PLAN, tmp_path, workers=0
        )
