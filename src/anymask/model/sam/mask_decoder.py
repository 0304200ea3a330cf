"""The mask decoder: four masks and their predicted quality from an embedding and prompt tokens.

Source: SAM paper, section 3, figure 14 and appendix A ("Lightweight mask decoder", "Making the model
ambiguity-aware"); `segment_anything/modeling/mask_decoder.py` of the published code, whose parameter names
are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.model.layers import MLP, LayerNorm2d
from anymask.model.sam.two_way_transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Axis letters: B prompts, E images (1, or B for one each), N prompt tokens, M masks (4), C channels."""

    def __init__(
        self,
        dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.num_masks = num_multimask_outputs + 1
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, 3) for _ in range(self.num_masks)
        )
        self.iou_prediction_head = MLP(dim, iou_head_hidden_dim, self.num_masks, iou_head_depth)

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All masks of every prompt.

        image_embedding: E x C x h x w; image_pe: 1 x C x h x w; sparse: B x N x C; dense: B or 1 x C x h x w;
        present: B x N bool or None (all). Returns (logits B x M x 4h x 4w, predicted IoU B x M); mask 0 is
        the single answer, masks 1.. are the ambiguous ones (`select_masks`).
        """
        b, h, w = sparse.shape[0], image_embedding.shape[-2], image_embedding.shape[-1]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own[None].expand(b, -1, -1), sparse], dim=1)
        if present is not None:
            always = torch.ones(1, own.shape[0], dtype=torch.bool, device=present.device)
            present = torch.cat([always.expand(b, -1), present.bool()], dim=1)

        # Without mask prompts one image stays one map here, whatever the number of prompts.
        tokens, cells = self.transformer(image_embedding + dense, image_pe, tokens, present)

        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, (h, w)))
        mask_tokens = tokens[:, 1 : 1 + self.num_masks]
        weights = [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = torch.stack(weights, dim=1) @ upscaled.flatten(2)
        return logits.unflatten(2, (4 * h, 4 * w)), self.iou_prediction_head(tokens[:, 0])


def select_masks(logits: Tensor, predicted_iou: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
    """The three ambiguous masks (1..) when `multimask`, else the single one (0); views, B x (3 or 1) x ..."""
    chosen = slice(1, None) if multimask else slice(0, 1)
    return logits[:, chosen], predicted_iou[:, chosen]
