"""`SamOnnxModel`: exported as programs export it, run by onnxruntime, equal to the predictor."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from anymask.compat import SamOnnxModel, SamPredictor  # noqa: E402

LOGITS_BOUND, SCORES_BOUND = 1e-3, 1e-4
OUTPUTS = ["masks", "iou_predictions", "low_res_masks"]


def export(sam: Any, path: Path, **options: Any) -> Any:
    """The published script's way, with its names and dynamic axes."""
    model = SamOnnxModel(sam, **options)
    channels, grid = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    inputs = {
        "image_embeddings": torch.randn(1, channels, *grid),
        "point_coords": torch.rand(1, 5, 2) * 128,
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, *(4 * side for side in grid)),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([1500.0, 2250.0]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(path),
            opset_version=17,
            input_names=list(inputs),
            output_names=OUTPUTS if not options.get("return_extra_metrics") else None,
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
            dynamo=False,
        )
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def feed(
    predictor: SamPredictor, points: Any, labels: Any, mask: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    return {
        "image_embeddings": predictor.get_image_embedding().cpu().numpy(),
        "point_coords": predictor.transform.apply_coords(np.array([points]), (100, 160)).astype(np.float32),
        "point_labels": np.array([labels], dtype=np.float32),
        "mask_input": np.zeros((1, 1, 32, 32), dtype=np.float32) if mask is None else mask[None],
        "has_mask_input": np.array([float(mask is not None)], dtype=np.float32),
        "orig_im_size": np.array([100, 160], dtype=np.float32),
    }


@pytest.fixture(scope="module")
def predictor(sam, picture) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    return predictor


def test_the_graph_answers_as_the_predictor(sam, predictor, tmp_path):
    session = export(sam, tmp_path / "decoder.onnx", return_single_mask=False)
    assert [output.name for output in session.get_outputs()] == OUTPUTS
    point, box = [(50.0, 40.0)], np.array([10.0, 20.0, 120.0, 90.0])
    low_res = predictor.predict(np.array(point), np.array([1]))[2][:1]
    cases = [
        ({"point_coords": np.array(point), "point_labels": np.array([1])}, ([*point, (0, 0)], [1, -1]), None),
        ({"box": box}, (box.reshape(2, 2), [2, 3]), None),
        (
            {"point_coords": np.array(point), "point_labels": np.array([0]), "box": box},
            ([*point, *box.reshape(2, 2)], [0, 2, 3]),
            None,
        ),
        (
            {"point_coords": np.array(point), "point_labels": np.array([1])},
            ([*point, (0, 0)], [1, -1]),
            low_res,
        ),
    ]
    for arguments, (points, labels), mask in cases:
        masks, scores, logits = session.run(None, feed(predictor, points, labels, mask))
        for multimask, chosen in ((True, slice(1, 4)), (False, slice(0, 1))):
            whole, our_scores, our_logits = predictor.predict(
                **arguments, mask_input=mask, multimask_output=multimask, return_logits=True
            )
            assert masks[0, chosen].shape == whole.shape
            assert np.abs(masks[0, chosen] - whole).max() <= LOGITS_BOUND
            assert np.abs(scores[0, chosen] - our_scores).max() <= SCORES_BOUND
            assert np.abs(logits[0, chosen] - our_logits).max() <= LOGITS_BOUND


def test_a_single_mask_is_chosen_by_the_number_of_points(sam, predictor, tmp_path):
    session = export(sam, tmp_path / "single.onnx", return_single_mask=True)
    one = np.array([(50.0, 40.0)])
    _, scores, _ = predictor.predict(one, np.array([1]))
    masks, score, _ = session.run(None, feed(predictor, [*one, (0, 0)], [1, -1]))
    assert masks.shape == (1, 1, 100, 160)
    assert float(score[0, 0]) == pytest.approx(float(scores.max()), abs=SCORES_BOUND)
    two = np.array([(50.0, 40.0), (120.0, 70.0)])
    _, alone, _ = predictor.predict(two, np.array([1, 0]), multimask_output=False)
    _, score, _ = session.run(None, feed(predictor, [*two, (0, 0)], [1, 0, -1]))
    assert float(score[0, 0]) == pytest.approx(float(alone[0]), abs=SCORES_BOUND)


def test_extra_metrics_count_pixels(sam, predictor):
    model = SamOnnxModel(sam, return_single_mask=False, use_stability_score=True, return_extra_metrics=True)
    inputs = {
        name: torch.tensor(value) for name, value in feed(predictor, [(50, 40), (0, 0)], [1, -1]).items()
    }
    masks, scores, stability, areas, low_res = model(**inputs)
    assert masks.shape == (1, 4, 100, 160)
    assert areas[0].tolist() == [int((plane > 0).sum()) for plane in masks[0]]
    for found, planes in ((stability[0], masks[0]), (scores[0], low_res[0])):
        expected = [int((p > 1).sum()) / max(int((p > -1).sum()), 1) for p in planes]
        assert torch.nan_to_num(found).tolist() == pytest.approx(expected)
    size = SamOnnxModel.resize_longest_image_size(torch.tensor([37.0, 301.0]), 128)
    assert (size.tolist(), size.dtype) == ([int(37 * 128 / 301 + 0.5), 128], torch.int64)
