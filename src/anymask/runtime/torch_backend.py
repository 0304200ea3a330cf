"""The torch engine: SAM-family checkpoints and nano as it is trained, on the CPU or a GPU."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from anymask.errors import ModelError, ModelFormatError, WeightsError
from anymask.model.checkpoints.convert import load_checkpoint
from anymask.model.families import load_network
from anymask.model.inference import for_inference, network_digest
from anymask.model.nano.network import FRAME_MULTIPLE, PIXEL_MEAN, PIXEL_STD, Nano
from anymask.model.network import NetworkConfig, PromptableNetwork
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.fast_decoder import FastDecoder, PromptPart
from anymask.model.sam.mask_decoder import MaskDecoder
from anymask.model.sam.network import Sam
from anymask.model.weights import METADATA_KEY, content_sha256
from anymask.runtime import checks
from anymask.runtime.backend import Features, FloatArray, ModelSpec, Needed, Promising, PromptArrays
from anymask.runtime.engine import Engine
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.manifest import digest_at

IMAGES_PER_ENCODE: Final = 4
"""Pictures of one size that a GPU encodes together."""


class TorchBackend:
    """A network of any family, or a `Nano`, in evaluation mode; moved to ``device`` and kept.

    A network of a family runs in its form for inference (`anymask.model.inference`), and its decoder in the fast one
    where there is one. In bfloat16 only the encoder's products are rounded: places of prompts need more digits. On a
    GPU products use TensorFloat-32 only if torch was told so elsewhere, and copies do not wait for each other.

    Safe to call from several threads: nothing of a call is kept. The number of threads is torch's own setting
    and belongs to the process, so it is left alone here.
    """

    def __init__(
        self,
        model: PromptableNetwork | Nano,
        config: NetworkConfig | None = None,
        device: str = "cpu",
        *,
        precision: str = "fp32",
        compiled: bool = False,
        as_published: bool = False,
    ) -> None:
        """``config`` comes with every network but nano.

        ``precision`` is "fp32" or "bf16"; ``compiled`` lets torch compile encoder and decoder when they are first run,
        which takes a minute and a C++ compiler on a CPU; ``as_published`` leaves the network in its published form.
        Raises `ModelError` when there is no such device or precision.
        """
        self._device = _device(device)
        if precision not in ("fp32", "bf16"):
            raise ModelError(f"torch runs a model in fp32 or bf16, not in {precision!r}")
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.engine = Engine("torch", precision, str(self._device))
        module = cast(nn.Module, model)
        module.eval().float().requires_grad_(False)
        spec = _nano_spec(model) if isinstance(model, Nano) else _network_spec(module, config)
        self._spec = dataclasses.replace(spec, digest=digest_at(spec.digest, precision))
        self._names = model.feature_names
        parts = _published_parts(model) if as_published else _inference_parts(model, self._dtype)
        self._encode, self._look, self._decode = (
            part.to(self._device).requires_grad_(False) for part in parts
        )
        self._images = ImageParts(self._image)
        if self._device.type == "cuda" and not as_published:
            cast(Any, self._encode).to(memory_format=torch.channels_last)
        self._compiled = compiled
        if compiled:
            self._encode.compile()
            graphs = "reduce-overhead" if self._device.type == "cuda" else "default"
            self._decode.compile(dynamic=True, mode=graphs)

    @property
    def spec(self) -> ModelSpec:
        """The model's description; its digest covers weights, sizes and a precision other than fp32."""
        return self._spec

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        checks.check_pixels(self._spec, pixels)
        with _running(self._spec.name):
            features = self._encode(self._tensor(pixels).to(self._dtype))
            return {name: _array(feature) for name, feature in zip(self._names, features, strict=True)}

    @property
    def images_per_encode(self) -> int:
        """See `EncodesMany.images_per_encode`: one picture keeps a CPU busy, and several fill a GPU."""
        return 1 if self._device.type == "cpu" else IMAGES_PER_ENCODE

    def encode_many(self, pixels: FloatArray) -> list[Features]:
        """See `EncodesMany.encode_many`."""
        for index in range(len(pixels)):
            checks.check_pixels(self._spec, pixels[index : index + 1])
        with _running(self._spec.name):
            features = self._encode(self._tensor(pixels).to(self._dtype))
            arrays = {name: _array(feature) for name, feature in zip(self._names, features, strict=True)}
        return [
            {name: array[index : index + 1] for name, array in arrays.items()} for index in range(len(pixels))
        ]

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        mask_size = self._check(features, prompts)
        with _running(self._spec.name):
            logits, scores = self._decode(*self._images.of(features), *self._prompts(prompts))
            answer = _array(logits), _array(scores)
        return checks.check_answer(*answer, len(prompts), mask_size)

    def decode_promising(self, features: Features, prompts: PromptArrays, needed: Needed) -> Promising:
        """See `Screens.decode_promising`; a decoder that is compiled, or has no fast form, draws all."""
        if self._compiled or not isinstance(self._decode, _FastDecode):
            return Promising(*self.decode(features, prompts), np.arange(len(prompts)))
        mask_size = self._check(features, prompts)
        cells = checks.cells_of(needed.picture, self._spec, features)
        with _running(self._spec.name):
            logits, scores, drawn = self._decode.promising(
                needed.least_iou, cells, *self._images.of(features), *self._prompts(prompts)
            )
            answer = _array(logits), _array(scores), drawn.cpu().numpy()
        found = checks.check_promising(self._spec, features, *answer, len(prompts), needed.picture)
        return checks.joined([found], mask_size)

    def _check(self, features: Features, prompts: PromptArrays) -> tuple[int, int]:
        """Raise `ModelError` for what cannot be decoded; returns (height, width) of the logits."""
        checks.check_features(features, self._names)
        mask_size = checks.low_res_size(self._spec, features)
        checks.check_prompts(prompts, mask_size)
        return mask_size

    def _image(self, features: Features) -> tuple[Tensor, ...]:
        """What the decoder takes of an image, on the device."""
        tensors: tuple[Tensor, ...] = self._look(*(self._tensor(features[name]) for name in self._names))
        return tensors

    def _prompts(self, prompts: PromptArrays) -> list[Tensor]:
        arrays = (prompts.points, prompts.labels, prompts.mask_input, prompts.has_mask)
        return [self._tensor(array) for array in arrays]

    def _tensor(self, array: FloatArray) -> Tensor:
        # Embeddings are read-only, which torch would warn about on the CPU; nothing here writes to them.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)


