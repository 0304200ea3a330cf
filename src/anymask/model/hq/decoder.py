"""The mask decoder of HQ-SAM: SAM's, and one token more that draws finer edges.

    early map of the encoder ─┐
    image embedding ──────────┴─ fuse ─▶ hq, once per image ─┐
    prompts ─▶ two-way transformer ─▶ SAM's four masks       ├─▶ high-quality mask, added to each of the four
                                   └▶ mask features ─────────┘

Source: Ke et al., "Segment Anything in High Quality", section 3.2 (high-quality output token, global-local fusion);
`segment_anything/modeling/mask_decoder_hq.py` of the published code, whose parameter names are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.model.layers import MLP, LayerNorm2d
from anymask.model.sam.mask_decoder import MaskDecoder
from anymask.model.sam.two_way_transformer import TwoWayTransformer


def _twice_larger(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, kernel_size=2, stride=2)


class HqMaskDecoder(MaskDecoder):
    """Axis letters as in `MaskDecoder`; D are the channels of the encoder's early map.

    With ``hq_token_only`` the high-quality mask stands alone instead of being added.
    """

    def __init__(
        self,
        dim: int,
        transformer: TwoWayTransformer,
        early_dim: int,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        hq_token_only: bool = False,
    ) -> None:
        super().__init__(dim, transformer, num_multimask_outputs, iou_head_depth, iou_head_hidden_dim)
        self.hq_token_only = hq_token_only
        self.hf_token = nn.Embedding(1, dim)
        self.hf_mlp = MLP(dim, dim, dim // 8, 3)
        self.compress_vit_feat = nn.Sequential(
            _twice_larger(early_dim, dim), LayerNorm2d(dim), nn.GELU(), _twice_larger(dim, dim // 8)
        )
        self.embedding_encoder = nn.Sequential(
            _twice_larger(dim, dim // 4), LayerNorm2d(dim // 4), nn.GELU(), _twice_larger(dim // 4, dim // 8)
        )
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(dim // 8, dim // 4, kernel_size=3, padding=1),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 8, kernel_size=3, padding=1),
        )

    def fuse(self, embedding: Tensor, early: Tensor) -> Tensor:
        """What of the high-quality features no prompt changes.

        embedding: E x C x h x w; early: E x D x h x w -> E x C/8 x 4h x 4w.
        """
        fused: Tensor = self.embedding_encoder(embedding) + self.compress_vit_feat(early)
        return fused

    def decode(
        self,
        embedding: Tensor,
        hq: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All masks of every prompt, the high-quality mask in each.

        ``hq`` is what `fuse` gives, for E images; the rest as in `MaskDecoder.forward`. Returns
        (logits B x M x 4h x 4w, predicted IoU B x M).
        """
        b, h, w = sparse.shape[0], embedding.shape[-2], embedding.shape[-1]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hf_token.weight])
        tokens = torch.cat([own[None].expand(b, -1, -1), sparse], dim=1)
        if present is not None:
            always = torch.ones(1, own.shape[0], dtype=torch.bool, device=present.device)
            present = torch.cat([always.expand(b, -1), present.bool()], dim=1)
        tokens, cells = self.transformer(embedding + dense, image_pe, tokens, present)

        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, (h, w)))
        fine = self.embedding_maskfeature(upscaled) + hq
        hq_logits = self.hf_mlp(tokens[:, 1 + self.num_masks])[:, None] @ fine.flatten(2)
        if self.hq_token_only:
            logits = hq_logits.expand(-1, self.num_masks, -1)
        else:
            weights = [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
            logits = torch.stack(weights, dim=1) @ upscaled.flatten(2) + hq_logits
        return logits.unflatten(2, (4 * h, 4 * w)), self.iou_prediction_head(tokens[:, 0])
