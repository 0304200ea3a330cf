"""`SamPredictor`: one image, any number of prompts, as published; over a torch network or any `Segmenter`.

Source: ``segment_anything/predictor.py`` of the published code, whose names and shapes are kept.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anymask.compat.errors import ImageDtypeError, NoImageError, PublishedAssertionError, need_torch
from anymask.compat.pretrained import from_pretrained
from anymask.compat.segmenter_model import SegmenterModel
from anymask.compat.utils.transforms import ResizeLongestSide, StretchToSquare
from anymask.errors import PromptError
from anymask.predict.segmenter import Segmenter

if TYPE_CHECKING:
    import os

    from torch import Tensor

    from anymask.compat.modeling import Sam

__all__ = ["SamPredictor"]

_FORMATS = ("RGB", "BGR")


class SamPredictor:
    """Keeps the embedding of one image and answers prompts on it.

    ``model`` is the given model, ``transform`` its `ResizeLongestSide`; ``features``, ``original_size`` and
    ``input_size`` (height, width) belong to the image while ``is_image_set``. Not for several threads: share a
    `Segmenter` instead.
    """

    features: Any
    """The embedding: a tensor 1 x C x h x w, or an `Embedding` where the model is a `Segmenter`'s."""
    original_size: tuple[int, ...] | None
    input_size: tuple[int, ...] | None

    def __init__(self, sam_model: Sam | SegmenterModel | Segmenter) -> None:
        model: Any = SegmenterModel(sam_model) if isinstance(sam_model, Segmenter) else sam_model
        self.model = model
        stretched = isinstance(model, SegmenterModel) and model.segmenter.spec.resize == "stretch"
        transform = StretchToSquare if stretched else ResizeLongestSide
        self.transform: ResizeLongestSide = transform(int(model.image_encoder.img_size))
        self.reset_image()

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike[str]) -> SamPredictor:
        """A predictor with the model of `anymask.compat.from_pretrained`."""
        return cls(from_pretrained(name_or_dir))

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Embed an image (H, W, 3) uint8 whose channels are in the order of ``image_format``, "RGB" or "BGR".

        Raises `PublishedAssertionError` for another format or shape and `ImageDtypeError` for another dtype.
        """
        if image_format not in _FORMATS:
            raise PublishedAssertionError(
                f"image_format must be in {list(_FORMATS)}, is {image_format!r:.80}"
            )
        check_image(image)
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        if isinstance(self.model, SegmenterModel):
            self.reset_image()
            embedding = self.model.embed(image)
            size = image.shape[:2]
            self._keep(embedding, size, self.model.segmenter.frame((size[0], size[1])).resized_size)
            return
        torch = need_torch("SamPredictor.set_image")
        pixels = torch.as_tensor(self.transform.apply_image(image), device=self.device)
        self.set_torch_image(pixels.permute(2, 0, 1).contiguous()[None], image.shape[:2])

    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Embed pixels 1 x 3 x H x W in 0..255, in the model's order of channels, whose longer side is the frame's.

        ``original_image_size`` is (height, width) before scaling. Raises `PublishedAssertionError` for other shapes.
        """
        long_side, shape = self.model.image_encoder.img_size, tuple(transformed_image.shape)
        if not (len(shape) == 4 and shape[1] == 3 and max(shape[2:]) == long_side):
            raise PublishedAssertionError(
                f"set_torch_image input must be BCHW with long side {long_side}, got {shape}"
            )
        self.reset_image()
        if isinstance(self.model, SegmenterModel):
            if shape[0] != 1:
                raise PublishedAssertionError(f"this model takes one image at a time, got {shape[0]}")
            height, width = original_image_size
            pixels = transformed_image[0].permute(1, 2, 0).float().cpu().numpy()
            features: Any = self.model.embed_resized(pixels, (int(height), int(width)))
        else:
            with need_torch("SamPredictor.set_torch_image").no_grad():
                features = self.model.image_encoder(self.model.preprocess(transformed_image))
        self._keep(features, original_image_size, shape[2:])

    def predict(
        self,
        point_coords: NDArray[Any] | None = None,
        point_labels: NDArray[Any] | None = None,
        box: NDArray[Any] | None = None,
        mask_input: NDArray[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """The masks of one object of the image that is set.

        Args:
            point_coords: (N, 2), (x, y) in image pixels.
            point_labels: (N,), 1 foreground, 0 background, -1 padding.
            box: (4,) or (1, 4), (x0, y0, x1, y1) in image pixels.
            mask_input: (1, h, w), low-resolution logits of an earlier answer.
            multimask_output: three masks (in the network's order, not sorted), else one.
            return_logits: logits instead of bool masks.

        Returns masks (C, H, W) bool (float32 logits), predicted IoU (C,) and low-resolution logits (C, h, w).

        Raises `NoImageError` before an image is set, `PublishedAssertionError` for points without labels, and
        `PromptError` for other shapes.
        """
        size = self._check_set("mask prediction")
        coords, labels = _checked_points(point_coords, point_labels)
        boxes = _checked_box(box)
        masks = _checked_mask(mask_input)
        if coords is not None:
            coords = self.transform.apply_coords(coords, size)[None]
        if boxes is not None:
            boxes = self.transform.apply_boxes(boxes, size)
        if isinstance(self.model, SegmenterModel):
            answer = self.model.decode(
                self.features, coords, labels, boxes, masks, multimask_output, return_logits
            )
            return answer[0][0], answer[1][0], answer[2][0]
        torch = need_torch("SamPredictor.predict")
        to_tensor = partial(torch.as_tensor, device=self.device)
        given = self.predict_torch(
            None if coords is None else to_tensor(coords, dtype=torch.float32),
            None if labels is None else to_tensor(labels, dtype=torch.int32),
            None if boxes is None else to_tensor(boxes, dtype=torch.float32),
            None if masks is None else to_tensor(masks, dtype=torch.float32),
            multimask_output,
            return_logits,
        )
        found, iou_predictions, low_res_logits = (tensor[0].detach().cpu().numpy() for tensor in given)
        return found, iou_predictions, low_res_logits

    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masks of B objects of the image that is set; prompts already in the network frame.

        Args:
            point_coords: B x N x 2, through ``transform.apply_coords_torch``.
            point_labels: B x N.
            boxes: B x 4, through ``transform.apply_boxes_torch``.
            mask_input: B x 1 x h x w.
            multimask_output, return_logits: as in `predict`.

        Returns masks B x C x H x W, predicted IoU B x C and low-resolution logits B x C x h x w.

        Raises `NoImageError` before an image is set.
        """
        size = self._check_set("mask prediction")
        torch = need_torch("SamPredictor.predict_torch")
        if isinstance(self.model, SegmenterModel):
            points, labels, corners, logits = (
                None if tensor is None else tensor.detach().cpu().numpy()
                for tensor in (point_coords, point_labels, boxes, mask_input)
            )
            answer = self.model.decode(
                self.features, points, labels, corners, logits, multimask_output, return_logits
            )
            return torch.from_numpy(answer[0]), torch.from_numpy(answer[1]), torch.from_numpy(answer[2])
        with torch.no_grad():
            sparse, dense = self.model.prompt_encoder(
                points=None if point_coords is None else (point_coords, point_labels),
                boxes=boxes,
                masks=mask_input,
            )
            low_res_logits, iou_predictions = self.model.mask_decoder(
                image_embeddings=self.features,
                image_pe=self.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask_output,
            )
            masks = self.model.postprocess_masks(low_res_logits, self.input_size, size)
            if not return_logits:
                masks = masks > self.model.mask_threshold
        return masks, iou_predictions, low_res_logits

    def get_image_embedding(self) -> Tensor:
        """The embedding of the image that is set: 1 x C x h x w, 1 x 256 x 64 x 64 of a published SAM.

        Raises `NoImageError` before an image is set.
        """
        self._check_set("an embedding is asked for")
        if not isinstance(self.model, SegmenterModel):
            features: Tensor = self.features
            return features
        torch = need_torch("SamPredictor.get_image_embedding")
        embedding: Tensor = torch.from_numpy(self.features.features["embedding"].copy())
        return embedding

    @property
    def device(self) -> Any:
        """The ``torch.device`` of the model."""
        return self.model.device

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features = None
        self.original_size = None
        self.input_size = None

    def _keep(self, features: Any, original_size: tuple[int, ...], input_size: tuple[int, ...]) -> None:
        self.features = features
        self.original_size = tuple(original_size)
        self.input_size = tuple(input_size)
        self.is_image_set = True

    def _check_set(self, purpose: str) -> tuple[int, ...]:
        """The image's (height, width)."""
        if not self.is_image_set or self.original_size is None:
            raise NoImageError(f"an image must be set with .set_image(...) before {purpose}")
        return self.original_size


def check_image(image: object) -> None:
    """Raise `ImageDtypeError` or `PublishedAssertionError` unless it is an array (H, W, 3) of uint8."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        seen = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageDtypeError(f"set_image takes a uint8 array with values from 0 to 255, got {seen}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise PublishedAssertionError(f"set_image takes an image (height, width, 3), got {image.shape}")


def _checked_points(
    coords: NDArray[Any] | None, labels: NDArray[Any] | None
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Points (N, 2) as they are and labels (1, N)."""
    if coords is None:
        return None, None
    if labels is None:
        raise PublishedAssertionError("point_labels must be supplied if point_coords is supplied")
    points, kinds = np.asarray(coords), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or kinds.shape != (len(points),):
        raise PromptError(f"points must be (N, 2) and labels (N,), got {points.shape} and {kinds.shape}")
    if not np.isin(kinds, (-1, 0, 1, 2, 3)).all():
        raise PromptError("point labels must be 1 (foreground), 0 (background) or -1 (padding)")
    return points, kinds.astype(np.int32)[None]


def _checked_box(box: NDArray[Any] | None) -> NDArray[Any] | None:
    if box is None:
        return None
    corners = np.asarray(box)
    if corners.shape not in ((4,), (1, 4)):
        raise PromptError(
            f"a box must be (x0, y0, x1, y1), got an array of shape {corners.shape}; predict_torch takes many"
        )
    return corners.reshape(1, 4)


def _checked_mask(mask_input: NDArray[Any] | None) -> NDArray[Any] | None:
    if mask_input is None:
        return None
    logits = np.asarray(mask_input)
    if logits.ndim != 3 or logits.shape[0] != 1:
        raise PromptError(
            f"mask_input must be low-resolution logits (1, h, w), got {logits.shape}; write logits[i][None]"
        )
    return logits[None]
