"""From a photo to masks by the published rules: our `Segmenter` over SAM against transformers' network.

The way from image to network and back is written out here as in segment_anything's `ResizeLongestSide`,
`SamPredictor` and `Sam.preprocess` / `postprocess_masks`, with torch's own resampling.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image as PillowImage  # noqa: E402

from anymask.model.variants import TINY_TEST  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402

LOGITS_BOUND, SCORES_BOUND, IOU_BOUND = 1e-3, 1e-4, 0.999
# Measured: logits 1.1e-5 on values to 7.1, scores 3.0e-6 on values to 4.2, IoU 0.9997 (single pixels at the threshold).
SIDE = TINY_TEST.image_size


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "sam_parity.py"
    spec = importlib.util.spec_from_file_location("sam_parity", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sam_parity"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pair() -> tuple[Segmenter, Any]:
    """Our front door and the peer, with the same random weights."""
    parity = _benchmark()
    sam = parity.randomised_sam(TINY_TEST, seed=11)
    return Segmenter(TorchBackend(sam, TINY_TEST)), parity.transformers_peer(sam, TINY_TEST)


def published(
    peer: Any, image: np.ndarray, multimask: bool, low_res: np.ndarray | None, **prompt: Any
) -> Any:
    """What the published predictor does: masks, scores and low-resolution logits."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    new_h, new_w = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = np.asarray(PillowImage.fromarray(image).resize((new_w, new_h), PillowImage.Resampling.BILINEAR))
    pixels = torch.as_tensor(resized.copy()).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (TINY_TEST.pixel_mean, TINY_TEST.pixel_std))
    pixels = torch.nn.functional.pad((pixels - mean) / std, (0, SIDE - new_w, 0, SIDE - new_h))
    factor = np.array([new_w / width, new_h / height])
    inputs: dict[str, Any] = {}
    if "points" in prompt:
        inputs["input_points"] = torch.tensor(np.array(prompt["points"]) * factor, dtype=torch.float32)[
            None, None
        ]
        inputs["input_labels"] = torch.tensor(prompt["labels"])[None, None]
    if "box" in prompt:
        box = (np.array(prompt["box"]).reshape(2, 2) * factor).reshape(4)
        inputs["input_boxes"] = torch.tensor(box, dtype=torch.float32)[None, None]
    if low_res is not None:
        inputs["input_masks"] = torch.tensor(low_res)[None, None]
    with torch.no_grad():
        out = peer(pixel_values=pixels, multimask_output=multimask, **inputs)
    logits = out.pred_masks[0, 0]
    full = torch.nn.functional.interpolate(logits[None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    full = full[..., :new_h, :new_w]
    full = torch.nn.functional.interpolate(full, (height, width), mode="bilinear", align_corners=False)
    return (full[0] > 0).numpy(), out.iou_scores[0, 0].numpy(), logits.numpy()


PROMPTS: dict[str, dict[str, Any]] = {
    "click": {"points": [(40.5, 30.25)], "labels": [1]},
    "clicks": {"points": [(40, 30), (10, 70), (3, 5)], "labels": [1, 0, 1]},
    "background": {"points": [(40, 30)], "labels": [0]},
    "box": {"box": (5, 10, 60, 80.5)},
    "click and box": {"points": [(40, 30)], "labels": [0], "box": (5, 10, 60, 80)},
    "nothing but a mask": {},
}


@pytest.mark.parametrize("multimask", [True, False], ids=["three", "one"])
@pytest.mark.parametrize("size", [(90, 160), (200, 77), (128, 128), (85, 61)])
@pytest.mark.parametrize(
    ("kind", "with_mask"), [(kind, fed) for kind in PROMPTS for fed in (False, True) if fed or PROMPTS[kind]]
)
def test_equals_the_published_predictor(
    pair: tuple[Segmenter, Any], kind: str, with_mask: bool, size: tuple[int, int], multimask: bool
) -> None:
    prompt = PROMPTS[kind]
    segmenter, peer = pair
    rng = np.random.default_rng(size[0])
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    low_res = rng.normal(0, 5, (SIDE // 4, SIDE // 4)).astype(np.float32) if with_mask else None
    limited = dict(prompt)
    if "box" in limited:  # inside the narrowest image
        limited["box"] = tuple(np.minimum(limited["box"], (size[1], size[0]) * 2))
    if "points" in limited:
        limited["points"] = [tuple(np.minimum(point, (size[1], size[0]))) for point in limited["points"]]
    masks, scores, logits = published(peer, image, multimask, low_res, **limited)
    ours = segmenter.segment(image, **limited, mask=low_res, multimask=multimask)
    order = np.argsort(-scores, kind="stable")
    assert np.abs(ours.scores - scores[order]).max() <= SCORES_BOUND
    for mask, index in zip(ours, order, strict=True):
        assert mask.low_res_logits is not None
        assert np.abs(mask.low_res_logits - logits[index]).max() <= LOGITS_BOUND
        either = np.count_nonzero(mask.array | masks[index])
        assert either == 0 or np.count_nonzero(mask.array & masks[index]) / either >= IOU_BOUND
    assert np.abs(logits).max() > 0.3, "the comparison would not see a fault in masks this flat"
