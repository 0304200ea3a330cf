"""Suites: what is known of sets, and what a set is to a model that states its sources."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from anymask.errors import NotFoundError
from anymask.evaluation.suites import SUITES, SetFacts, facts_of, find_suite, standing

PACK = Path(__file__).parents[2].parent / "shared" / "data"


def test_standing_tells_apart_what_a_result_means():
    facts = SetFacts("val", family=frozenset({"train_a"}), overlap=frozenset({"leaky"}))
    assert standing(facts, None) == "not stated"
    assert standing(facts, []) == "zero-shot"
    assert standing(facts, ["other"]) == "zero-shot"
    assert standing(facts, ["other", "train_a"]) == "same source"
    assert standing(facts, ["train_a", "leaky"]) == "seen in training"
    assert standing(facts, ["val"]) == "seen in training"


def test_pictures_of_coco_val_in_training_are_noticed():
    (coco,) = find_suite("coco").sets
    assert standing(coco, {"bsds500", "tinycoco"}) == "seen in training"
    assert standing(coco, {"bsds500", "coco128"}) == "same source"
    assert standing(coco, {"bsds500"}) == "zero-shot"


def test_unlisted_sets_have_a_name_and_nothing_claimed():
    facts = facts_of("mine")
    assert (facts.name, facts.licence, facts.origin) == ("mine", "not stated", "not stated")
    with pytest.raises(NotFoundError, match="pack, coco"):
        find_suite("no such")


def test_suites_have_different_names_and_state_their_sources():
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    for suite in SUITES:
        assert all(reference.source for reference in suite.references)
        assert all(0 < reference.value < 1 for reference in suite.references)


@pytest.mark.skipif(not (PACK / "manifest.csv").is_file(), reason="the data pack is not beside the project")
def test_the_pack_is_as_the_suite_says():
    with open(PACK / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    name_of = lambda row: row["id"].rsplit("_", 1)[0]  # noqa: E731
    in_eval = {name_of(row): row for row in rows if row["split"] == "eval"}
    in_train = {name_of(row) for row in rows if row["split"] == "train"}
    repository = next(key for key in rows[0] if "repo" in key)
    suite = find_suite("pack")
    assert {facts.name for facts in suite.sets} == set(in_eval)
    for facts in suite.sets:
        assert facts.family <= in_train
        assert in_eval[facts.name][repository] == facts.origin
        same_origin = {
            name_of(row) for row in rows if row["split"] == "train" and row[repository] == facts.origin
        }
        assert same_origin <= facts.family
