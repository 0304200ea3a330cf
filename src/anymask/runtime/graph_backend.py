"""The way through a model that was exported as graphs, whatever engine runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anymask.errors import PromptError
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, Promising, PromptArrays
from anymask.runtime.engine import Engine
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.manifest import Manifest

PROMPT_INPUTS = ("points", "labels", "mask_input", "has_mask")
ANSWERS = ("low_res_logits", "predicted_iou")
LEAST, VISIBLE, DRAWN = "least_iou", "visible", "drawn"
_SLACK = {"bf16": 0.01}
"""How far off a predicted IoU may be, with the bound that it is held against: 2.5 of bfloat16's steps below 1."""
_SMALL_SLACK = 1e-4
LARGE_BYTES = 64 * 1024**2
"""An encoder of so many bytes gives the memory of a run back after it: hundreds of megabytes that decoding then has,
for some hundredths of its time. A smaller one would spend more of it."""


class Graph(Protocol):
    """One graph on one engine."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Outputs by name; raises `ModelError` when the engine refuses."""
        ...


def decoder_ports(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the decoder's inputs and outputs."""
    inputs = (*(manifest.parts or manifest.features), *_prompt_names(manifest))
    return ((*inputs, LEAST, VISIBLE), (*ANSWERS, DRAWN)) if manifest.screens else (inputs, ANSWERS)


def _prompt_names(manifest: Manifest) -> tuple[str, ...]:
    return PROMPT_INPUTS if manifest.takes_masks else PROMPT_INPUTS[:2]


def _prompt_inputs(manifest: Manifest, prompts: PromptArrays) -> dict[str, FloatArray]:
    """Prompts by the decoder's names; raises `PromptError` for a mask where it takes none."""
    if not manifest.takes_masks and prompts.has_mask.any():
        raise PromptError(f"{manifest.spec.name} takes no mask prompts; give points or a box")
    return {name: getattr(prompts, name) for name in _prompt_names(manifest)}


class GraphBackend:
    """Both methods of a backend, for engines that set the attributes below when they open a folder."""

    manifest: Manifest
    engine: Engine
    _encoder: Graph
    _decoder: Graph
    _parts: ImageParts[Mapping[str, FloatArray]] | None = None
    """What image.onnx makes of features, where the decoder is cut in two."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description; its digest covers the files and the frame."""
        return self.manifest.spec

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        checks.check_pixels(self.spec, pixels)
        features = self._encoder.run({"pixels": pixels})
        checks.check_features(features, self.manifest.features)
        return features

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        answer = self._answer(features, prompts, -np.inf, None)
        mask_size = checks.low_res_size(self.spec, features)
        return checks.check_answer(answer[ANSWERS[0]], answer[ANSWERS[1]], len(prompts), mask_size)

    def decode_promising(
        self,
        features: Features,
        prompts: PromptArrays,
        least_iou: float,
        picture: tuple[int, int] | None = None,
    ) -> Promising:
        """See `Screens.decode_promising`; older exports draw all."""
        if not self.manifest.screens:
            return Promising(*self.decode(features, prompts), np.arange(len(prompts)))
        least_iou -= _SLACK.get(self.engine.precision, _SMALL_SLACK)
        answer = self._answer(features, prompts, least_iou, picture)
        logits, scores, drawn = (answer[name] for name in (*ANSWERS, DRAWN))
        return checks.check_promising(self.spec, features, logits, scores, drawn, len(prompts), picture)

    def _answer(
        self,
        features: Features,
        prompts: PromptArrays,
        least_iou: float,
        picture: tuple[int, int] | None,
    ) -> Mapping[str, FloatArray]:
        checks.check_features(features, self.manifest.features)
        checks.check_prompts(prompts, checks.low_res_size(self.spec, features))
        inputs: dict[str, NDArray[Any]] = {**_prompt_inputs(self.manifest, prompts)}
        if self.manifest.screens:
            inputs[LEAST] = np.full(1, least_iou, dtype=np.float32)
            inputs[VISIBLE] = np.array(checks.cells_of(picture, self.spec, features), dtype=np.int64)
        image = features if self._parts is None else self._parts.of(features)
        return self._decoder.run({**image, **inputs})
