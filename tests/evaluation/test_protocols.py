"""Protocols on a model without weights, on baselines, and on models whose answers are planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import Asked, Planted
from scipy import ndimage, stats

from anymask.errors import InputError, MaskError
from anymask.evaluation import protocols
from anymask.evaluation.clicks import simulate_clicks
from anymask.evaluation.metrics import iou
from anymask.evaluation.peers.baselines import BASELINES, FilledBox, filled_box
from anymask.masks.boxes import mask_to_box
from anymask.predict.promptable import Promptable
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
from anymask.types import Embedding, Mask

SIZE = (60, 80)
PICTURE = np.full((*SIZE, 3), 100, dtype=np.uint8)


def growing(truth: np.ndarray, ious: list[float], candidates: tuple[float, ...] = (0.9,)) -> Planted:
    """Answers with masks of planted IoU, the nth click with the nth; its candidates are of falling size."""

    def rule(asked: Asked) -> list[Mask]:
        value = ious[min(asked.number, len(ious)) - 1]
        scores = candidates if asked.multimask else (0.7,)
        low_res = np.full((4, 4), asked.number, dtype=np.float32)
        return [
            Mask(part(truth, value / (rank + 1)), score, low_res_logits=low_res, stability_score=0.5)
            for rank, score in enumerate(scores)
        ]

    return Planted(rule)


def part(truth: np.ndarray, share: float) -> np.ndarray:
    """The first pixels of a mask, so many that IoU with it is ``share`` (rounded to whole pixels)."""
    inside = np.flatnonzero(truth)
    mask = np.zeros(truth.size, dtype=bool)
    mask[inside[: round(share * len(inside))]] = True
    return mask.reshape(truth.shape)


def square(x0: int = 20, y0: int = 10, x1: int = 60, y1: int = 50) -> np.ndarray:
    return filled_box((x0, y0, x1, y1), SIZE)


def blob(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 4)
    return noise > np.quantile(noise, 0.8)


@pytest.fixture(scope="module")
def fake() -> tuple[Segmenter, Embedding]:
    segmenter = Segmenter(FakeBackend())
    return segmenter, segmenter.embed(PICTURE)


@pytest.mark.parametrize("seed", range(5))
def test_the_centre_is_where_the_distance_to_the_outside_is_largest(
    fake: tuple[Segmenter, Embedding], seed: int
) -> None:
    truth = blob(seed)
    x, y = protocols.centre_point(*fake, truth).prompt
    depth = ndimage.distance_transform_edt(np.pad(truth, 1))[1:-1, 1:-1]
    assert (x % 1, y % 1) == (0.5, 0.5)
    assert depth[int(y), int(x)] >= 0.98 * depth.max()  # the 5 x 5 distance is within 2 %


def test_top_is_what_the_score_chooses_and_oracle_what_the_truth_chooses() -> None:
    truth = square()
    model = growing(truth, [0.8], candidates=(0.3, 0.9, 0.6))  # of IoU .8, .4, .2667
    record = protocols.centre_point(model, model.embed(PICTURE), truth)
    assert record.top == protocols.Answer(pytest.approx(0.4), 0.9, 0.5)
    assert record.oracle == protocols.Answer(pytest.approx(0.8), 0.3, 0.5)
    assert model.asked[0].multimask is True


@given(st.integers(0, 500), st.integers(), st.integers(0, 9))
@settings(max_examples=60)
def test_the_random_point_is_in_the_object_and_only_seed_and_id_decide(
    seed: int, mask_id: int, draw: int
) -> None:
    truth = blob(seed % 7)
    model = growing(truth, [0.5])
    embedding = model.embed(PICTURE)
    first = protocols.random_point(model, embedding, truth, mask_id, draw)
    x, y = first.prompt
    assert truth[int(y), int(x)]
    assert protocols.random_point(model, embedding, truth, mask_id, draw) == first


def test_random_points_are_uniform_over_the_object() -> None:
    truth = square(10, 10, 14, 12)  # 8 pixels
    model = growing(truth, [0.5])
    embedding = model.embed(PICTURE)
    drawn = [protocols.random_point(model, embedding, truth, f"mask {i}").prompt for i in range(800)]
    _, counts = np.unique(np.array(drawn), axis=0, return_counts=True)
    assert len(counts) == 8
    assert stats.chisquare(counts).pvalue > 0.001
    assert drawn != [
        protocols.random_point(model, embedding, truth, f"mask {i}", 1).prompt for i in range(800)
    ]


def test_the_box_is_the_tight_one_and_one_mask_is_asked_for() -> None:
    truth = square()
    model = FilledBox()
    record = protocols.ground_truth_box(model, model.embed(PICTURE), truth)
    assert record.prompt == (20.0, 10.0, 60.0, 50.0)
    assert record.top == record.oracle
    assert record.top.iou == 1.0
    planted = growing(truth, [0.5])
    protocols.ground_truth_box(planted, planted.embed(PICTURE), truth)
    assert planted.asked[0].multimask is False


@given(
    st.tuples(st.integers(0, 79), st.integers(0, 59), st.integers(1, 80), st.integers(1, 60)),
    st.floats(0, 0.49),
    st.integers(0, 10**12),
    st.integers(0, 5),
)
@settings(max_examples=80)
def test_a_jittered_box_is_valid_inside_and_near(
    corner_and_size: tuple[int, int, int, int], fraction: float, mask_id: int, seed: int
) -> None:
    x, y, width, height = corner_and_size
    truth = square(x, y, min(80, x + width), min(60, y + height))
    model = FilledBox()
    embedding = model.embed(PICTURE)
    got = np.array(protocols.jittered_box(model, embedding, truth, mask_id, fraction, seed).prompt)
    box = np.array(mask_to_box(truth), dtype=float)
    sides = np.tile(box[2:] - box[:2], 2)
    assert (got >= 0).all()
    assert (got <= (80, 60, 80, 60)).all()
    assert (got[:2] < got[2:]).all()
    assert (np.abs(got - box) <= fraction * sides + 1e-9).all()


def test_jitters_are_uniform_and_grow_in_one_direction() -> None:
    truth = square(30, 20, 50, 40)  # room on every side
    model = FilledBox()
    embedding = model.embed(PICTURE)

    def moves(fraction: float) -> np.ndarray:
        records = [protocols.jittered_box(model, embedding, truth, i, fraction) for i in range(150)]
        return (np.array([record.prompt for record in records]) - (30, 20, 50, 40)) / 20

    small, large = moves(0.05), moves(0.2)
    np.testing.assert_allclose(large, 4 * small, atol=1e-9)
    assert stats.kstest(large.ravel(), stats.uniform(-0.2, 0.4).cdf).pvalue > 0.001
    assert abs(np.corrcoef(large.T) - np.eye(4)).max() < 0.3
    with pytest.raises(InputError, match="moved by 0 to"):
        protocols.jittered_box(model, embedding, truth, 1, 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_a_series_is_what_the_simulated_annotator_gets(fake: tuple[Segmenter, Embedding], seed: int) -> None:
    truth = blob(seed)
    record = protocols.click_series(*fake, truth, at_least=5, max_clicks=5)
    clicked = simulate_clicks(*fake, truth, 5)
    assert tuple(answer.iou for answer in record.answers) == clicked.after
    assert record.oracle.iou == clicked.oracle
    assert record.answers[0].predicted_iou == clicked.score
    centre = protocols.centre_point(*fake, truth)
    assert (record.after(1), record.oracle) == (centre.top, centre.oracle)
    assert record.after(3) == record.answers[2]
    assert all(answer.stability is not None for answer in record.answers)


def test_a_series_ends_when_enough_clicks_are_made_and_the_threshold_was_reached() -> None:
    truth = square()  # 1600 pixels, so these shares are whole
    for ious, made in (
        ([0.95], 9),
        ([0.5] * 11 + [0.9], 12),
        ([0.5, 0.95] + [0.5] * 20, 9),
        ([0.5] * 11 + [0.89], 20),
    ):
        model = growing(truth, ious)
        record = protocols.click_series(model, model.embed(PICTURE), truth)
        assert len(record.answers) == len(model.asked) == made
        points, labels = model.asked[-1].points, model.asked[-1].labels
        assert len(points) == len(labels) == made  # type: ignore[arg-type]
        assert [asked.multimask for asked in model.asked] == [True] + [False] * (made - 1)


def test_every_click_comes_with_the_logits_of_the_answer_before() -> None:
    truth = square()
    model = growing(truth, [0.5])
    protocols.click_series(model, model.embed(PICTURE), truth, at_least=4, max_clicks=4)
    assert model.asked[0].mask is None
    assert [asked.mask[0, 0] for asked in model.asked[1:]] == [1.0, 2.0, 3.0]  # type: ignore[index]


def test_number_of_clicks_counts_failures_with_the_maximum() -> None:
    truth = square()
    records = []
    for ious in ([0.9], [0.5, 0.85, 0.5, 0.95], [0.2, 0.86], [0.1]):
        model = growing(truth, ious)
        records.append(protocols.click_series(model, model.embed(PICTURE), truth))
    at_85, at_90 = (protocols.number_of_clicks(records, t) for t in protocols.NOC_THRESHOLDS)
    assert (at_85.mean, at_85.failures) == ((1 + 2 + 2 + 20) / 4, 1)
    assert (at_90.mean, at_90.failures) == ((1 + 4 + 20 + 20) / 4, 2)
    assert (at_90.threshold, at_90.objects, at_90.max_clicks) == (0.90, 4, 20)
    assert records[1].clicks_to(0.99) is None


def test_a_series_that_ended_too_early_is_not_counted() -> None:
    truth = square()
    model = growing(truth, [0.88])
    short = protocols.click_series(model, model.embed(PICTURE), truth, stop_at=0.85)
    assert protocols.number_of_clicks([short], 0.85).mean == 1
    with pytest.raises(InputError, match="ended after 9 clicks below"):
        protocols.number_of_clicks([short], 0.90)
    with pytest.raises(InputError, match="no answer after 10"):
        short.after(10)
    with pytest.raises(InputError, match="at least one"):
        protocols.number_of_clicks([], 0.90)
    with pytest.raises(InputError, match="at_least"):
        protocols.click_series(model, model.embed(PICTURE), truth, at_least=21)


@pytest.mark.parametrize("name", ["fake", *(kind.name for kind in BASELINES)])
def test_every_protocol_runs_unchanged_on_models_and_baselines(name: str) -> None:
    kinds = {kind.name: kind for kind in BASELINES}
    model: Promptable = kinds[name]() if name in kinds else Segmenter(FakeBackend())
    truth = square(22, 12, 50, 44)
    picture = np.where(truth[..., None], (210, 60, 60), (40, 90, 60)).astype(np.uint8)
    embedding = model.embed(picture)
    records = [
        protocols.centre_point(model, embedding, truth),
        protocols.random_point(model, embedding, truth, "set/1"),
        protocols.ground_truth_box(model, embedding, truth),
        *(
            protocols.jittered_box(model, embedding, truth, "set/1", fraction)
            for fraction in protocols.JITTERS
        ),
    ]
    for record in records:
        assert 0.0 <= record.top.iou <= record.oracle.iou <= 1.0
        assert 0.0 <= record.top.predicted_iou <= 1.0
    series = protocols.click_series(model, embedding, truth, at_least=3, max_clicks=4)
    assert series.oracle.iou >= series.after(1).iou == records[0].top.iou
    assert 3 <= len(series.answers) <= 4
    assert records[2].top.iou == pytest.approx(
        iou(model.segment(embedding, box=mask_to_box(truth), multimask=False)[0].array, truth)
    )


def test_an_empty_or_foreign_mask_is_refused(fake: tuple[Segmenter, Embedding]) -> None:
    with pytest.raises(MaskError, match="empty"):
        protocols.centre_point(*fake, np.zeros(SIZE, dtype=bool))
    with pytest.raises(MaskError, match="must agree"):
        protocols.click_series(*fake, np.ones((3, 3), dtype=bool))
