"""A `Segmenter` with the attributes that programs read of a published model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.compat.errors import need_torch
from anymask.errors import ModelError, PromptError
from anymask.predict.prompts import BOTTOM_RIGHT, PADDING, TOP_LEFT
from anymask.predict.segmenter import Segmenter
from anymask.runtime.backend import FloatArray, PromptArrays
from anymask.types import Embedding

__all__ = ["SegmenterModel"]

_SINGLE: Final = slice(0, 1)
_CANDIDATES: Final = slice(1, None)


@dataclass(frozen=True)
class EncoderFacts:
    """What programs read of ``model.image_encoder``: the longer side of the network frame."""

    img_size: int


class SegmenterModel:
    """Any model that runs behind a `Segmenter`, nano among them, in the place of a published one.

    It needs no torch except for ``device`` and for calls that take tensors. Weights cannot be reached through it and
    it stays where it was loaded.
    """

    image_format: str = "RGB"

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.image_encoder = EncoderFacts(segmenter.spec.long_side)

    def __repr__(self) -> str:
        return f"SegmenterModel({self.segmenter!r})"

    @property
    def mask_threshold(self) -> float:
        """Logit above which a pixel belongs to the mask."""
        return self.segmenter.spec.mask_threshold

    @property
    def device(self) -> Any:
        """The ``torch.device`` that tensors are taken from and given back on: the CPU."""
        return need_torch("the device of a model").device("cpu")

    def to(self, device: Any = None) -> SegmenterModel:
        """Itself; raises `ModelError` for any device but the CPU, since the model stays where it was loaded."""
        if str(device) != "cpu":
            raise ModelError(
                f"the model {self.segmenter.spec.name!r} stays where it was loaded, got device {str(device)!r:.80}; "
                "ask anymask.load for the device"
            )
        return self

    def eval(self) -> SegmenterModel:
        """Itself; it is never in training."""
        return self

    def __call__(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Any]]:
        """As ``Sam.forward``: images and prompts already in the network frame, tensors in and out."""
        from anymask.compat.predictor import SamPredictor

        predictor = SamPredictor(self)
        answers = []
        for record in batched_input:
            predictor.set_torch_image(record["image"][None], record["original_size"])
            masks, iou_predictions, low_res_logits = predictor.predict_torch(
                record.get("point_coords"),
                record.get("point_labels"),
                record.get("boxes"),
                record.get("mask_inputs"),
                multimask_output,
            )
            answers.append(
                {"masks": masks, "iou_predictions": iou_predictions, "low_res_logits": low_res_logits}
            )
        return answers

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """RGB pixels (H, W, 3) uint8 -> their embedding."""
        return self.segmenter.embed(image)

    def embed_resized(self, pixels: FloatArray, original_size: tuple[int, int]) -> Embedding:
        """RGB pixels (h, w, 3) in 0..255 whose longer side is the frame's -> the embedding of the image."""
        spec = self.segmenter.spec
        frame = self.segmenter.frame((pixels.shape[0], pixels.shape[1]))
        resized: Any = pixels  # `to_network` scales uint8 only, and here is nothing to scale
        features = self.segmenter.backend.encode(frame.to_network(resized, spec.pixel_mean, spec.pixel_std))
        digest = hashlib.sha256(f"{pixels.shape} {original_size}\n".encode() + pixels.tobytes()).hexdigest()
        return Embedding(features, original_size, frame.network_size, digest, spec.digest, spec.preprocessing)

    def decode(
        self,
        embedding: Embedding,
        coords: NDArray[Any] | None,
        labels: NDArray[Any] | None,
        boxes: NDArray[Any] | None,
        mask_input: NDArray[Any] | None,
        multimask_output: bool,
        return_logits: bool,
    ) -> tuple[NDArray[Any], FloatArray, FloatArray]:
        """B prompts in the network frame -> masks (B, C, H, W), scores (B, C), logits (B, C, h, w).

        coords: (B, N, 2); labels: (B, N); boxes: (B, 4); mask_input: (B, 1, h, w); each or None.
        """
        self.segmenter.check(embedding)
        frame, spec = self.segmenter.frame(embedding.image_size), self.segmenter.spec
        prompts = _prompt_arrays(coords, labels, boxes, mask_input, self.segmenter.low_res_size(frame))
        logits, scores = self.segmenter.backend.decode(embedding.features, prompts)
        chosen = _CANDIDATES if multimask_output else _SINGLE
        low_res, iou_predictions = logits[:, chosen].copy(), scores[:, chosen].copy()
        if return_logits:
            return frame.logits_to_image(low_res), iou_predictions, low_res
        return frame.logits_to_masks(low_res, spec.mask_threshold), iou_predictions, low_res


def _prompt_arrays(
    coords: NDArray[Any] | None,
    labels: NDArray[Any] | None,
    boxes: NDArray[Any] | None,
    mask_input: NDArray[Any] | None,
    low_res_size: tuple[int, int],
) -> PromptArrays:
    """The published rules: a box adds two corners, points without a box one padding point."""
    if (coords is None) != (labels is None):
        raise PromptError("points and labels come together: one of them is missing")
    given = next((array for array in (coords, boxes, mask_input) if array is not None), None)
    count = 1 if given is None else len(given)
    parts: list[FloatArray] = []
    kinds: list[FloatArray] = []
    if coords is not None and labels is not None:
        parts.append(np.asarray(coords, dtype=np.float32))
        kinds.append(np.asarray(labels, dtype=np.float32))
    if boxes is not None:
        parts.append(np.asarray(boxes, dtype=np.float32).reshape(-1, 2, 2))
        kinds.append(np.tile(np.array([[TOP_LEFT, BOTTOM_RIGHT]], dtype=np.float32), (len(parts[-1]), 1)))
    else:
        parts.append(np.zeros((count, 1, 2), dtype=np.float32))
        kinds.append(np.full((count, 1), PADDING, dtype=np.float32))
    masks = np.zeros((count, 1, *low_res_size), dtype=np.float32)
    if mask_input is not None:
        if mask_input.shape != masks.shape:
            raise PromptError(
                f"mask_input must be {masks.shape} for this image and model, got {mask_input.shape}; "
                "give back the low-resolution logits of an earlier answer"
            )
        masks = np.ascontiguousarray(mask_input, dtype=np.float32)
    if any(len(part) != count for part in (*parts, *kinds)):
        raise PromptError("points, labels, boxes and masks must be for the same number of prompts")
    has_mask = np.full(count, float(mask_input is not None), dtype=np.float32)
    return PromptArrays(np.concatenate(parts, axis=1), np.concatenate(kinds, axis=1), masks, has_mask)
