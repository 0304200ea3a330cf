"""The way through a model that was exported as graphs, whatever engine runs them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from anymask.errors import PromptError
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, Needed, Promising, PromptArrays
from anymask.runtime.engine import Engine
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.machine import cores
from anymask.runtime.manifest import Manifest

PROMPT_INPUTS = ("points", "labels", "mask_input", "has_mask")
ANSWERS = ("low_res_logits", "predicted_iou")
LEAST, VISIBLE, MULTIPLE, DRAWN = "least_iou", "visible", "multiple", "drawn"
_SLACK = {"bf16": 0.01, "int8": 0.01}
"""How far off a predicted IoU may be, with the bound that it is held against: 2.5 of bfloat16's steps below 1. Where an
encoder is in int8 the decoder may run in bfloat16."""
_SMALL_SLACK = 1e-4
LARGE_BYTES = 64 * 1024**2
"""An encoder of so many bytes gives the memory of a run back after it: hundreds of megabytes that decoding then has,
for some hundredths of its time. A smaller one would spend more of it."""

SHARES: Final = 2
"""Many prompts are decoded in shares, so many of them at once, each by its part of the threads: between the large
products of a decoder lie many small steps that two threads gain little by."""
_SHARED_FROM: Final = 8
"""Fewer prompts are decoded together."""
_TOGETHER: Final = 4
"""A decoder that draws the masks of all prompts gets at most so many in a share: what one step of it writes is then
still in a core's cache when the next one reads it."""


class Graph(Protocol):
    """One graph on one engine. Safe to run from several threads at once."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Outputs by name; raises `ModelError` when the engine refuses."""
        ...


def decoder_ports(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the decoder's inputs and outputs."""
    inputs = (*(manifest.parts or manifest.features), *_prompt_names(manifest))
    return ((*inputs, LEAST, VISIBLE, MULTIPLE), (*ANSWERS, DRAWN)) if manifest.screens else (inputs, ANSWERS)


def _prompt_names(manifest: Manifest) -> tuple[str, ...]:
    return PROMPT_INPUTS if manifest.takes_masks else PROMPT_INPUTS[:2]


def _prompt_inputs(manifest: Manifest, prompts: PromptArrays) -> dict[str, FloatArray]:
    """Prompts by the decoder's names; raises `PromptError` for a mask where it takes none."""
    if not manifest.takes_masks and prompts.has_mask.any():
        raise PromptError(f"{manifest.spec.name} takes no mask prompts; give points or a box")
    return {name: getattr(prompts, name) for name in _prompt_names(manifest)}


def threads_of_a_share(threads: int) -> int:
    """For each of `SHARES` runs at once, where one alone has ``threads`` or, with 0, all cores; 0 where that is one."""
    return (threads or cores()) // SHARES


class GraphBackend:
    """Both methods of a backend, for engines that set the attributes below when they open a folder."""

    manifest: Manifest
    engine: Engine
    _encoder: Graph
    _decoder: Graph
    _share: Graph | None = None
    """The decoder again, with `threads_of_a_share`."""
    _multiple = 1
    """Prompts are drawn so many at a time, where an engine is the faster for it."""
    _parts: ImageParts[Mapping[str, FloatArray]] | None = None
    """What image.onnx makes of features, where the decoder is cut in two."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SHARES, thread_name_prefix="anymask-decode")

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
        answers = self._answers(features, prompts, Needed(), self._decoder)
        mask_size = checks.low_res_size(self.spec, features)
        logits, scores = (_one_after_the_other([answer[name] for answer in answers]) for name in ANSWERS)
        return checks.check_answer(logits, scores, len(prompts), mask_size)

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """See `Screens.decode_promising`; other decoders than SAM's own draw all."""
        if not self.manifest.screens:
            return Promising(*self.decode(features, prompts), np.arange(len(prompts)))
        # Who asks so has many prompts; opening a second graph for a few that are left over takes longer than they do.
        answers = self._answers(features, prompts, needed, self._share or self._decoder)
        found = []
        for answer, share in zip(answers, self._shares(len(prompts)), strict=True):
            logits, scores, drawn = (answer[name] for name in (*ANSWERS, DRAWN))
            count = share.stop - share.start
            found.append(
                checks.check_promising(self.spec, features, logits, scores, drawn, count, needed.picture)
            )
        return checks.joined(found, checks.low_res_size(self.spec, features))

    def _shares(self, prompts: int) -> list[slice]:
        """Ranges of prompts that are decoded by `SHARES` runs at once."""
        if self._share is None or prompts < _SHARED_FROM:
            return [slice(0, prompts)]
        rounds = 1 if self.manifest.screens else math.ceil(prompts / (SHARES * _TOGETHER))
        shares = SHARES * rounds
        edges = [prompts * index // shares for index in range(shares + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(edges)]

    def _answers(
        self, features: Features, prompts: PromptArrays, needed: Needed, few: Graph
    ) -> list[Mapping[str, FloatArray]]:
        """What the decoder gives for each of the shares; prompts too ``few`` to be shared out go to that graph."""
        checks.check_features(features, self.manifest.features)
        checks.check_prompts(prompts, checks.low_res_size(self.spec, features))
        shared: dict[str, NDArray[Any]] = {}
        if self.manifest.screens:
            slack = _SLACK.get(self.engine.precision, _SMALL_SLACK)
            shared[LEAST] = np.full(1, needed.least_iou - slack, dtype=np.float32)
            shared[VISIBLE] = np.array(checks.cells_of(needed.picture, self.spec, features), dtype=np.int64)
            shared[MULTIPLE] = np.full(1, self._multiple, dtype=np.int64)
        shared |= features if self._parts is None else self._parts.of(features)
        inputs = [
            {**shared, **_prompt_inputs(self.manifest, prompts.some(share))}
            for share in self._shares(len(prompts))
        ]
        if self._share is None or len(inputs) == 1:
            return [few.run(inputs[0])]
        return list(self._pool.map(self._share.run, inputs))


def _one_after_the_other(arrays: Sequence[FloatArray]) -> FloatArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
