"""``anymask eval`` and ``anymask rate`` from the command line, on generated pictures and on the embedded model."""

from __future__ import annotations

import csv
import json

import pytest
from labelled_pictures import write_shard

from anymask.errors import DatasetError, InputError, NotFoundError, OutputError

SMALL = ("--max-clicks", 2, "--no-speed", "--gallery", 0)


@pytest.fixture
def data(tmp_path):
    write_shard(tmp_path / "data", "discs", images=7, masks=2)
    return tmp_path / "data"


def test_a_report_lies_where_it_was_asked_for(run, data, tmp_path):
    outcome = run(
        "eval", "baseline:ellipse", "--suite", data, "--beside", "baseline:filled_box", *SMALL, "--out", "r"
    )
    assert outcome.status == 0, outcome.err
    assert "ellipse on data" in outcome.out
    assert "report  r/report.md" in outcome.out
    document = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [model["name"] for model in document["models"]] == ["ellipse", "filled_box"]
    assert document["models"][0]["sets"]["discs"]["masks"] == 14


def test_protocols_on_whole_images_are_told_too(run, tmp_path):
    write_shard(tmp_path / "data", "discs", images=2, masks=2, category="disc")
    outcome = run("eval", "baseline:ellipse", "--suite", tmp_path / "data", "--protocol", "instances", *SMALL)
    assert outcome.status == 0, outcome.err
    assert "AP50 1.000" in outcome.out


def test_json_has_the_verdict_and_nothing_else_on_standard_output(run, data):
    outcome = run(
        "eval",
        "baseline:ellipse",
        "--suite",
        data,
        "--against",
        "baseline:filled_box",
        "--json",
        "--protocol",
        "box",
        *SMALL,
    )
    document = json.loads(outcome.out)
    assert document["against"] == "filled_box"
    assert document["verdicts"]["box"]["verdict"] == "better"
    assert list(document["verdicts"]) == ["box"]


def test_the_embedded_model_is_measured_timed_and_compared(run, data, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "cache"))
    outcome = run(
        "eval",
        "nano",
        "--suite",
        data,
        "--images",
        2,
        "--masks",
        1,
        "--max-clicks",
        2,
        "--gallery",
        1,
        "--json",
    )
    assert outcome.status == 0, outcome.err
    (model,) = json.loads(outcome.out)["models"]
    assert model["speed"]["encode_ms"] > 0
    assert 50 < model["speed"]["peak_mb"] < 2000
    assert model["calibration"]["point"]["count"] == 2
    assert (tmp_path / "eval" / "failures_box.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("baseline:none",), NotFoundError, "filled_box"),
        (("no-such-model",), NotFoundError, "no-such-model"),
        (("baseline:ellipse", "--protocol", "faces"), InputError, "faces"),
        (("baseline:ellipse", "--rating", "x"), InputError, "--against"),
        (("baseline:ellipse", "--suite", "nowhere"), NotFoundError, "nowhere"),
        (("baseline:ellipse", "--suite", "coco"), InputError, "--data"),
        (("baseline:ellipse", "--suite", "lvis", "--data", "gone"), DatasetError, "gone"),
        (("baseline:ellipse", "--out", "data/discs.tar/r"), OutputError, "discs.tar"),
    ],
)
def test_bad_input_is_one_sentence_and_the_errors_status(run, data, tmp_path, arguments, error, words):
    suite = () if "--suite" in arguments else ("--suite", data)
    outcome = run("eval", *arguments, *suite, *SMALL)
    assert outcome.status == error.exit_status, outcome.err
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    assert words in outcome.err
    assert not (tmp_path / "eval").exists()


def test_masks_are_laid_out_for_rating_and_the_ratings_read(run, data, tmp_path):
    outcome = run(
        "eval",
        "baseline:ellipse",
        "--suite",
        data,
        "--against",
        "baseline:filled_box",
        "--protocol",
        "box",
        "--rating",
        tmp_path / "study",
        *SMALL,
    )
    assert outcome.status == 0, outcome.err
    assert run("rate", tmp_path / "study").status == InputError.exit_status  # nobody has rated yet
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    sheet = next((tmp_path / "study").rglob("ratings.csv"))
    with open(sheet, newline="") as file:
        rows = list(csv.DictReader(file))
    methods = {str(number): json.dumps(entry) for number, entry in _pictures(key)}
    for row in rows:
        text = methods[row["id"]]
        row["rating"] = "9" if '"human"' in text else "7" if '"ellipse' in text else "3"
        row["rater"] = "a"
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    document = json.loads(run("rate", tmp_path / "study", tmp_path / "a.csv", "--json").out)
    means = {name.split(",")[0]: method["mean"] for name, method in document["methods"].items()}
    assert means == {"human": 9.0, "ellipse": 7.0, "filled_box": 3.0}
    assert "better" in run("rate", tmp_path / "study", tmp_path / "a.csv").out


def _pictures(key):
    """(id, entry) of the key file, whichever way it lists them."""
    pictures = key["pictures"]
    return pictures.items() if isinstance(pictures, dict) else [(entry["id"], entry) for entry in pictures]
