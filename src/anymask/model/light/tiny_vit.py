"""TinyViT as MobileSAM has it: convolutions at strides 4 and 8, attention in windows at 8 and 16.

    pixels --patch_embed--> stride 4 --layer 0--> 8 --layer 1--> 16 --layer 2--> 16 --layer 3--> 16 --neck--> embedding

Layer 0 is made of inverted bottlenecks; each layer but the last ends with a step to the next width, which halves the
map in the first two only, so that the embedding comes out at SAM's stride.

Source: Wu et al., "TinyViT" (2022), section 3.2 and table 8; Zhang et al., "Faster Segment Anything" (2023);
`mobile_sam/modeling/tiny_vit_sam.py` of the published code, whose parameter names are kept. Two things of it:

- The head for the classes of ImageNet is in the published file and used by nobody; it is kept so that all of a file
  has its place.
- The published code gathers the attention biases when it is put into evaluation mode, which its builder does before
  the weights are loaded. Unless it is put there a second time (its examples do so), it runs without biases. Here they
  always count.

Axis letters: B images or windows, H x W cells, C channels, N heads, L = window cells, D channels of one head.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.errors import ModelError
from anymask.model.light.conv_norm import ConvNorm
from anymask.model.light.network import build_neck

CLASSES = 1000
EXPANSION = 4


class PatchEmbed(nn.Module):
    """Two strided convolutions: B x 3 x H x W -> B x C x H/4 x W/4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, dim // 2, kernel=3, stride=2), nn.GELU(), ConvNorm(dim // 2, dim, kernel=3, stride=2)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        cells: Tensor = self.seq(pixels)
        return cells


class InvertedBottleneck(nn.Module):
    """Wide, depthwise, narrow, and the input added before the last activation: B x C x H x W in and out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = dim * EXPANSION
        self.conv1 = ConvNorm(dim, wide)
        self.conv2 = ConvNorm(wide, wide, kernel=3, groups=wide)
        self.conv3 = ConvNorm(wide, dim, first_scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(wide))


class Downsample(nn.Module):
    """To the next layer's width, at half the size where ``stride`` is 2: B x C x H x W -> B x C' x H' x W'."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, kernel=3, stride=stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return narrowed


