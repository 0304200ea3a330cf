"""Studies and reports: what a page says is what was measured, and the same the second time."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from labelled_pictures import picture, write_shard

from anymask.errors import DatasetError, InputError, NotFoundError
from anymask.evaluation.plan import Plan
from anymask.evaluation.report import write_report
from anymask.evaluation.study import Study, run_study

PLAN = Plan(protocols=("point", "box", "clicks"), max_clicks=4)


@pytest.fixture
def data(tmp_path):
    write_shard(tmp_path / "data", "discs", images=8, category="disc")
    write_shard(tmp_path / "data", "more", images=7, masks=2, category="disc")
    return tmp_path / "data"


def study(data, tmp_path, *models, **options):
    options = {"plan": PLAN, "speed": False, "results": tmp_path / "results"} | options
    return Study(models or ("baseline:ellipse", "baseline:filled_box"), str(data), **options)


def test_the_box_is_judged_as_geometry_says(data, tmp_path):
    result = run_study(study(data, tmp_path))
    ellipse, box = result.models
    assert [r.name for r in ellipse.sets] == ["discs", "more"]
    shares = []
    for name, images, masks in (("discs", 8, 3), ("more", 7, 2)):
        truths = [mask for number in range(images) for mask in picture(number, masks=masks)[1]]
        boxes = [np.ptp(np.nonzero(m)[0]) + 1 for m in truths], [np.ptp(np.nonzero(m)[1]) + 1 for m in truths]
        share = np.mean([m.sum() / (h * w) for m, h, w in zip(truths, *boxes, strict=True)])
        assert box.summary.sets[name]["box"] == pytest.approx(share, abs=1e-12)
        shares.append(share)
    assert box.summary.mean["box"] == pytest.approx(np.mean(shares), abs=1e-12)
    assert ellipse.summary.mean["box"] > 0.9 > box.summary.mean["box"]
    assert not ellipse.summary.calibration  # constants predict nothing


def test_a_report_says_what_was_measured_and_repeats_to_the_digit(data, tmp_path):
    first = write_report(
        run_study(study(data, tmp_path)), tmp_path / "a", against="baseline:filled_box", gallery=1
    )
    again = write_report(
        run_study(study(data, tmp_path, results=tmp_path / "fresh", workers=2)),
        tmp_path / "b",
        against="baseline:filled_box",
        gallery=1,
    )
    assert first.document == again.document
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == first.document
    page = first.report.read_text()
    assert page == again.report.read_text()
    assert "NoC: mean number of clicks" in page
    mean = first.document["models"][0]["mean"]["box"]
    assert f"{mean:.3f}" in page
    assert first.document["verdicts"]["box"]["verdict"] == "better"
    assert "**better**" in page
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / "a" / name).stat().st_size > 1000
    assert {"failures_box.jpg", "side_by_side_box.jpg", "sets_box.png", "clicks.png"} <= {
        path.name for path in (tmp_path / "a").iterdir()
    }


def test_a_part_is_called_a_part(data, tmp_path):
    whole = run_study(study(data, tmp_path))
    assert "subset" not in whole.title
    part = run_study(study(data, tmp_path, images=3, plan=Plan(("box",), masks=1)))
    assert part.title.endswith("a subset: 6 of 15 images, 6 of their 15 masks")
    page = write_report(part, tmp_path / "out", gallery=0).report.read_text()
    assert "a subset" in page.splitlines()[0]
    assert "NoC" not in page


def test_known_suites_take_their_sets_and_say_what_they_are_to_the_model(tmp_path):
    for name in ("cvppp", "dsb2018", "unlisted"):
        write_shard(tmp_path / "data", name, images=6, masks=1)
    result = run_study(
        Study(
            ("baseline:ellipse",),
            "pack",
            data=tmp_path / "data",
            plan=PLAN,
            speed=False,
            results=tmp_path / "r",
        )
    )
    assert list(result.datasets) == ["cvppp", "dsb2018"]
    assert "2 of 9 sets" in result.title
    report = write_report(result, tmp_path / "out", gallery=0)
    assert report.document["models"][0]["standing"] == {"cvppp": "zero-shot", "dsb2018": "zero-shot"}
    assert "must not be compared" in report.report.read_text()


def test_proposals_and_instances_of_discs_are_found_by_what_answers_discs(data, tmp_path):
    result = run_study(study(data, tmp_path, "baseline:ellipse", plan=None, extras=("instances",)))
    record = write_report(result, tmp_path / "out").document["models"][0]["instances"]
    assert record["mean"]["ap50"] == pytest.approx(1.0, abs=1e-6)
    assert record["sets"]["discs"]["objects"] == 24
    assert record["mean"]["ap_small"] > 0.8


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"suite": "no such"}, NotFoundError, "pack"),
        ({"suite": "coco"}, InputError, "--data"),
        ({"models": ()}, InputError, "one or more"),
        ({"models": ("baseline:no",)}, NotFoundError, "filled_box"),
        ({"extras": ("faces",)}, InputError, "faces"),
        ({"plan": None}, InputError, "nothing to measure"),
        ({"images": 0}, InputError, "at least 1"),
        ({"extras": ("edges",)}, InputError, "probability maps"),
    ],
)
def test_bad_studies_end_in_a_sentence(data, tmp_path, options, error, sentence):
    options = {"models": ("baseline:ellipse",), "suite": str(data), "plan": PLAN, "speed": False} | options
    with pytest.raises(error, match=sentence):
        run_study(Study(results=tmp_path / "r", **options))


def test_a_named_suite_without_its_sets_is_refused(data, tmp_path):
    with pytest.raises(DatasetError, match="bsds500_test"):
        run_study(Study(("baseline:ellipse",), "pack", data=data, results=tmp_path / "r", speed=False))
