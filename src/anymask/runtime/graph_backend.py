"""The way through a model that was exported as graphs, whatever engine runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from anymask.errors import PromptError
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, PromptArrays
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.manifest import Manifest

PROMPT_INPUTS = ("points", "labels", "mask_input", "has_mask")
ANSWERS = ("low_res_logits", "predicted_iou")


class Graph(Protocol):
    """One graph on one engine."""

    def run(self, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Outputs by name; raises `ModelError` when the engine refuses."""
        ...


def prompt_names(manifest: Manifest) -> tuple[str, ...]:
    """The decoder's inputs for prompts."""
    return PROMPT_INPUTS if manifest.takes_masks else PROMPT_INPUTS[:2]


def prompt_inputs(manifest: Manifest, prompts: PromptArrays) -> dict[str, FloatArray]:
    """Prompts by the decoder's names; raises `PromptError` for a mask where it takes none."""
    if not manifest.takes_masks and prompts.has_mask.any():
        raise PromptError(f"{manifest.spec.name} takes no mask prompts; give points or a box")
    return {name: getattr(prompts, name) for name in prompt_names(manifest)}


class GraphBackend:
    """Both methods of a backend, for engines that set the attributes below when they open a folder."""

    manifest: Manifest
    _encoder: Graph
    _decoder: Graph
    _parts: ImageParts | None = None
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
        checks.check_features(features, self.manifest.features)
        mask_size = checks.low_res_size(self.spec, features)
        checks.check_prompts(prompts, mask_size)
        inputs = prompt_inputs(self.manifest, prompts)
        image = features if self._parts is None else self._parts.of(features)
        answer = self._decoder.run({**image, **inputs})
        return checks.check_answer(answer[ANSWERS[0]], answer[ANSWERS[1]], len(prompts), mask_size)