class _Encode(nn.Module):
    """Pixels -> features in the order of their names."""

    def __init__(self, model: PromptableNetwork | Nano, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        features = model.encode(pixels) if isinstance(model, Nano) else model.encode_features(pixels)
        return tuple(features[name] for name in self.names)


class _AsIs(nn.Module):
    """Features in the order of their names, as a decoder takes them that computes nothing of the image alone."""

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return features


class _Decode(nn.Module):
    """Features in the order of their names, and padded prompts -> logits and scores, in float32."""

    def __init__(self, model: PromptableNetwork | Nano, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = dict(zip(self.names, inputs, strict=False))
        points, labels, masks, has_mask = inputs[len(self.names) :]
        if isinstance(self.model, Nano):
            return self.model.decode(features, points, labels, masks, has_mask)
        tensors = PromptTensors.from_padded(points, labels, masks, has_mask)
        return self.model.decode_features(features, tensors)


class _FastDecode(nn.Module):
    """What `ImagePart` gives and padded prompts -> the same; masks that no prompt has are left out."""

    def __init__(self, part: PromptPart) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        parts, points, labels, masks, has_mask = self._told_apart(inputs)
        answer: tuple[Tensor, Tensor] = self.part(parts, points, labels, masks, has_mask)
        return answer

    def promising(
        self, least_iou: float, cells: tuple[int, int], *inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`PromptPart.promising`."""
        parts, points, labels, masks, has_mask = self._told_apart(inputs)
        least = torch.tensor(least_iou, device=points.device)
        one = torch.ones((), dtype=torch.int64, device=points.device)
        return self.part.promising(parts, points, labels, masks, has_mask, least, torch.tensor(cells), one)

    def _told_apart(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None, Tensor | None]:
        count = len(self.part.part_names)
        points, labels, masks, has_mask = inputs[count:]
        if not bool(has_mask.any()):
            return inputs[:count], points, labels, None, None
        return inputs[:count], points, labels, masks, has_mask


Parts = tuple[nn.Module, nn.Module, nn.Module]
"""Pixels to features, features to what the decoder takes of an image, and the decoder."""


def _published_parts(model: PromptableNetwork | Nano) -> Parts:
    return _Encode(model, model.feature_names), _AsIs(), _Decode(model, model.feature_names)


def _inference_parts(model: PromptableNetwork | Nano, dtype: torch.dtype) -> Parts:
    """Encoder in ``dtype`` and the rest in float32; they share weights where they can."""
    if isinstance(model, Nano):
        encode, look, decode = _published_parts(model)
    else:
        running = cast(PromptableNetwork, for_inference(cast(nn.Module, model)))
        encode, look, decode = _published_parts(running)
        if isinstance(running, Sam) and type(running.mask_decoder) is MaskDecoder:
            fast = FastDecoder(running)
            look, decode = fast.image_part, _FastDecode(fast.prompt_part)
    return (encode if dtype == torch.float32 else copy.deepcopy(encode).to(dtype)), look, decode


def load_torch(
    path: str | os.PathLike[str], device: str = "cpu", precision: str = "fp32", *, compiled: bool = False
) -> TorchBackend:
    """A network written by `anymask.model.families.save_network`, or a published checkpoint.

    Raises `WeightsError` or `ModelFormatError`.
    """
    network, config = load_any(path)
    return TorchBackend(network, config, device, precision=precision, compiled=compiled)


def load_any(path: str | os.PathLike[str]) -> tuple[Any, NetworkConfig]:
    """The network in a file of ours or in a published checkpoint, and its sizes."""
    return load_network(path) if _is_ours(Path(path)) else load_checkpoint(path)


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
    return ModelSpec(
        name=config.name,
        digest=network_digest(model, config),
        long_side=config.image_size,
        pad="square",
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
        resize=config.resize,
        normalisation=config.normalisation,
        ranking=config.ranking,
    )


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = np.ascontiguousarray(tensor.float().cpu().numpy())
    return array
