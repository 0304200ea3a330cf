"""What scores masks: predicted IoU, or stability where a model's family says so, for one prompt and for everything."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.errors import ModelFormatError
from anymask.model.folders import write_manifest
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import Features, FloatArray, PromptArrays
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.manifest import read_manifest
from anymask.runtime.ranking import mask_scores

PICTURE = np.zeros((64, 128, 3), dtype=np.uint8)


class Ranked(FakeBackend):
    """The fake, whose predictions fall from mask to mask, with edges that get steeper from mask to mask."""

    def __init__(self, ranking: str) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, ranking=ranking)  # type: ignore[arg-type]

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        logits, scores = super().decode(features, prompts)
        return logits * np.array([0.3, 0.3, 1, 3], np.float32)[:, None, None], scores


def stability(plane: FloatArray) -> float:
    """By hand."""
    return float(np.sum(plane > 1) / np.sum(plane > -1))


def test_predictions_are_left_alone_and_stability_takes_their_place() -> None:
    chance = np.random.default_rng(3)
    logits = chance.normal(0, 3, (2, 4, 9, 7)).astype(np.float32)
    predicted = chance.uniform(size=(2, 4)).astype(np.float32)
    assert mask_scores(Ranked("predicted_iou").spec, logits, predicted) is predicted
    scores = mask_scores(Ranked("stability").spec, logits, predicted)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(np.array([[stability(plane) for plane in four] for four in logits]))


def test_candidates_come_in_the_order_of_the_score() -> None:
    """Opposite orders here; the single answer is the first mask either way."""
    orders = {}
    for ranking in ("predicted_iou", "stability"):
        segmenter = Segmenter(Ranked(ranking))
        masks = segmenter.segment(PICTURE, points=[(60, 30)])
        assert list(masks.scores) == sorted(masks.scores, reverse=True)
        orders[ranking] = [float(mask.low_res_logits.max()) for mask in masks]
        single = segmenter.segment(PICTURE, points=[(60, 30)], multimask=False)[0]
        assert float(single.low_res_logits.max()) == pytest.approx(0.3 * 24, abs=1)
        if ranking == "stability":
            for mask in (*masks, single):
                assert mask.score == pytest.approx(stability(mask.low_res_logits))
    assert orders["stability"] == orders["predicted_iou"][::-1]
    assert len(set(orders["stability"])) == 3


def test_everything_filters_by_the_score() -> None:
    """With a threshold between the second and the third mask's stability only the steepest edges stay."""
    settings = AutomaticSettings(
        points_per_side=3, pred_iou_thresh=0.9, stability_score_thresh=0, box_nms_thresh=1.0
    )
    ranked = Generator(Segmenter(Ranked("stability")), settings, keep_logits=True).generate(PICTURE)
    assert len(ranked) > 0
    for mask in ranked:
        assert mask.score == pytest.approx(stability(mask.low_res_logits))
        assert mask.score > 0.9
    assert len(Generator(Segmenter(Ranked("predicted_iou")), settings).generate(PICTURE)) == 0


def test_a_manifest_says_it(nano_folder, tmp_path) -> None:
    """Older manifests say nothing and mean predicted IoU."""
    manifest = json.loads((nano_folder / "manifest.json").read_text())
    assert read_manifest(nano_folder).spec.ranking == "predicted_iou"
    del manifest["sha256"]
    write_manifest(tmp_path, manifest | {"ranking": "stability"})
    ranked = read_manifest(tmp_path).spec
    assert ranked.ranking == "stability"
    assert ranked.digest == read_manifest(nano_folder).spec.digest, "embeddings stay good"
    write_manifest(tmp_path, manifest | {"ranking": "beauty"})
    with pytest.raises(ModelFormatError, match="ranking"):
        read_manifest(tmp_path)
