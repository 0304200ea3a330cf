"""The streaming reader against `json.loads`, through windows of a few bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.data import json_stream
from anymask.data.json_stream import read_element, visit_arrays
from anymask.errors import DatasetError

TEXT = st.text(st.sampled_from('ab"\\{}[],: é漢\U0001f600\n\u0007'), max_size=8)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ELEMENTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=5)
DOCUMENT = st.fixed_dictionaries(
    {"first": ELEMENTS, "second": ELEMENTS, "other": VALUE, "more": VALUE}
).flatmap(lambda document: st.permutations(list(document.items())).map(dict))


def visited(path: Path, window: int) -> tuple[dict[str, list[Any]], list[tuple[int, int, Any]]]:
    """Elements by array, and each with its place."""
    found: dict[str, list[Any]] = {"first": [], "second": []}
    places: list[tuple[int, int, Any]] = []

    def visitor(name: str) -> json_stream.Visitor:
        def visit(element: json_stream.Element, offset: int, length: int) -> None:
            found[name].append(element)
            places.append((offset, length, element))

        return visit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW_BYTES", window)
        visit_arrays(path, {name: visitor(name) for name in found})
    return found, places


@settings(max_examples=150, deadline=None)
@given(DOCUMENT, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_elements_and_their_places_are_those_of_json_loads(
    tmp_path_factory: pytest.TempPathFactory,
    document: dict[str, Any],
    window: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "document.json"
    path.write_text(json.dumps(document, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    found, places = visited(path, window)
    assert found == {"first": document["first"], "second": document["second"]}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert [read_element(descriptor, offset, length, path) for offset, length, _ in places] == [
            element for *_, element in places
        ]
    finally:
        os.close(descriptor)


SAMPLE = '{"other": {"a": ["}", "\\"", -1.5e3]}, "first": [{"x": [1, 2.5]}, {}], "n": 12, "second": [{"é": "漢"}] }\n'


@pytest.mark.parametrize("window", [1, 5, 1 << 20])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, window: int) -> None:
    data = SAMPLE.encode()
    for length in range(len(data.rstrip())):
        (tmp_path / "cut.json").write_bytes(data[:length])
        with pytest.raises(DatasetError, match=r"cut\.json"):
            visited(tmp_path / "cut.json", window)
    (tmp_path / "whole.json").write_bytes(data)
    assert visited(tmp_path / "whole.json", window)[0] == {
        "first": [{"x": [1, 2.5]}, {}],
        "second": [{"é": "漢"}],
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "is due"),
        (b"not json", "is due"),
        (b'{"first": {}}', "no array"),
        (b'{"first": [1]}', "no JSON object"),
        (b'{"first": [{}], "first": []}', "twice"),
        (b'{"first": []} {}', "goes on"),
        (b'{"first": []}' + b" " * 100 + b"x", "goes on"),
        (b'{"first": [{}},]}', "is due"),
        (b'{"first": [{"a": NaN}]}', "valid JSON"),
        (b'{"first": [{"a": tru}]}', "valid JSON"),
        (b'{"first": [{"a": "\xff"}]}', "UTF-8"),
        (b'{"other": , "first": []}', "a value is due"),
        (b"{first: []}", "a name in quotes"),
        (b'{"first": [{"a": ' + b"9" * 5000 + b"}]}", "valid JSON"),
        (b'{"first": [{"a": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(DatasetError, match=reason) as caught:
        visited(path, 16)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_record_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_ELEMENT_BYTES", 1000)
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"other": "x" * 5000, "first": [{"a": "x" * 900}]}))
    assert len(visited(path, 64)[0]["first"]) == 1
    path.write_text(json.dumps({"first": [{"a": "x" * 1200}]}))
    with pytest.raises(DatasetError, match="more than 1000 bytes"):
        visited(path, 64)


def test_deep_nesting_in_what_is_passed_over_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"other": ' + "[" * 200_000 + "]" * 200_000 + ', "first": [{"a": 1}], "second": []}')
    assert visited(path, 4096)[0]["first"] == [{"a": 1}]


def test_no_file_a_folder_and_a_file_that_changed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no annotation file"):
        visit_arrays(tmp_path / "none.json", {})
    with pytest.raises(DatasetError, match="cannot be read"):
        visit_arrays(tmp_path, {})
    path = tmp_path / "changed.json"
    path.write_text("[1, 2, 3]")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset, length in ((0, 9), (1, 3), (0, 90)):
            with pytest.raises(DatasetError, match="has changed"):
                read_element(descriptor, offset, length, path)
    finally:
        os.close(descriptor)
