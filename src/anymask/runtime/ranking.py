"""What scores the masks of a model: its own prediction of their IoU, or how stable they are.

EdgeSAM was distilled without SAM's IoU head, so its authors put the stability of the masks in the place of the
prediction: in their exports, in their demo, and by default in `predict_torch`, which their everything mode calls.

Source: README ("CoreML / ONNX Export"), `edge_sam/predictor.py` and `web_demo/gradio_app.py` of EdgeSAM's published
code.
"""

from __future__ import annotations

import numpy as np

from anymask.masks.scores import stability_score
from anymask.runtime.backend import FloatArray, ModelSpec

__all__ = ["mask_scores"]


def mask_scores(spec: ModelSpec, logits: FloatArray, predicted_iou: FloatArray) -> FloatArray:
    """The scores (B, M) that order masks, from a backend's logits (B, M, h, w) and predicted IoU (B, M); float32.

    Stability is that of the low-resolution logits over the whole padded frame, cut one logit above and below the
    threshold, as published.
    """
    if spec.ranking == "predicted_iou":
        return predicted_iou
    return stability_score(logits, spec.mask_threshold).astype(np.float32)
