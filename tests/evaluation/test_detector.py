"""A detector as an answer to prompts: which detection answers, with planted ones, and a real network's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from small_peers import SIDE, save_detector  # noqa: E402

from anymask.errors import (  # noqa: E402
    EmbeddingMismatchError,
    InputError,
    ModelFormatError,
    NotFoundError,
    PromptError,
)
from anymask.evaluation.peers.baselines import filled_box  # noqa: E402
from anymask.evaluation.peers.detector import Detector, pack_detections, unpack_detections  # noqa: E402
from anymask.types import Embedding, Image, Mask, MaskSet  # noqa: E402

SIZE = (40, 60)
BOXES = {
    "left": (0, 0, 20, 40),
    "middle": (10, 5, 40, 35),
    "inner": (20, 10, 30, 20),
    "right": (40, 0, 60, 40),
}
SCORES = {"left": 0.9, "middle": 0.6, "inner": 0.8, "right": 0.7}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More than one only wait for each other on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detectors") / "small"
    save_detector(path)
    return path


class Planted(Detector):
    """Detects four boxes in whatever image, one of them twice under another class, and one of no pixels."""

    def detect(self, picture: Image) -> list[Mask]:
        masks = [Mask(filled_box(BOXES[name], picture.size), SCORES[name]) for name in BOXES]
        again = Mask(filled_box(BOXES["left"], picture.size), 0.2)
        return [again, *masks, Mask(np.zeros(picture.size, dtype=bool), 0.95)]


@pytest.fixture(scope="module")
def planted(folder: Path) -> Planted:
    return Planted(folder)


@pytest.fixture(scope="module")
def embedding(planted: Planted) -> Embedding:
    return planted.embed(np.zeros((*SIZE, 3), dtype=np.uint8))


def names(masks: MaskSet) -> list[str]:
    """Which boxes were answered."""
    return [next(n for n, box in BOXES.items() if (m.array == filled_box(box, SIZE)).all()) for m in masks]


def test_detections_are_each_kept_once_in_the_order_of_their_scores(
    planted: Planted, embedding: Embedding
) -> None:
    masks = planted.detections(embedding)
    assert names(masks) == ["left", "inner", "right", "middle"]
    np.testing.assert_allclose(masks.scores, [0.9, 0.8, 0.7, 0.6], rtol=1e-6)


def test_a_box_is_answered_by_the_highest_box_iou(planted: Planted, embedding: Embedding) -> None:
    masks = planted.segment(embedding, box=(12, 5, 40, 35))
    assert names(masks) == ["middle", "left", "inner"]
    middle = 28 * 30 / (30 * 30)
    left = 8 * 30 / (20 * 40 + 28 * 30 - 8 * 30)
    inner = 100 / (28 * 30)
    np.testing.assert_allclose(masks.scores, [middle, left, inner])
    assert names(planted.segment(embedding, box=(12, 5, 40, 35), multimask=False)) == ["middle"]
    assert names(planted.segment(embedding, box=(41, 1, 59, 39))) == ["right"]  # the others do not meet it


def test_points_are_answered_by_the_highest_score_that_agrees_with_all(
    planted: Planted, embedding: Embedding
) -> None:
    assert names(planted.segment(embedding, points=[(25, 15)])) == ["inner", "middle"]
    assert names(planted.segment(embedding, points=[(25, 15)], multimask=False)) == ["inner"]
    both = planted.segment(embedding, points=[(25, 15), (12, 30)])
    assert names(both) == ["middle"]
    assert both[0].score == pytest.approx(0.6)
    kept = planted.segment(embedding, points=[(15, 20), (5, 20)], labels=[1, 0])
    assert names(kept) == ["middle"]  # the background point takes the left one out
    assert names(planted.segment(embedding, points=[(60, 40)])) == [
        "right"
    ]  # the far corner is the last pixel's


@pytest.mark.parametrize("seed", range(3))
def test_whether_a_mask_holds_a_point_is_what_its_pixels_say(planted: Planted, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.random(SIZE) < 0.5

    class Noisy(Planted):
        def detect(self, picture: Image) -> list[Mask]:
            return [Mask(noise, 0.5)]

    model = Noisy(planted.folder.path)
    embedding = model.embed(np.zeros((*SIZE, 3), dtype=np.uint8))
    for row, column in zip(rng.integers(0, 40, 60), rng.integers(0, 60, 60), strict=True):
        answer = model.segment(embedding, points=[(column + 0.5, row + 0.5)])[0]
        assert answer.array.any() == noise[row, column]


def test_box_and_points_together_narrow_each_other(planted: Planted, embedding: Embedding) -> None:
    box = (12, 5, 40, 35)
    assert names(planted.segment(embedding, box=box, points=[(25, 15)])) == ["middle", "inner"]
    away = planted.segment(embedding, box=box, points=[(25, 15), (35, 30)], labels=[1, 0])
    assert names(away) == ["inner"]


def test_where_nothing_agrees_the_answer_is_empty(planted: Planted, embedding: Embedding) -> None:
    for prompt in ({"points": [(5, 20), (55, 20)]}, {"points": [(5, 5), (6, 6)], "labels": [1, 0]}):
        masks = planted.segment(embedding, **prompt)
        assert [(mask.area, mask.score, mask.size) for mask in masks] == [(0, 0.0, SIZE)]


def test_prompts_that_no_detection_could_answer_are_refused(planted: Planted, embedding: Embedding) -> None:
    with pytest.raises(PromptError, match="foreground point or a box"):
        planted.segment(embedding, points=[(5, 5)], labels=[0])
    with pytest.raises(PromptError, match="foreground point or a box"):
        planted.segment(embedding, mask=np.zeros((9, 9), dtype=np.float32))
    with pytest.raises(PromptError, match="outside"):
        planted.segment(embedding, points=[(61, 5)])
    other = Planted(planted.folder.path, threshold=0.5)
    with pytest.raises(EmbeddingMismatchError):
        other.segment(embedding, points=[(5, 5)])
    with pytest.raises(EmbeddingMismatchError):
        other.detections(embedding)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_masks_survive_being_packed_into_float32(count: int) -> None:
    rng = np.random.default_rng(count)
    masks = [Mask(rng.random((33, 47)) < 0.3, float(rng.random())) for _ in range(count)]
    back = unpack_detections(pack_detections(masks), (33, 47))
    assert [mask.rle for mask in back] == [mask.rle for mask in masks]
    np.testing.assert_allclose([m.score for m in back], [m.score for m in masks], rtol=1e-6)


def test_runs_longer_than_float32_counts_exactly_survive() -> None:
    """2**24 + 1 is the first whole number that float32 lacks."""
    height, width = 4099, 4099
    counts = np.array([2**24 + 1, 3, height * width - 2**24 - 4])
    mask = Mask.from_rle({"size": [height, width], "counts": counts}, 0.5)  # type: ignore[typeddict-item]
    back = unpack_detections(pack_detections([mask]), (height, width))[0]
    np.testing.assert_array_equal(back.counts, counts)


def picture() -> np.ndarray:
    return np.kron(
        np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8), np.ones((5, 5, 1), np.uint8)
    )


def test_a_networks_detections_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    threshold = 0.135
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = processor.post_process_instance_segmentation(
            model(**processor(images=[picture()], return_tensors="pt")),
            threshold=threshold,
            target_sizes=[SIZE],
            return_binary_maps=True,
        )[0]
    expected: dict[bytes, float] = {}
    for plane, segment in zip(theirs["segmentation"].numpy() > 0.5, theirs["segments_info"], strict=True):
        expected[plane.tobytes()] = max(segment["score"], expected.get(plane.tobytes(), 0.0))
    detector = Detector(folder, threshold=threshold)
    masks = detector.detections(detector.embed(picture()))
    assert 1 < len(masks) == len(expected) < 8
    assert {m.array.tobytes() for m in masks} == set(expected)
    np.testing.assert_allclose(masks.scores, sorted(expected.values(), reverse=True), atol=1e-5)
    assert detector.parameters == sum(p.numel() for p in model.parameters())

    strict = Detector(folder, threshold=1.0)
    nothing = strict.embed(picture())
    assert len(strict.detections(nothing)) == 0
    assert strict.segment(nothing, box=(0, 0, 60, 40), multimask=False)[0].area == 0
    assert strict.digest != detector.digest


def test_a_map_of_segment_numbers_is_read_too(folder: Path) -> None:
    """As EoMT's processor answers: one plane, where a later segment covers an earlier one."""
    plane = torch.full(SIZE, -1.0)
    plane[:, :20], plane[5:15, 10:30] = 0, 1

    class Processor:
        def __call__(self, **_: Any) -> Any:
            from transformers import BatchFeature

            return BatchFeature({"pixel_values": torch.zeros(1, 3, SIDE, SIDE)})

        def post_process_instance_segmentation(
            self, outputs: Any, target_sizes: list[tuple[int, int]], threshold: float
        ) -> Any:
            return [
                {"segmentation": plane, "segments_info": [{"id": 0, "score": 0.4}, {"id": 1, "score": 0.7}]}
            ]

    detector = Detector(folder)
    detector._processor = Processor()
    masks = detector.detections(detector.embed(picture()))
    np.testing.assert_array_equal(masks[0].array, plane.numpy() == 1)
    np.testing.assert_array_equal(masks[1].array, plane.numpy() == 0)


def test_only_detectors_in_local_folders_are_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        Detector("facebook/mask2former-swin-tiny-coco-instance")
    with pytest.raises(InputError, match="threshold"):
        Detector(folder, threshold=1.5)
    shutil.copytree(folder, tmp_path / "other")
    for kind in ("sam", "oneformer"):
        (tmp_path / "other/config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ModelFormatError, match=r"not a detector that segments: .*mask2former"):
            Detector(tmp_path / "other")
    shutil.copy(folder / "config.json", tmp_path / "other/config.json")
    (tmp_path / "other/preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(ModelFormatError, match="image processor"):
        Detector(tmp_path / "other")
