"""Our SAM with the published modules' signatures: a `torch.nn.Module` that programs drive part by part.

Parameters have the published names, so checkpoints and optimiser code pass between both.
Source: ``segment_anything/modeling/sam.py``, ``prompt_encoder.py`` and ``mask_decoder.py`` of the published code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model import prompt_tensors
from anymask.model.network import NetworkConfig
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam import mask_decoder, prompt_encoder
from anymask.model.sam import network as sam
from anymask.model.sam.mask_decoder import select_masks

__all__ = ["MaskDecoder", "PromptEncoder", "Sam"]

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class PromptEncoder(prompt_encoder.PromptEncoder):
    """Points, boxes and masks in the network frame -> tokens and a map, with the published signature."""

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__(embed_dim, image_embedding_size, input_image_size, mask_in_chans)
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.num_point_embeddings = len(self.point_embeddings)
        for place in (2, 5):
            self.mask_downscaling[place] = activation()

    def get_dense_pe(self) -> Tensor:
        """Position features of every embedding cell: 1 x C x h x w."""
        return self.dense_pe()

    # The published signature takes what our core's takes in another shape.
    def forward(  # type: ignore[override]
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """(coords B x N x 2, labels B x N), boxes B x 4, masks B x 1 x 4h x 4w, each or None.

        Returns tokens B x T x C and a map B x C x h x w. Points without boxes get one padding point, as published;
        padding points (label -1) stay tokens.
        """
        given = next((t for t in (points and points[0], boxes, masks) if t is not None), None)
        count = 1 if given is None else given.shape[0]
        like = self.not_a_point_embed.weight
        tokens = [like.new_zeros(count, 0, self.embed_dim)]
        if points is not None:
            coords, labels = points
            if boxes is None:
                coords = torch.cat([coords, coords.new_zeros(count, 1, 2)], dim=1)
                labels = torch.cat([labels, labels.new_full((count, 1), prompt_tensors.NOT_A_POINT)], dim=1)
            tokens.append(self.embed_points(coords.to(like.dtype), labels))
        if boxes is not None:
            corners = boxes.to(like.dtype).reshape(-1, 2, 2)
            kinds = (prompt_tensors.TOP_LEFT, prompt_tensors.BOTTOM_RIGHT)
            tokens.append(
                self.embed_points(corners, torch.tensor([kinds], device=boxes.device).expand(len(corners), 2))
            )
        dense = self.embed_masks(masks)
        return torch.cat(tokens, dim=1), dense.expand(count, -1, -1, -1)


class MaskDecoder(mask_decoder.MaskDecoder):
    """Masks and their predicted quality from embeddings, with the published signature."""

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        any_transformer: Any = transformer
        super().__init__(
            transformer_dim, any_transformer, num_multimask_outputs, iou_head_depth, iou_head_hidden_dim
        )
        self.transformer_dim = transformer_dim
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = self.num_masks
        for place in (2, 4):
            self.output_upscaling[place] = activation()

    # The published signature names other arguments than our core's.
    def forward(  # type: ignore[override]
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Embedding 1 x C x h x w (or one for each of B prompts), positions, tokens B x T x C, map B x C x h x w.

        Returns (logits B x M x 4h x 4w, predicted IoU B x M) with M = 3 when ``multimask_output``, else 1.
        """
        logits, predicted_iou = self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        return select_masks(logits, predicted_iou, multimask_output)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All masks of every prompt: (logits B x 4 x 4h x 4w, predicted IoU B x 4)."""
        dense = dense_prompt_embeddings
        if dense.shape[0] > 1 and dense.stride(0) == 0:  # one map for all: the decoder then works on one
            dense = dense[:1]
        return super().forward(image_embeddings, image_pe, sparse_prompt_embeddings, dense)


def has_published_parts(network: object) -> bool:
    """Whether a network has SAM's own prompt encoder and mask decoder."""
    parts = (type(getattr(network, "prompt_encoder", None)), type(getattr(network, "mask_decoder", None)))
    return parts == (prompt_encoder.PromptEncoder, mask_decoder.MaskDecoder)


