"""`SamOnnxModel`: prompts, decoder and upsampling as one graph for ``torch.onnx.export``, with the published contract.

Inputs: ``image_embeddings`` 1 x C x h x w, ``point_coords`` 1 x N x 2 already scaled to the network frame,
``point_labels`` 1 x N (1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding), ``mask_input``
1 x 1 x 4h x 4w, ``has_mask_input`` [1] of 0 or 1, ``orig_im_size`` [2] as (height, width); all float32. Without a box
one padding point belongs at the end. Outputs: ``masks`` (logits over the image), ``iou_predictions``,
``low_res_masks``.

Source: ``segment_anything/utils/onnx.py`` and ``scripts/export_onnx_model.py`` of the published code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.compat.modeling import Sam
from anymask.compat.utils.amg import calculate_stability_score

__all__ = ["SamOnnxModel"]


class SamOnnxModel(nn.Module):
    """The decoding half of a `Sam` for export; the encoder is exported on its own."""

    stability_score_offset = 1.0

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        """Scores are stability scores if ``use_stability_score``; extra metrics are stability scores and areas.

        ``return_single_mask`` chooses, as published, by the number of points: with 3 or more mask 0, with fewer the
        candidate of the highest score.
        """
        super().__init__()
        self.model = model
        self.img_size = int(model.prompt_encoder.image_size[0])
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.return_extra_metrics = return_extra_metrics

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """(height, width) of the image in the network frame, as whole numbers; traceable."""
        size = input_image_size.to(torch.float32)
        return torch.floor(size * (longest_side / torch.max(size)) + 0.5).to(torch.int64)

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """See the module's text."""
        prompts = self.model.prompt_encoder
        sparse = prompts.embed_points(point_coords, point_labels)
        without = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask_input * prompts.mask_downscaling(mask_input) + (1 - has_mask_input) * without
        masks, scores = self.model.mask_decoder.predict_masks(
            image_embeddings, prompts.dense_pe(), sparse, dense
        )
        threshold = self.model.mask_threshold
        if self.use_stability_score:
            scores = calculate_stability_score(masks, threshold, self.stability_score_offset)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, point_coords.shape[1])
        upscaled = self.mask_postprocessing(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        stability = calculate_stability_score(upscaled, threshold, self.stability_score_offset)
        areas = (upscaled > threshold).sum(-1).sum(-1)
        return upscaled, scores, stability, areas, masks

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """As `Sam.postprocess_masks`, the image's size a tensor."""
        framed = F.interpolate(
            masks, size=(self.img_size, self.img_size), mode="bilinear", align_corners=False
        )
        inside = self.resize_longest_image_size(orig_im_size, self.img_size)
        cropped = framed[..., : inside[0], : inside[1]]
        whole = orig_im_size.to(torch.int64)
        size: Any = (whole[0], whole[1])  # tensors while a graph is traced, numbers to the type checker
        return F.interpolate(cropped, size=size, mode="bilinear", align_corners=False)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """One mask of each prompt and its score; see ``return_single_mask``."""
        for_single = torch.zeros_like(iou_preds)
        for_single[:, 0] = 1000.0
        best = torch.argmax(iou_preds + (num_points - 2.5) * for_single, dim=1)
        rows = torch.arange(masks.shape[0], device=masks.device)
        return masks[rows, best][:, None], iou_preds[rows, best][:, None]
