"""Kept results: found again exactly, whatever happened to the file."""

from __future__ import annotations

import json
import os

import pytest

from anymask.errors import OutputError
from anymask.evaluation.store import ResultStore


def test_results_are_found_by_another_store_of_the_same_model_and_plan_only(tmp_path):
    store = ResultStore(tmp_path, "a" * 64, "b" * 64)
    store.put("d1", {"records": [1, 2.5]})
    store.put("d2", {"records": []})
    again = ResultStore(tmp_path, "a" * 64, "b" * 64)
    assert again.get("d1") == {"records": [1, 2.5]}
    assert again.digests() == {"d1", "d2"}
    assert len(ResultStore(tmp_path, "c" * 64, "b" * 64)) == 0
    assert len(ResultStore(tmp_path, "a" * 64, "c" * 64)) == 0
    assert again.get("d3") is None


def test_floats_keep_every_digit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308]
    ResultStore(tmp_path, "a", "b").put("d", values)
    assert ResultStore(tmp_path, "a", "b").get("d") == values


@pytest.mark.parametrize("lost", [2, 5, 20])
def test_a_line_cut_short_is_measured_again_and_harms_no_other(tmp_path, lost):
    store = ResultStore(tmp_path, "a", "b")
    for number in range(4):
        store.put(f"d{number}", {"value": number})
    os.truncate(store.path, store.path.stat().st_size - lost)
    again = ResultStore(tmp_path, "a", "b")
    assert again.digests() == {"d0", "d1", "d2"}
    again.put("d3", {"value": 33})
    assert ResultStore(tmp_path, "a", "b").get("d3") == {"value": 33}
    whole = [line for line in again.path.read_text().splitlines() if line.endswith("}}")]
    assert [json.loads(line)["data"] for line in whole] == ["d0", "d1", "d2", "d3"]


def test_a_line_that_only_lost_its_end_still_counts(tmp_path):
    store = ResultStore(tmp_path, "a", "b")
    store.put("d0", {"value": 0})
    os.truncate(store.path, store.path.stat().st_size - 1)
    again = ResultStore(tmp_path, "a", "b")
    again.put("d1", {"value": 1})
    assert ResultStore(tmp_path, "a", "b").digests() == {"d0", "d1"}


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be kept"):
        ResultStore(tmp_path / "file" / "below", "a", "b")
