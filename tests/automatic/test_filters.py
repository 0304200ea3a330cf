"""Suppression and the crop edge in the published arithmetic; the candidates that wait for it; published records."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as peer
from reference_generator import plain_nms

from anymask.automatic.bounds import NOWHERE, no_bounds
from anymask.automatic.candidates import Candidate, Candidates, Waiting
from anymask.automatic.filters import near_crop_edge, published_nms
from anymask.automatic.records import published_records
from anymask.automatic.runs import Runs
from anymask.errors import InputError
from anymask.types import Mask

boxes = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 9), st.integers(0, 9)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(boxes=boxes, seed=st.integers(0, 999), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0]))
def test_suppression_is_torchvisions(boxes: list[Any], seed: int, threshold: float) -> None:
    """Small whole boxes and few scores make ties, and overlaps that equal the threshold."""
    scores = np.random.default_rng(seed).integers(0, 4, len(boxes)) / 3
    assert published_nms(boxes, scores, threshold).tolist() == plain_nms(boxes, scores.tolist(), threshold)


def test_an_overlap_of_four_fifths_is_more_than_0_8_in_float32() -> None:
    """Where float64 would keep both: the published arithmetic rounds the overlap up, and the threshold not at all."""
    pair = [(0, 0, 10, 10), (0, 0, 10, 8)]
    assert np.float64(np.float32(0.8)) > 0.8
    assert published_nms(pair, [1, 0.5], 0.8).tolist() == [0]
    assert published_nms(pair, [1, 0.5], 0.81).tolist() == [0, 1]


def test_flat_boxes_suppress_nothing() -> None:
    assert published_nms([(3, 3, 3, 9), (3, 3, 3, 9)], [1, 2], 0.0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("box", "near"),
    [
        ((120, 130, 180, 170), True),  # left: 120 is 20 from the crop's 100
        ((121, 130, 179, 170), False),
        ((121, 130, 180, 170), True),  # right: 180 is 20 from the crop's 200
        ((121, 20, 179, 170), False),  # top: the crop's edge is the image's
        ((121, 130, 179, 280), True),
    ],
)
def test_the_crop_edge(box: tuple[int, int, int, int], near: bool) -> None:
    assert near_crop_edge(box, (100, 0, 200, 300), (400, 500)) is near


class Boxes:
    """A `PlaneSource` of boxes that are known: a first guess of each is up to 4 pixels off, a closer look 1."""

    def __init__(self, boxes: list[Any], refused: set[int]) -> None:
        self.boxes, self.refused, self.read_of = boxes, refused, []  # type: ignore[var-annotated]

    def waiting(self, number: int, score: float, seed: int) -> Waiting:
        """The candidate of a box, with bytes for a plane of 10 cells."""
        off = np.random.default_rng([seed, number]).integers(0, 5, 4).tolist()
        inner, outer = self.between(number, off)
        bounds = no_bounds((1, 10), (100, 100))
        cells = np.zeros((1, 10), dtype=np.float32)
        return Waiting(number, 0, score, False, bounds, inner, outer, cells)

    def between(self, number: int, off: list[int]) -> tuple[Any, Any]:
        """Boxes so many pixels inside and outside."""
        x0, y0, x1, y1 = self.boxes[number]
        inner = (x0 + off[0], y0 + off[1], x1 - off[2], y1 - off[3])
        return (
            inner if inner[0] <= inner[2] and inner[1] <= inner[3] else NOWHERE,
            (x0 - off[3], y0 - off[2], x1 + off[1], y1 + off[0]),
        )

    def look(self, waiting: Waiting) -> tuple[Any, Any, Any]:
        """See `PlaneSource.look`."""
        inner, outer = self.between(waiting.batch, [1, 0, 0, 1])
        return inner, outer, lambda: waiting.batch in self.refused and waiting.batch % 2 == 0

    def read(self, waiting: Waiting) -> Candidate | None:
        """See `PlaneSource.read`."""
        self.read_of.append(waiting.batch)
        if waiting.batch in self.refused:
            return None
        none = np.zeros(0, dtype=np.int64)
        return Candidate(
            waiting.batch, 0, waiting.score, 0.9, self.boxes[waiting.batch], Runs(none, none, none)
        )

    def encode(self, candidate: Candidate) -> None:
        """See `PlaneSource.encode`."""
        candidate.runs, candidate.counts = None, "x" * 10


@settings(max_examples=250, deadline=None)
@given(
    boxes=boxes,
    seed=st.integers(0, 999),
    threshold=st.sampled_from([0.0, 0.5, 0.7, 0.8, 1.0]),
    budget=st.sampled_from([0, 30, 80, 200, 10_000]),
)
def test_candidates_never_read_would_not_have_survived(
    boxes: list[Any], seed: int, threshold: float, budget: int
) -> None:
    chance = np.random.default_rng(seed)
    scores = (chance.integers(0, 4, len(boxes)) / 3).tolist()
    refused = set(np.flatnonzero(chance.random(len(boxes)) < 0.2).tolist())
    source = Boxes(boxes, refused)
    candidates = Candidates(threshold, source, budget)
    for number, score in enumerate(scores):
        candidates.add(source.waiting(number, score, seed))
        assert sum(one.bytes for one in candidates) <= budget
    good = [number for number in range(len(boxes)) if number not in refused]
    survivors = candidates.survivors()
    kept = plain_nms([boxes[number] for number in good], [scores[number] for number in good], threshold)
    assert [one.batch for one in survivors] == [good[index] for index in kept]
    assert all(one.runs is None for one in survivors)
    assert len(source.read_of) == len(set(source.read_of))
    if budget == 10_000:
        assert all(one.counts is not None for one in survivors)


def test_duplicates_are_not_read() -> None:
    """Ten of one object with boxes known to four pixels: the best is read alone, whatever the order they came in."""
    boxes = [(10 + index % 2, 10, 90, 80 + index % 3) for index in range(10)]
    source = Boxes(boxes, set())
    candidates = Candidates(0.7, source)
    for number in range(10):
        candidates.add(source.waiting(number, number / 10, 0))
    assert [one.batch for one in candidates.survivors()] == source.read_of == [9]


def records(output_mode: str = "binary_mask") -> tuple[np.ndarray, list[dict[str, Any]]]:
    array = np.zeros((5, 7), dtype=bool)
    array[1:4, 2:6] = True
    array[2, 3] = False
    mask = Mask(array, 0.75, stability_score=0.5, point=(2.5, 1.5), crop_box=(1, 0, 7, 5))
    return array, published_records([mask], output_mode)


def test_records_have_the_published_fields_in_their_order() -> None:
    array, (record,) = records()
    assert list(record) == [
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "stability_score",
        "crop_box",
    ]
    assert (record.pop("segmentation") == array).all()
    assert record == {
        "area": 11,
        "bbox": [2, 1, 3, 2],
        "predicted_iou": 0.75,
        "point_coords": [[2.5, 1.5]],
        "stability_score": 0.5,
        "crop_box": [1, 0, 6, 5],
    }


def test_run_lengths_in_records_are_cocos() -> None:
    array, (coco,) = records("coco_rle")
    assert (peer.decode(coco["segmentation"]) == array).all()
    _, (plain,) = records("uncompressed_rle")
    assert (peer.decode(peer.frPyObjects(plain["segmentation"], 5, 7)) == array).all()
    json.dumps([coco, plain])
    with pytest.raises(InputError, match="output mode"):
        records("polygons")


def test_a_mask_from_elsewhere_has_no_click_and_the_whole_image_as_crop() -> None:
    (record,) = published_records([Mask(np.ones((2, 3), dtype=bool), 1.0)])
    assert record["point_coords"] == []
    assert record["crop_box"] == [0, 0, 3, 2]
    assert record["stability_score"] is None
