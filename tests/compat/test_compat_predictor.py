"""`SamPredictor` against the published algorithm written down plainly, against transformers, and against itself.

Measured here (torch 2.13.0, CPU): scores 2.4e-6, low-resolution logits 2.4e-5 on values to 9, logits over the image
1.6e-5; masks differ only where the logit is nearer to the threshold than that.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from block_pictures import make_picture  # noqa: E402
from PIL import Image  # noqa: E402

from anymask.compat import SamPredictor  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402

SCORES_BOUND, LOW_RES_BOUND, LOGITS_BOUND = 1e-4, 1e-3, 1e-3
SIZES = [(100, 160), (160, 100), (128, 128), (37, 301), (500, 340), (20, 15)]
CASES = [
    "point",
    "points",
    "padding",
    "box",
    "points + box",
    "mask",
    "points + mask",
    "box + mask",
    "nothing",
]


def prompt(case: str, height: int, width: int, low_res: np.ndarray) -> dict[str, Any]:
    """Arguments of `predict`; the low-resolution logits of an earlier answer are the mask."""
    points = np.array([[width * 0.5, height * 0.4], [width * 0.9, height * 0.1], [0.0, height]])
    arguments: dict[str, Any] = {}
    if "point" in case or case == "padding":
        count = 1 if case == "point" else 3
        arguments["point_coords"] = points[:count]
        arguments["point_labels"] = np.array([1, -1 if case == "padding" else 0, 1])[:count]
    if "box" in case:
        arguments["box"] = np.array([width * 0.1, height * 0.2, width * 0.7, height * 0.9])
    if "mask" in case:
        arguments["mask_input"] = low_res[:1]
    return arguments


def ask_peer(
    peer: Any, arguments: dict[str, Any], multimask: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answer: tuple[np.ndarray, np.ndarray, np.ndarray] = peer.predict(
        arguments.get("point_coords"),
        arguments.get("point_labels"),
        arguments.get("box"),
        arguments.get("mask_input"),
        multimask,
    )
    return answer


def same_masks(masks: np.ndarray, logits: np.ndarray) -> bool:
    """Whether masks are the logits above 0, but where the logit is within the bound of it."""
    decided = np.abs(logits) > LOGITS_BOUND
    return bool((masks == (logits > 0))[decided].all()) and float(decided.mean()) > 0.99


@pytest.mark.parametrize("size", SIZES)
def test_predict_is_the_published_algorithm(sam, peer, size):
    image = make_picture(*size)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    peer.set_image(image)
    assert (predictor.original_size, predictor.input_size) == (peer.original, peer.inside)
    assert torch.equal(predictor.get_image_embedding(), peer.embedding)
    low_res = peer.predict([(1.0, 1.0)], [1])[2]
    seen = []
    for case in CASES:
        for multimask in (True, False):
            arguments = prompt(case, *size, low_res)
            masks, scores, logits = predictor.predict(**arguments, multimask_output=multimask)
            whole, _, _ = predictor.predict(**arguments, multimask_output=multimask, return_logits=True)
            their_whole, their_scores, their_logits = ask_peer(peer, arguments, multimask)
            count = 3 if multimask else 1
            assert (masks.shape, masks.dtype) == ((count, *size), np.bool_)
            assert (scores.shape, scores.dtype) == ((count,), np.float32)
            assert (logits.shape, logits.dtype) == ((count, 32, 32), np.float32)
            assert (whole.shape, whole.dtype) == ((count, *size), np.float32)
            assert np.abs(scores - their_scores).max() <= SCORES_BOUND, case
            assert np.abs(logits - their_logits).max() <= LOW_RES_BOUND, case
            assert np.abs(whole - their_whole).max() <= LOGITS_BOUND, case
            assert same_masks(masks, their_whole), case
            seen.append(masks.mean())
    assert 0.05 < np.mean(seen) < 0.95  # the masks are neither all nor nothing


def test_the_order_of_the_channels_counts(sam, picture):
    in_rgb, in_bgr = SamPredictor(sam), SamPredictor(sam)
    in_rgb.set_image(picture)
    in_bgr.set_image(picture[..., ::-1], "BGR")
    assert torch.equal(in_rgb.features, in_bgr.features)
    in_bgr.set_image(picture, image_format="BGR")
    assert not torch.allclose(in_rgb.features, in_bgr.features, atol=1e-2)


def test_a_box_may_be_one_row_and_whole_numbers(sam, picture):
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    box = np.array([12, 20, 90, 77])
    flat, row = (predictor.predict(box=given, multimask_output=False) for given in (box, box[None, :]))
    assert all(np.array_equal(one, other) for one, other in zip(flat, row, strict=True))


@pytest.mark.parametrize("multimask", [True, False])
def test_many_objects_at_once_are_each_alone(sam, picture, multimask):
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    rng = np.random.default_rng(5)
    boxes = np.sort(rng.random((5, 2, 2)), axis=1).reshape(5, 4) * [160, 100, 160, 100]
    points, labels = rng.random((5, 2, 2)) * [160, 100], rng.integers(0, 2, (5, 2))
    transform = predictor.transform
    together = predictor.predict_torch(
        transform.apply_coords_torch(torch.tensor(points), picture.shape[:2]),
        torch.tensor(labels),
        boxes=transform.apply_boxes_torch(torch.tensor(boxes), picture.shape[:2]),
        multimask_output=multimask,
    )
    assert tuple(together[0].shape) == (5, 3 if multimask else 1, 100, 160)
    assert together[0].dtype == torch.bool
    for index in range(5):
        alone = predictor.predict(points[index], labels[index], box=boxes[index], multimask_output=multimask)
        assert np.abs(together[1][index].numpy() - alone[1]).max() <= SCORES_BOUND
        assert np.abs(together[2][index].numpy() - alone[2]).max() <= LOW_RES_BOUND
        assert (together[0][index].numpy() != alone[0]).mean() < 1e-3


def test_the_batched_call_is_the_predictor(sam, picture):
    other = make_picture(90, 60)
    predictor = SamPredictor(sam)
    records, expected = [], []
    for image, boxes in ((picture, [[10, 20, 90, 80], [0, 0, 159, 99]]), (other, [[5, 5, 30, 60]])):
        transform = predictor.transform
        pixels = (
            torch.as_tensor(transform.apply_image(image), device=sam.device).permute(2, 0, 1).contiguous()
        )
        framed = transform.apply_boxes_torch(torch.tensor(boxes), image.shape[:2])
        records.append({"image": pixels, "boxes": framed, "original_size": image.shape[:2]})
        predictor.set_image(image)
        expected.append(predictor.predict_torch(None, None, boxes=framed, multimask_output=False))
    answers = sam(records, multimask_output=False)
    assert [list(answer) for answer in answers] == [["masks", "iou_predictions", "low_res_logits"]] * 2
    for answer, (masks, scores, logits) in zip(answers, expected, strict=True):
        assert answer["masks"].shape == masks.shape
        assert (answer["masks"] != masks).float().mean() < 1e-3
        assert torch.allclose(answer["iou_predictions"], scores, atol=SCORES_BOUND)
        assert torch.allclose(answer["low_res_logits"], logits, atol=LOW_RES_BOUND)


def test_the_batched_call_takes_points_and_masks(sam, picture):
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    points, labels = np.array([[40.0, 50.0], [100.0, 20.0]]), np.array([1, 0])
    low_res = predictor.predict(points, labels)[2][:1]
    pixels = torch.as_tensor(predictor.transform.apply_image(picture)).permute(2, 0, 1)
    record = {
        "image": pixels,
        "original_size": (100, 160),
        "point_coords": predictor.transform.apply_coords_torch(torch.tensor(points), (100, 160))[None],
        "point_labels": torch.tensor(labels)[None],
        "mask_inputs": torch.tensor(low_res)[None],
    }
    (answer,) = sam([record], multimask_output=True)
    _, scores, logits = predictor.predict(points, labels, mask_input=low_res)
    assert np.abs(answer["iou_predictions"][0].numpy() - scores).max() <= SCORES_BOUND
    assert np.abs(answer["low_res_logits"][0].numpy() - logits).max() <= LOW_RES_BOUND


def test_transformers_answers_alike(sam, picture, tmp_path):
    """From pixels to masks through transformers' own processor and model, loaded from what `save_pretrained` wrote."""
    import transformers
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    sam.save_pretrained(tmp_path)
    model = transformers.SamModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    processor = SamImageProcessorPil.from_pretrained(tmp_path)
    inputs = processor(images=Image.fromarray(picture), return_tensors="pt")
    height, width = (int(side) for side in inputs["reshaped_input_sizes"][0])
    box = np.array([15.0, 12.0, 120.0, 90.0])
    framed = torch.tensor(box * np.tile([width / 160, height / 100], 2), dtype=torch.float32)
    with torch.no_grad():
        answer = model(pixel_values=inputs["pixel_values"], input_boxes=framed[None, None])
    whole = processor.post_process_masks(
        answer.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
    )[0][0].numpy()
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    masks, scores, logits = predictor.predict(box=box)
    assert (height, width) == predictor.input_size
    assert np.abs(scores - answer.iou_scores[0, 0].numpy()).max() <= SCORES_BOUND
    assert np.abs(logits - answer.pred_masks[0, 0].numpy()).max() <= LOW_RES_BOUND
    assert same_masks(masks, whole)


