"""The torch engine: SAM-family checkpoints and nano as it is trained, on the CPU or a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from anymask.errors import ModelError, ModelFormatError, WeightsError
from anymask.model.convert import load_checkpoint
from anymask.model.families import load_network
from anymask.model.nano import FRAME_MULTIPLE, PIXEL_MEAN, PIXEL_STD, Nano
from anymask.model.network import NetworkConfig, PromptableNetwork
from anymask.model.prompt_encoder import PromptTensors
from anymask.model.weights import METADATA_KEY, content_sha256
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, PromptArrays


class TorchBackend:
    """A network of any family, or a `Nano`, in float32 and evaluation mode; moved to ``device`` and kept.

    Safe to call from several threads: nothing of a call is kept. The number of threads is torch's own setting
    and belongs to the process, so it is left alone here.
    """

    def __init__(
        self, model: PromptableNetwork | Nano, config: NetworkConfig | None = None, device: str = "cpu"
    ) -> None:
        """``config`` comes with every network but nano. Raises `ModelError` when there is no such device."""
        self._device = _device(device)
        module = cast(nn.Module, model)
        module.eval().float().to(self._device).requires_grad_(False)
        self._model = model
        self._spec = _nano_spec(model) if isinstance(model, Nano) else _network_spec(module, config)

    @property
    def spec(self) -> ModelSpec:
        """The model's description; its digest covers weights and sizes."""
        return self._spec

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        checks.check_pixels(self._spec, pixels)
        with _running(self._spec.name):
            on_device = self._tensor(pixels)
            model = self._model
            features = (
                model.encode(on_device) if isinstance(model, Nano) else model.encode_features(on_device)
            )
        return {name: _array(feature) for name, feature in features.items()}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        model = self._model
        names = ("embedding", "skip8", "skip4") if isinstance(model, Nano) else model.feature_names
        checks.check_features(features, names)
        mask_size = checks.low_res_size(self._spec, features)
        checks.check_prompts(prompts, mask_size)
        with _running(self._spec.name):
            on_device = {name: self._tensor(feature) for name, feature in features.items()}
            logits, scores = self._decode(on_device, prompts)
        return checks.check_answer(_array(logits), _array(scores), len(prompts), mask_size)

    def _decode(self, features: dict[str, Tensor], prompts: PromptArrays) -> tuple[Tensor, Tensor]:
        points, labels, masks, has_mask = (
            self._tensor(array)
            for array in (prompts.points, prompts.labels, prompts.mask_input, prompts.has_mask)
        )
        if isinstance(self._model, Nano):
            return self._model.decode(features, points, labels, masks, has_mask)
        tensors = PromptTensors.from_padded(points, labels, masks, has_mask)
        return self._model.decode_features(features, tensors)

    def _tensor(self, array: FloatArray) -> Tensor:
        # Embeddings are read-only, which torch would warn about on the CPU; nothing here writes to them.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)


def load_torch(path: str | os.PathLike[str], device: str = "cpu") -> TorchBackend:
    """A network written by `anymask.model.families.save_network`, or a published checkpoint.

    Raises `WeightsError` or `ModelFormatError`.
    """
    network, config = load_network(path) if _is_ours(Path(path)) else load_checkpoint(path)
    return TorchBackend(network, config, device)


@contextmanager
def _running(name: str) -> Iterator[None]:
    """Without gradients; what torch refuses (sizes that do not fit, memory) becomes a `ModelError`."""
    try:
        with torch.inference_mode():
            yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the model {name!r} could not be run: {reason:.200}") from error


def _is_ours(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights {str(path)!r}: {error}") from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(f"torch has no device {name!r} here: {reason:.200}; use device='cpu'") from error
    return device


def _nano_spec(model: Nano) -> ModelSpec:
    facts = {"nano": json.dumps(dataclasses.asdict(model.config), sort_keys=True)}
    return ModelSpec(
        name="nano",
        digest=content_sha256(model.state_dict(), facts),
        long_side=model.config.long_side,
        pad=FRAME_MULTIPLE,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def _network_spec(model: nn.Module, config: NetworkConfig | None) -> ModelSpec:
    if config is None:
        raise ModelFormatError("a network comes with its sizes, a NetworkConfig")
    facts = {config.family: json.dumps(config.to_dict(), sort_keys=True)}
    return ModelSpec(
        name=config.name,
        digest=content_sha256(model.state_dict(), facts),
        long_side=config.image_size,
        pad="square",
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = np.ascontiguousarray(tensor.float().cpu().numpy())
    return array
