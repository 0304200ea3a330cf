"""The two-way transformer: prompt tokens and the image look at each other.

Source: SAM paper, figure 14 and appendix A ("Lightweight mask decoder");
`segment_anything/modeling/transformer.py` of the published code, whose parameter names are kept.

The image may have a batch of one for B prompts: it is then projected once and only becomes B maps where the
prompts first change it. Axis letters: B prompts, T tokens, L image cells, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.layers import MLPBlock


class Attention(nn.Module):
    """Attention whose inner width is `dim / downsample_rate`; a batch of one broadcasts against B."""

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = dim // downsample_rate
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_present: Tensor | None = None) -> Tensor:
        """q: B x T x C; k, v: B x S x C; key_present: B x S bool, False is not looked at -> B x T x C."""
        queries = self._split(self.q_proj(q))
        keys = self._split(self.k_proj(k))
        values = self._split(self.v_proj(v))
        if queries.shape[0] == 1 and keys.shape[0] != 1:
            queries = queries.expand(keys.shape[0], -1, -1, -1)  # a view: nothing is copied
        elif keys.shape[0] == 1 and queries.shape[0] != 1:
            keys = keys.expand(queries.shape[0], -1, -1, -1)
            values = values.expand(queries.shape[0], -1, -1, -1)
        mask = None if key_present is None else key_present[:, None, None, :]
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        merged: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        """B x T x C -> B x heads x T x C/heads."""
        b, t, inner = x.shape
        return x.reshape(b, t, self.num_heads, inner // self.num_heads).transpose(1, 2)


class TwoWayAttentionBlock(nn.Module):
    """Tokens to themselves, tokens to image, an MLP on the tokens, image to tokens; a norm after each."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, present: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """tokens, token_pe: B x T x C; image, image_pe: B or 1 x L x C -> new (tokens, image of B)."""
        if self.first:  # the tokens still are their own positions, and nothing is kept of them
            tokens = self.self_attn(tokens, tokens, tokens, present)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens, present)
        tokens = self.norm1(tokens)

        placed_image = image + image_pe
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pe, placed_image, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))

        image = image + self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens, present)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last look of the tokens at the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim, downsample_rate, first=index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, image: Tensor, image_pe: Tensor, tokens: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """image: B or 1 x C x h x w; image_pe: 1 x C x h x w; tokens: B x T x C; present: B x T bool or None.

        Returns (tokens B x T x C, image B x L x C).
        """
        cells, cells_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        token_pe = tokens
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_pe, cells_pe, present)
        attended = self.final_attn_token_to_image(tokens + token_pe, cells + cells_pe, cells)
        return self.norm_final_attn(tokens + attended), cells