@pytest.mark.parametrize("size", [(100, 160), (301, 37)])
def test_a_segmenter_answers_as_the_network_does(core_sam, sam, size):
    image = make_picture(*size)
    over_segmenter, over_network = (
        SamPredictor(Segmenter(TorchBackend(core_sam, TINY_TEST))),
        SamPredictor(sam),
    )
    for predictor in (over_segmenter, over_network):
        predictor.set_image(image)
    assert over_segmenter.input_size == over_network.input_size
    assert torch.allclose(over_segmenter.get_image_embedding(), over_network.get_image_embedding(), atol=1e-4)
    low_res = over_network.predict(box=np.array([1, 1, 30, 30]))[2]
    for case in CASES:
        if case == "padding":  # a padding point of the user's own is no token behind a Segmenter
            continue
        for multimask in (True, False):
            arguments = prompt(case, *size, low_res)
            ours = over_segmenter.predict(**arguments, multimask_output=multimask)
            whole = over_network.predict(**arguments, multimask_output=multimask, return_logits=True)
            assert [part.dtype for part in ours] == [np.bool_, np.float32, np.float32]
            assert same_masks(ours[0], whole[0]), case
            if case == "nothing":  # its one padding slot is no token behind a Segmenter, as published
                continue
            assert np.abs(ours[1] - whole[1]).max() <= SCORES_BOUND, case
            assert np.abs(ours[2] - whole[2]).max() <= LOW_RES_BOUND, case