class Sam(sam.Sam):
    """The published module: parts with their names, ``preprocess``, ``postprocess_masks`` and a batched call."""

    mask_threshold: float = 0.0
    image_format: str = "RGB"
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    config: NetworkConfig | None = None
    """Its sizes, where it was built by name or from a checkpoint."""

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(image_encoder, prompt_encoder, mask_decoder, pixel_mean, pixel_std)
        self.pixel_mean = self.pixel_mean.reshape(-1, 1, 1)
        self.pixel_std = self.pixel_std.reshape(-1, 1, 1)
        if not hasattr(image_encoder, "img_size"):
            encoder: Any = image_encoder
            encoder.img_size = prompt_encoder.input_image_size[0]

    @classmethod
    def of(cls, network: Any, config: NetworkConfig) -> Sam:
        """A network of our core under the published signatures, with its image encoder and a copy of the rest.

        Raises `ModelError` for a network whose prompt encoder or decoder is not SAM's.
        """
        if not has_published_parts(network):
            raise ModelError(
                f"the network {config.name!r} has parts of its own; use SamPredictor(anymask.load(...)) for it"
            )
        prompts, decoder = network.prompt_encoder, network.mask_decoder
        dim = prompts.no_mask_embed.weight.shape[1]
        model = cls(
            network.image_encoder,
            PromptEncoder(
                dim, prompts.grid_size, prompts.image_size, prompts.mask_downscaling[3].out_channels
            ),
            MaskDecoder(
                transformer_dim=dim,
                transformer=decoder.transformer,
                num_multimask_outputs=decoder.num_masks - 1,
                iou_head_depth=len(decoder.iou_prediction_head.layers),
                iou_head_hidden_dim=decoder.iou_prediction_head.layers[0].out_features,
            ),
            network.pixel_mean.flatten().tolist(),
            network.pixel_std.flatten().tolist(),
        )
        model.load_state_dict(network.state_dict())
        model.config = config
        return model

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike[str]) -> Sam:
        """The torch network of a folder with ``config.json`` and weights; see `anymask.compat.from_pretrained`.

        Raises `ModelError` for a model that is no such network.
        """
        from anymask.compat.pretrained import from_pretrained

        model = from_pretrained(name_or_dir)
        if not isinstance(model, cls):
            raise ModelError(
                f"{os.fspath(name_or_dir)!r:.200} holds no SAM in torch; use SamPredictor.from_pretrained for it"
            )
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors``, ``config.json`` and ``preprocessor_config.json``, made when missing.

        A plain SAM is written as transformers reads it. Raises `OutputError`, and `ModelError` for unknown sizes.
        """
        from anymask.compat.pretrained import save_pretrained

        save_pretrained(self, save_directory)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.pixel_mean.device

    # The published call takes a list of dictionaries where our core's takes pixels and prompts.
    @torch.no_grad()
    def forward(  # type: ignore[override]
        self, batched_input: list[dict[str, Any]], multimask_output: bool
    ) -> list[dict[str, Tensor]]:
        """Images with their prompts -> masks.

        Args:
            batched_input: for each image ``image`` (3 x H x W in 0..255, the longer side already the frame's),
                ``original_size`` (height, width), and any of ``point_coords`` B x N x 2 with ``point_labels`` B x N,
                ``boxes`` B x 4 and ``mask_inputs`` B x 1 x 4h x 4w, in the network frame.
            multimask_output: three masks for each prompt, else one.

        Returns for each image ``masks`` B x C x H x W bool, ``iou_predictions`` B x C and ``low_res_logits``
        B x C x 4h x 4w.
        """
        pixels = torch.stack([self.preprocess(record["image"]) for record in batched_input])
        answers = []
        for record, embedding in zip(batched_input, self.image_encoder(pixels), strict=True):
            points = None
            if "point_coords" in record:
                points = (record["point_coords"], record["point_labels"])
            sparse, dense = self.prompt_encoder(
                points=points, boxes=record.get("boxes"), masks=record.get("mask_inputs")
            )
            low_res_logits, iou_predictions = self.mask_decoder(
                image_embeddings=embedding[None],
                image_pe=self.prompt_encoder.dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask_output,
            )
            input_size = tuple(record["image"].shape[-2:])
            masks = self.postprocess_masks(low_res_logits, input_size, record["original_size"])
            answers.append(
                {
                    "masks": masks > self.mask_threshold,
                    "iou_predictions": iou_predictions,
                    "low_res_logits": low_res_logits,
                }
            )
        return answers

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> Tensor:
        """Logits B x C x 4h x 4w over the frame -> B x C x H x W over the image; sizes are (height, width)."""
        height, width = input_size
        framed = F.interpolate(masks, self.prompt_encoder.image_size, mode="bilinear", align_corners=False)
        cropped = framed[..., :height, :width]
        return F.interpolate(cropped, tuple(original_size), mode="bilinear", align_corners=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """RGB in 0..255, 3 x H x W or B x 3 x H x W -> normalised and padded to the frame.

        Raises `ModelError` for an image that is larger than the frame.
        """
        return super().preprocess(x[None])[0] if x.ndim == 3 else super().preprocess(x)

    def decode(self, embedding: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """As our core's: all four masks of B prompts; see `anymask.model.sam.network.Sam.decode`."""
        sparse = self.prompt_encoder.embed_points(prompts.coords, prompts.labels)
        dense = self.prompt_encoder.embed_masks(prompts.masks, prompts.has_mask)
        answer: tuple[Tensor, Tensor] = mask_decoder.MaskDecoder.forward(
            self.mask_decoder, embedding, self.prompt_encoder.dense_pe(), sparse, dense, prompts.present
        )
        return answer

    def decode_features(
        self, features: Mapping[str, Tensor], prompts: PromptTensors
    ) -> tuple[Tensor, Tensor]:
        """See `anymask.model.network.PromptableNetwork`."""
        return self.decode(features["embedding"], prompts)
