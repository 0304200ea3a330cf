"""Promptable models of transformers as peers: SAM, SAM-HQ, SAM 2, SAM 3's tracker, EdgeTAM, from a local folder.

The image's way to the network is the model's own, read from its processor's configuration and walked here (with
Pillow's bilinear filter), since some of transformers' processors need torchvision. Two ways occur:

* **padded** (SAM, SAM-HQ): the longer side scaled to ``longest_edge``, zeros at the bottom and right;
* **stretched** (SAM 2 and later): both sides scaled to ``height`` and ``width``, whatever the image's shape.

Coordinates follow: image pixels times the ratio of sizes, no half pixel, which the networks add themselves. Mask
logits come back by bilinear interpolation as in ``post_process_masks`` of the processors.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError, ModelFormatError, PromptError
from anymask.evaluation.peers.hf_folder import HfFolder
from anymask.evaluation.peers.hf_network import HfNetwork
from anymask.evaluation.peers.peer import FloatArray
from anymask.frame import MASK_PROMPT_LOGIT, Frame
from anymask.limits import MAX_NETWORK_SIDE
from anymask.masks.scores import stability_score
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

__all__ = ["HfPeer", "ImageRule"]

Size = tuple[int, int]

AUTO_CLASS: Final = "AutoModelForMaskGeneration"
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BILINEAR: Final = 2
"""Pillow's number of the filter, as configurations state it."""
THRESHOLD: Final = 0.0
CELLS_PER_FEATURE: Final = 4
"""Cells of the mask logits for one of the coarsest features, along each side; the same in the whole family."""