def test_a_segmenter_takes_tensors_too(core_sam, sam, picture):
    over_segmenter, over_network = (
        SamPredictor(Segmenter(TorchBackend(core_sam, TINY_TEST))),
        SamPredictor(sam),
    )
    pixels = torch.as_tensor(over_network.transform.apply_image(picture)).permute(2, 0, 1)[None]
    boxes = over_network.transform.apply_boxes_torch(
        torch.tensor([[3, 4, 90, 80], [50, 1, 99, 99]]), (100, 160)
    )
    answers = []
    for predictor in (over_segmenter, over_network):
        predictor.set_torch_image(pixels, (100, 160))
        assert predictor.input_size == (80, 128)
        answers.append(predictor.predict_torch(None, None, boxes=boxes, return_logits=True))
    for (one, other), bound in zip(
        zip(*answers, strict=True), (LOGITS_BOUND, SCORES_BOUND, LOW_RES_BOUND), strict=True
    ):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=bound)
    records = [{"image": pixels[0], "boxes": boxes, "original_size": (100, 160)}]
    one, other = (p.model(records, multimask_output=True)[0] for p in (over_segmenter, over_network))
    assert list(one) == list(other)
    assert torch.allclose(one["low_res_logits"], other["low_res_logits"], atol=LOW_RES_BOUND)


def test_a_stretched_frame_has_its_own_coordinates(core_sam, picture):
    """As of EfficientSAM and MedSAM: points go where `Segmenter.segment` puts them."""
    sizes = dataclasses.replace(TINY_TEST, name="stretched", resize="stretch")
    segmenter = Segmenter(TorchBackend(copy.deepcopy(core_sam), sizes))
    predictor = SamPredictor(segmenter)
    predictor.set_image(picture)
    assert predictor.input_size == (128, 128)
    points, labels, box = (
        np.array([[80.0, 30.0], [20.0, 90.0]]),
        np.array([1, 0]),
        np.array([10, 20, 140, 80]),
    )
    _, scores, logits = predictor.predict(points, labels, box=box)
    expected = segmenter.segment(picture, points, labels, box)
    order = np.argsort(-scores, kind="stable")
    assert scores[order] == pytest.approx(expected.scores, abs=SCORES_BOUND)
    for index, mask in zip(order, expected, strict=True):
        assert np.abs(logits[index] - mask.low_res_logits).max() <= LOW_RES_BOUND
    framed = predictor.transform.apply_coords_torch(torch.tensor(points), (100, 160))
    assert np.allclose(framed, points * [128 / 160, 128 / 100])
    assert predictor.transform.apply_image(picture).shape == (128, 128, 3)


def test_an_embedding_can_be_kept_and_put_back(sam, picture):
    """A habit of programs: the attributes of one predictor go to another, which then needs no image."""
    first, second = SamPredictor(sam), SamPredictor(sam)
    first.set_image(picture)
    second.features = first.get_image_embedding().clone()
    second.original_size, second.input_size, second.is_image_set = first.original_size, first.input_size, True
    box = np.array([10, 10, 90, 90])
    assert np.array_equal(first.predict(box=box)[0], second.predict(box=box)[0])


def test_the_state_is_as_published(sam, picture):
    predictor = SamPredictor(sam)
    assert predictor.model is sam
    assert predictor.device == torch.device("cpu")
    assert predictor.transform.target_length == sam.image_encoder.img_size == 128
    assert not predictor.is_image_set
    predictor.set_image(picture)
    assert predictor.is_image_set
    predictor.reset_image()
    assert not predictor.is_image_set
    assert predictor.features is None


def test_no_gradient_is_kept(sam, picture):
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    assert not predictor.features.requires_grad
    answer = predictor.predict_torch(None, None, boxes=torch.tensor([[1.0, 1.0, 50.0, 50.0]]))
    assert not any(tensor.requires_grad for tensor in answer)
    assert all(parameter.requires_grad for parameter in sam.parameters())  # and the model stays as it was
