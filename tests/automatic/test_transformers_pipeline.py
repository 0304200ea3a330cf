"""Against transformers' ``mask-generation`` pipeline with the same weights, where the two mean the same.

What differs there, and is kept out of the comparison:

* a stability equal to the threshold is dropped, here kept as in the published generator;
* all crops are suppressed together by predicted IoU, here each by itself and then by the size of the crop: one crop;
* its suppression is torchvision's ``batched_nms``, which has no build beside the pinned torch: the plain one of
  `reference_generator`, written from torchvision's loop, takes its place;
* the grid is made in float32;
* pictures are scaled and normalised in another order: one with the frame's long side is not scaled at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted_backend import picture
from reference_generator import plain_nms

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from random_sam import THRESHOLD, random_sam, segmenter_of, twin_of  # noqa: E402

from anymask.automatic.generator import Generator  # noqa: E402
from anymask.automatic.settings import AutomaticSettings  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402

IMAGE = picture(96, 128)


@pytest.fixture(scope="module")
def sam() -> Any:
    return random_sam()


@pytest.fixture(scope="module")
def pipeline(sam: Any) -> Any:
    from PIL import Image
    from transformers.models.sam import image_processing_pil_sam as peer

    class Processor(peer.SamImageProcessorPil):  # type: ignore[misc, name-defined]
        def post_process_for_mask_generation(
            self, masks: Any, scores: Any, boxes: Any, threshold: float
        ) -> Any:
            kept = plain_nms(boxes.float().tolist(), scores.tolist(), threshold)
            rles = [masks[index] for index in kept]
            return [peer._rle_to_mask(rle) for rle in rles], scores[kept], rles, boxes[kept]

    side = TINY_TEST.image_size
    processor = Processor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    made = transformers.pipeline(
        "mask-generation",
        model=twin_of(sam),
        image_processor=processor,
        device="cpu",
    )
    return lambda **how: made(Image.fromarray(IMAGE), **how)


@pytest.mark.parametrize(
    ("pred_iou_thresh", "stability_score_thresh", "nms_thresh"),
    [(0.1, 0.1, 1.0), (0.0, 0.1, 0.97), (0.3, 0.1, 0.9)],
)
def test_masks_and_scores(
    sam: Any, pipeline: Any, pred_iou_thresh: float, stability_score_thresh: float, nms_thresh: float
) -> None:
    shared = {
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": 0.5,
    }
    theirs = pipeline(points_per_crop=6, crops_nms_thresh=nms_thresh, mask_threshold=THRESHOLD, **shared)
    settings = AutomaticSettings(points_per_side=6, box_nms_thresh=nms_thresh, **shared)
    ours = Generator(segmenter_of(sam), settings).generate(IMAGE)
    assert len(ours) == len(theirs["masks"])
    assert len(ours) >= (10 if nms_thresh == 1 else 2)
    np.testing.assert_allclose(ours.scores, theirs["scores"].double().numpy(), atol=1e-4)
    overlaps = [
        (mask.array & other).sum() / (mask.array | other).sum()
        for mask, other in zip(ours, (np.asarray(peer) for peer in theirs["masks"]), strict=True)
    ]
    assert min(overlaps) >= 0.99