@dataclass(frozen=True)
class ImageRule:
    """How an image goes to a network and its logits come back.

    Attributes:
        size: (height, width) of the network's input.
        padded: scaled with its shape kept and padded, or stretched.
        mean, std: RGB, on the 0..1 scale.
    """

    size: Size
    padded: bool
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    @classmethod
    def of(cls, processor: Mapping[str, Any]) -> ImageRule:
        """The rule of an image processor's configuration, which must state its size; means are ImageNet's if not given.

        Raises:
            ModelFormatError: it asks for something this reading does not do.
        """
        size = processor.get("size")
        if not isinstance(size, Mapping):
            raise ModelFormatError(
                "no image processor's configuration states the network's size; add it to the folder"
            )
        try:
            padded = "longest_edge" in size
            sides = [size["longest_edge"]] * 2 if padded else [size["height"], size["width"]]
            rule = cls(
                (_side(sides[0]), _side(sides[1])),
                padded,
                _three(processor.get("image_mean") or IMAGENET[0]),
                _three(processor.get("image_std") or IMAGENET[1]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"the image processor's configuration is malformed: {error}") from error
        if min(rule.std) <= 0:
            raise ModelFormatError(f"the image processor's image_std must be above 0, got {rule.std}")
        steps = ("do_resize", "do_rescale", "do_normalize", *(["do_pad"] if padded else []))
        odd = [name for name in steps if not processor.get(name, True)]
        if processor.get("resample", BILINEAR) != BILINEAR:
            odd.append("resample")
        if abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            odd.append("rescale_factor")
        if padded and (processor.get("pad_size") or {}).get("height", sides[0]) != sides[0]:
            odd.append("pad_size")
        if odd:
            raise ModelFormatError(
                f"the image processor's {', '.join(odd)} are not as in the published models"
            )
        return rule

    @property
    def name(self) -> str:
        """Name and version of the rule; embeddings carry it."""
        height, width = self.size
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{'longest-side' if self.padded else 'stretch'}-{width}x{height}/mean-{mean}/std-{std}/v1"

    def to_network(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Pixels (H, W, 3) as the network's input (1, 3, height, width)."""
        mean, std = np.array(self.mean) * 255, np.array(self.std) * 255
        if self.padded:
            return self._frame(pixels.shape[:2]).to_network(pixels, mean, std)
        from PIL import Image as PillowImage

        resized = PillowImage.fromarray(pixels).resize(self.size[::-1], PillowImage.Resampling.BILINEAR)
        values = (np.asarray(resized, dtype=np.float32) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)

    def points_to_network(self, points: NDArray[np.float64], image_size: Size) -> NDArray[np.float64]:
        """Points (N, 2) from image to network pixels."""
        if self.padded:
            return self._frame(image_size).points_to_network(points)
        scaled: NDArray[np.float64] = points * (np.array(self.size[::-1]) / np.array(image_size[::-1]))
        return scaled

    def mask_to_logits(self, mask: NDArray[np.bool_], grid: Size) -> FloatArray:
        """A user's bool mask (H, W) as prompt logits of ``grid``; as `Frame.mask_to_low_res`."""
        if self.padded:
            return self._frame(mask.shape).mask_to_low_res(mask, grid)
        cover = cv2.resize(mask.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
        return ((cover.reshape(grid) * 2 - 1) * MASK_PROMPT_LOGIT).astype(np.float32)

    def logits_to_image(self, logits: FloatArray, image_size: Size) -> FloatArray:
        """Logits (h, w) over the network's frame at the image's size (H, W)."""
        if self.padded:
            return self._frame(image_size).logits_to_image(logits)
        plane = cv2.resize(logits, image_size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(plane, dtype=np.float32).reshape(image_size)

    def _frame(self, image_size: Sequence[int]) -> Frame:
        return Frame((image_size[0], image_size[1]), self.size[0], "square")


class HfPeer(HfNetwork):
    """A promptable mask model of transformers."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu", threads: int | None = None) -> None:
        """The model in a local folder.

        Args:
            path: the folder, with ``config.json`` and safetensors; nothing is downloaded.
            device: ``cpu``, or another name that torch knows.
            threads: for torch in this whole process; None or 0 leaves them as they are.

        Raises:
            NotFoundError, MissingExtraError, ModelFormatError, WeightsError, ModelError: see `HfFolder`.
        """
        folder = HfFolder.open(path)
        self.rule = ImageRule.of(folder.image_processor)
        super().__init__(folder, AUTO_CLASS, device, threads)
        told = f"peer v1\n{folder.digest}\n{self.rule.name}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()
        self.preprocessing = self.rule.name
        self.network_size = self.rule.size

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        pixels = self._tensor(self.rule.to_network(picture.pixels))
        encoded = self._run(lambda: self._model.get_image_embeddings(pixels))
        features = {name: _array(tensor) for name, tensor in _named(encoded).items()}
        if not all(np.isfinite(array).all() for array in features.values()):
            raise ModelError(f"{self.folder.name!r} made NaN or infinity of the image; fetch it again")
        return features

    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> MaskSet:
        given = self._prompt(prompt, embedding) | self._tensors(embedding)
        answer = self._run(lambda: self._model(**given, multimask_output=multimask))
        logits, scores = _array(answer.pred_masks)[0, 0], _array(answer.iou_scores)[0, 0]
        return MaskSet(
            [self._mask(embedding, prompt, *pair) for pair in zip(logits, scores, strict=True)],
            embedding.image_size,
        )

    def _mask(self, image: Embedding, prompt: Prompt, logits: FloatArray, score: np.float32) -> Mask:
        plane = self.rule.logits_to_image(logits, image.image_size)
        first = None
        if prompt.points is not None and prompt.labels is not None and prompt.labels.any():
            x, y = prompt.points[int(np.argmax(prompt.labels))]
            first = (float(x), float(y))
        return Mask(
            plane > THRESHOLD,
            float(score),
            low_res_logits=logits,
            stability_score=float(stability_score(plane, THRESHOLD)),
            point=first,
        )

    def _prompt(self, prompt: Prompt, image: Embedding) -> dict[str, Any]:
        """The prompt as the model takes it: one image, one object."""
        given: dict[str, Any] = {}
        if prompt.points is not None and prompt.labels is not None:
            points = self.rule.points_to_network(prompt.points, image.image_size)
            given["input_points"] = self._tensor(points[None, None].astype(np.float32))
            given["input_labels"] = self._tensor(prompt.labels[None, None])
        if prompt.box is not None:
            corners = self.rule.points_to_network(prompt.box.reshape(2, 2), image.image_size)
            given["input_boxes"] = self._tensor(corners.reshape(1, 1, 4).astype(np.float32))
        if prompt.mask is not None:
            given["input_masks"] = self._tensor(self._mask_logits(prompt, image)[None, None])
        return given

    def _mask_logits(self, prompt: Prompt, image: Embedding) -> FloatArray:
        assert prompt.mask is not None
        coarsest = _coarsest(image.features)
        grid = (coarsest.shape[2] * CELLS_PER_FEATURE, coarsest.shape[3] * CELLS_PER_FEATURE)
        if prompt.has_full_size_mask:
            return self.rule.mask_to_logits(np.asarray(prompt.mask, dtype=np.bool_), grid)
        if prompt.mask.shape != grid:
            rows, columns = prompt.mask.shape
            raise PromptError(
                f"mask logits for this model are {grid[1]} x {grid[0]}, got {columns} x {rows}; "
                "give back Mask.low_res_logits, or a bool mask of the image's size"
            )
        return np.asarray(prompt.mask, dtype=np.float32)

    def _tensors(self, image: Embedding) -> dict[str, Any]:
        """The embedding as the model takes it; the inverse of `_named`."""
        tensors = {name: self._tensor(array) for name, array in image.features.items()}
        if "embedding" not in tensors:
            return {"image_embeddings": _series(tensors, "level")}
        given: dict[str, Any] = {"image_embeddings": tensors["embedding"]}
        if between := _series(tensors, "between"):
            given["intermediate_embeddings"] = between
        return given

    def _tensor(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.array(array)).to(self.device)  # a copy: embeddings are read-only


def _named(encoded: Any) -> dict[str, Any]:
    """What an encoder gives, by name: ``embedding`` (SAM), with ``between_0``... (SAM-HQ), or ``level_0``..., the
    coarsest last (SAM 2 and later)."""
    if isinstance(encoded, tuple):
        embedding, between = encoded
        return {"embedding": embedding} | {f"between_{i}": tensor for i, tensor in enumerate(between)}
    if isinstance(encoded, list):
        return {f"level_{i}": tensor for i, tensor in enumerate(encoded)}
    return {"embedding": encoded}


def _series(named: Mapping[str, Any], word: str) -> list[Any]:
    """The values of ``word_0``, ``word_1``... in their order."""
    count = sum(name.startswith(f"{word}_") for name in named)
    return [named[f"{word}_{index}"] for index in range(count)]


def _coarsest(features: Mapping[str, FloatArray]) -> FloatArray:
    """The features (1, C, h, w) that the decoder attends to."""
    return (
        features["embedding"] if "embedding" in features else cast(FloatArray, _series(features, "level")[-1])
    )


def _array(tensor: Any) -> FloatArray:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), dtype=np.float32)


def _side(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NETWORK_SIDE:
        raise ValueError(f"a side must be a whole number from 1 to {MAX_NETWORK_SIDE}, got {value!r:.40}")
    return value


def _three(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"expected three finite numbers, got {values!r:.80}")
    return numbers