def window_places(size: int) -> Tensor:
    """Which learned bias each pair of cells in a size x size window has: L x L, by distance, size |dy| + |dx|."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return size * (y[:, None] - y[None, :]).abs() + (x[:, None] - x[None, :]).abs()


class WindowAttention(nn.Module):
    """Norm and multi-head attention inside windows, with one learned bias per head and distance."""

    bias_places: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        self.register_buffer("bias_places", window_places(window_size), persistent=False)

    def bias(self) -> Tensor:
        """What is added to the logits: 1 x N x L x L."""
        return self.attention_biases[:, self.bias_places][None]

    def forward(self, x: Tensor) -> Tensor:
        """B x L x C in and out. A head has its query, key and value side by side in `qkv`."""
        b, cells, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, cells, self.num_heads, 3 * c // self.num_heads)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias())
        merged: Tensor = self.proj(out.transpose(1, 2).reshape(b, cells, c))
        return merged


class Mlp(nn.Module):
    """Norm and two linear layers on the last axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * EXPANSION)
        self.fc2 = nn.Linear(dim * EXPANSION, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TinyVitBlock(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP: B x C x H x W in and out.

    As published, windows are padded with zeros before the norm and the padding is not masked.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.mlp = Mlp(dim)
        self.local_conv = ConvNorm(dim, dim, kernel=3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)  # B x H x W x C
        cells = cells + self.attend(cells)
        cells = self.local_conv(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (cells + self.mlp(cells)).permute(0, 3, 1, 2)
        return out

    def attend(self, cells: Tensor) -> Tensor:
        """Attention in each window: B x H x W x C in and out. Plain numbers as sizes, in an exported graph too."""
        h, w, c = (int(side) for side in cells.shape[1:])
        size = self.window_size
        rows, columns = -(-h // size), -(-w // size)
        padded = F.pad(cells, (0, 0, 0, columns * size - w, 0, rows * size - h))
        windows = padded.reshape(-1, rows, size, columns, size, c).transpose(2, 3)
        attended: Tensor = self.attn(windows.reshape(-1, size * size, c))
        joined = attended.reshape(-1, rows, columns, size, size, c).transpose(2, 3)
        return joined.reshape(-1, rows * size, columns * size, c)[:, :h, :w]

    def fused(self) -> nn.Module:
        """The same with less to do."""
        return InferenceTinyVitBlock(self)


class InferenceTinyVitBlock(nn.Module):
    """What `TinyVitBlock` computes in evaluation, B x C x H x W in and out, with weights of its own.

    - Projections see the map's own cells, not the padding of its windows: without the norm's shift and the biases a
      cell of padding is zero before and after. What the biases do is kept: that of the queries is added to the map's
      cells, that of the values goes through the last projection, since attention sums to 1, and that of the keys adds
      the same to all scores of a query.
    - Cells are rows of a matrix wherever no neighbours are looked at; engines arrange maps with four axes as they like.
    - Windows are cut and heads told apart in one step.
    """

    qkv: Tensor
    qkv_bias: Tensor
    bias: Tensor

    def __init__(self, block: TinyVitBlock) -> None:
        super().__init__()
        attention = block.attn
        self.window_size, self.num_heads, self.eps = (
            block.window_size,
            attention.num_heads,
            attention.norm.eps,
        )
        self.mlp, self.local_conv = block.mlp, block.local_conv.fused()
        qkv, proj, norm = attention.qkv, attention.proj, attention.norm
        dim = qkv.in_features // self.num_heads
        with torch.no_grad():
            weight = (qkv.weight * norm.weight).reshape(self.num_heads, 3, dim, -1).transpose(0, 1)
            shift = (qkv.weight @ norm.bias + qkv.bias).reshape(self.num_heads, 3, dim).transpose(0, 1)
            factors = torch.tensor([dim**-0.5, 1.0, 1.0], device=weight.device, dtype=weight.dtype)
            weight, shift = weight * factors[:, None, None, None], shift * factors[:, None, None]
            self.proj = nn.Linear(proj.in_features, proj.out_features).to(weight)
            self.proj.weight.copy_(proj.weight)
            self.proj.bias.copy_(proj.bias + proj.weight @ shift[2].flatten())
            shift[1:] = 0.0
        self.register_buffer("qkv", weight.reshape(-1, qkv.in_features).clone())
        self.register_buffer("qkv_bias", shift.reshape(-1).clone())
        self.register_buffer("bias", attention.bias().detach()[0][:, None].clone())  # N x 1 x L x L

    def forward(self, x: Tensor) -> Tensor:
        c, h, w = (int(side) for side in x.shape[1:])
        cells = x.permute(0, 2, 3, 1).reshape(-1, c)
        cells = cells + self.proj(self._attend(cells, h, w))
        image = self.local_conv(cells.reshape(-1, h, w, c).permute(0, 3, 1, 2))
        cells = image.permute(0, 2, 3, 1).reshape(-1, c)
        out: Tensor = (cells + self.mlp(cells)).reshape(-1, h, w, c).permute(0, 3, 1, 2)
        return out

    def _attend(self, cells: Tensor, h: int, w: int) -> Tensor:
        """Rows of B H W cells in and out, without the last projection."""
        size, heads, c = self.window_size, self.num_heads, int(cells.shape[-1])
        rows, columns = -(-h // size), -(-w // size)
        normed = F.layer_norm(cells, (c,), eps=self.eps)
        projected = F.linear(normed, self.qkv, self.qkv_bias).reshape(-1, h, w, 3 * c)
        padded = F.pad(projected, (0, 0, 0, columns * size - w, 0, rows * size - h))
        cut = padded.reshape(-1, size, columns, size, 3 * heads, c // heads).permute(4, 0, 2, 1, 3, 5)
        q, k, v = cut.reshape(3, heads, -1, size * size, c // heads).unbind(0)  # N x windows x L x D
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            out = (q @ k.transpose(2, 3) + self.bias).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=1.0)
        joined = out.reshape(heads, -1, columns, size, size, c // heads).permute(1, 3, 2, 4, 0, 5)
        return joined.reshape(-1, rows * size, columns * size, c)[:, :h, :w].reshape(-1, c)


class TinyVitLayer(nn.Module):
    """Blocks of one width, then the step to the next one, if any."""

    def __init__(self, blocks: list[nn.Module], downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVit(nn.Module):
    """Normalised pixels (B x 3 x S x S) -> image embedding (B x out_dim x S/16 x S/16)."""

    def __init__(
        self,
        image_size: int,
        embed_dims: tuple[int, ...],
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_sizes: tuple[int, ...],
        out_dim: int,
    ) -> None:
        """One entry per layer; heads and window of the first are not used, it has no attention."""
        super().__init__()
        self.image_size = image_size
        self.patch_embed = PatchEmbed(embed_dims[0])
        steps: list[Downsample | None] = [
            Downsample(dim, wider, stride=2 if index < 2 else 1)
            for index, (dim, wider) in enumerate(itertools.pairwise(embed_dims))
        ]
        layers = []
        for index, (dim, depth, step) in enumerate(zip(embed_dims, depths, [*steps, None], strict=True)):
            blocks: list[nn.Module] = [
                TinyVitBlock(dim, num_heads[index], window_sizes[index]) if index else InvertedBottleneck(dim)
                for _ in range(depth)
            ]
            layers.append(TinyVitLayer(blocks, step))
        self.layers = nn.ModuleList(layers)
        self.norm_head = nn.LayerNorm(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], CLASSES)
        self.neck = build_neck(embed_dims[-1], out_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ModelError(f"the image encoder takes B x {expected} pixels, not {tuple(pixels.shape)}")
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        embedding: Tensor = self.neck(x)
        return embedding
