"""From the bytes of a photo file to masks: onnxruntime against torch, with the same weights.

Measured here (torch 2.13.0 and onnxruntime 1.32.0 on a CPU, random weights): logits 2.1e-6 on values to 1.9, scores
6e-8, no pixel of a mask different.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.model.nano.network import Nano
from anymask.predict.segmenter import Segmenter
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.torch_backend import TorchBackend
from anymask.types import MaskSet, Prompt

EMBEDDING_BOUND, LOGITS_BOUND, SCORES_BOUND, IOU_BOUND = 1e-4, 1e-3, 1e-4, 0.999
MODES = ("JPEG", "PNG", "WEBP")


@pytest.fixture(scope="module")
def pair(random_nano: Nano, nano_folder: Path) -> tuple[Segmenter, Segmenter]:
    """The same weights behind two engines."""
    return Segmenter(OnnxBackend(nano_folder, threads=1)), Segmenter(TorchBackend(random_nano))


def photo(width: int, height: int, mode: str) -> bytes:
    """Coloured blobs on a gradient, as a file."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    for _ in range(6):
        cx, cy, r = rng.integers(0, width), rng.integers(0, height), rng.integers(3, max(4, width // 4))
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.integers(0, 256, 3)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, mode)
    return buffer.getvalue()


def prompts(width: int, height: int, low_res: np.ndarray) -> list[Prompt]:
    """Every kind, alone and mixed; box-only ones and ones that a batch pads included."""
    inside = np.zeros((height, width), dtype=bool)
    inside[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    box = (width * 0.1, height * 0.2, width * 0.7, height * 0.9)
    points = [(width * 0.5, height * 0.5), (width * 0.9, height * 0.1), (0, 0), (width, height)]
    return [
        Prompt(points=points[:1]),
        Prompt(points=points, labels=[1, 0, 1, 0]),
        Prompt(points=points[1:2], labels=[0]),
        Prompt(box=box),
        Prompt(box=box, points=points[:2], labels=[1, 0]),
        Prompt(mask=inside),
        Prompt(mask=low_res),
        Prompt(mask=low_res, points=points[:1], box=box),
    ]


def compare(first: MaskSet, second: MaskSet) -> None:
    assert len(first) == len(second)
    assert np.abs(first.scores - second.scores).max() <= SCORES_BOUND
    for one, other in zip(first, second, strict=True):
        assert one.low_res_logits is not None
        assert other.low_res_logits is not None
        assert np.abs(one.low_res_logits - other.low_res_logits).max() <= LOGITS_BOUND
        either = np.count_nonzero(one.array | other.array)
        assert either == 0 or np.count_nonzero(one.array & other.array) / either >= IOU_BOUND


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(160, 100), (100, 160), (128, 128), (301, 37), (500, 1), (20, 15)])
def test_from_file_bytes_to_masks(
    pair: tuple[Segmenter, Segmenter], size: tuple[int, int], mode: str
) -> None:
    data = photo(*size, mode)
    ours, peer = (segmenter.embed(data) for segmenter in pair)
    assert ours.image_digest == peer.image_digest
    for name, feature in ours.features.items():
        assert np.abs(feature - peer.features[name]).max() <= EMBEDDING_BOUND
    answer = pair[1].segment(peer, points=[(size[0] / 2, size[1] / 2)], multimask=False)[0]
    assert answer.low_res_logits is not None
    asked = prompts(*size, answer.low_res_logits)
    for multimask in (True, False):
        together = pair[0].segment_many(ours, asked, multimask)
        for prompt, first, second in zip(
            asked, together, pair[1].segment_many(peer, asked, multimask), strict=True
        ):
            compare(first, second)
            compare(pair[0].segment_many(ours, [prompt], multimask)[0], second)


def test_the_comparison_would_see_a_fault(pair: tuple[Segmenter, Segmenter]) -> None:
    """The masks are neither empty nor full, and a pixel's shift of the prompt shows."""
    ours = pair[0].embed(photo(160, 100, "PNG"))
    sets = pair[0].segment_many(ours, prompts(160, 100, np.ones((24, 32), np.float32)), multimask=True)
    shares = [mask.area / (160 * 100) for masks in sets for mask in masks]
    assert sum(0.02 < share < 0.98 for share in shares) >= 5
    here = pair[0].segment(ours, points=[(80, 50)], multimask=False)[0].low_res_logits
    there = pair[1].segment(pair[1].embed(photo(160, 100, "PNG")), points=[(81, 50)], multimask=False)[0]
    assert here is not None
    assert there.low_res_logits is not None
    assert np.abs(here - there.low_res_logits).max() > LOGITS_BOUND
