"""A backend over a network that its owner goes on using: its weights, mode and place are left as they are."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.compat.modeling import Sam
from anymask.model.prompt_tensors import PromptTensors
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, PromptArrays


class LiveBackend:
    """A compat `Sam` behind the two methods of `anymask.runtime.backend.Backend`.

    Its digest is drawn anew for each object, since the weights may change: embeddings are good for this object only.
    """

    def __init__(self, model: Sam) -> None:
        self._model = model
        mean, std = (tuple(t.flatten().tolist()) for t in (model.pixel_mean, model.pixel_std))
        self._spec = ModelSpec(
            name="sam" if model.config is None else model.config.name,
            digest=uuid.uuid4().hex,
            long_side=model.prompt_encoder.image_size[0],
            pad="square",
            pixel_mean=(mean[0], mean[1], mean[2]),
            pixel_std=(std[0], std[1], std[2]),
            mask_threshold=model.mask_threshold,
            ranking="predicted_iou" if model.config is None else model.config.ranking,
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self._spec

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        checks.check_pixels(self._spec, pixels)
        with torch.no_grad():
            return {"embedding": _array(self._model.image_encoder(self._tensor(pixels)))}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        checks.check_features(features, self._model.feature_names)
        mask_size = checks.low_res_size(self._spec, features)
        checks.check_prompts(prompts, mask_size)
        arrays = (prompts.points, prompts.labels, prompts.mask_input, prompts.has_mask)
        tensors = PromptTensors.from_padded(*(self._tensor(array) for array in arrays))
        with torch.no_grad():
            logits, scores = self._model.decode(self._tensor(features["embedding"]), tensors)
        return checks.check_answer(_array(logits), _array(scores), len(prompts), mask_size)

    def _tensor(self, array: FloatArray) -> Tensor:
        return torch.tensor(array, device=self._model.device)


def _array(tensor: Any) -> FloatArray:
    array: FloatArray = np.ascontiguousarray(tensor.float().cpu().numpy())
    return array
