"""The mask decoder of `anymask.model.sam.mask_decoder`, with the same function and a third of the arithmetic.

Between its layers the published decoder keeps an image of C channels for every prompt, and projects it anew each time.
But a prompt changes the image little: each attention of L image cells to T tokens in H heads adds a matrix of rank
H (T - 1) + 1 (49 for one click; a cell's attention to all tokens sums to 1), and the norm after it scales and shifts.
So the image of a prompt after layer k is kept as

    image_k = (shared_k + rows^T weights) / spread + shift                                      L x C

with ``shared_k`` the same for all prompts, ``weights`` (R x C) small, ``rows`` (R x L) the attention maps so far, and
``spread`` (L) the standard deviation that the norms have not divided by yet (`anymask.model.sam.image_rows`). Whatever
is linear in the image (keys, values, queries, the first transposed convolution) is then a product with ``shared_k``,
made once per image by `ImagePart`, plus a product of rank R, made per prompt by `PromptPart`; the image itself is never
built. A norm's mean is taken out of the weights beforehand, its variance is a quadratic form in the rows.
A mask prompt is a map of 16 channels under a 1 x 1 convolution: 17 more rows.

Further: keys' biases do not change a softmax over cells and are left out, and positions are projected once. Masks are
read by `anymask.model.sam.mask_reading`.

Axis letters: B prompts, N points, T tokens, L = h w image cells, C channels, H heads, D channels of a head, R rows.
Source of the function: `segment_anything/modeling/mask_decoder.py` and ``transformer.py`` of the published code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.layers import LayerNorm2d
from anymask.model.prompt_tensors import NOT_A_POINT, TOP_LEFT
from anymask.model.sam.image_rows import ImageRows, centred, of_all_prompts, split_heads
from anymask.model.sam.mask_decoder import MaskDecoder
from anymask.model.sam.mask_reading import MaskReading, as_product
from anymask.model.sam.prompt_encoder import PromptEncoder
from anymask.model.sam.two_way_transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

_HIDDEN = -1e9
"""Added to the attention of a token that is not there; its weight is then exactly zero."""


class SamLike(Protocol):
    """What a fast decoder is made from: any network with SAM's prompt encoder and mask decoder."""

    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder


def part_names(depth: int) -> tuple[str, ...]:
    """The tensors of `ImagePart` for a transformer of so many layers, in their order."""
    names: list[str] = []
    kinds = ["mask"]
    for k in range(depth):
        kinds += [f"heads{k}"] if k == 0 else [f"heads{k}", f"bias{k}"]
        names += [
            f"keys{k}",
            f"values{k}",
            f"queries{k}",
            f"square{k}",
            *(f"{kind}_to_{k}" for kind in kinds),
            *((f"key_positions{k}", f"query_positions{k}") if k else ()),
        ]
    return (*names, f"keys{depth}", f"values{depth}", f"key_positions{depth}", "upscaled")


class ImagePart(nn.Module):
    """What all prompts on an image share: embedding 1 x C x h x w -> the tensors called `names`, 34 MB for SAM.

    Per layer: keys H x D x L, values H x L x D and queries H x D x L of the shared image; the squared length of its
    centred cells, 1 x L; twice its product with each kind of row's weights, (H x D or R) x L; from the second on what
    cells' places add to keys and queries, the same for every image. Then keys, values and places of the last look, and
    the first transposed convolution L x 4C' for the upscaling.
    """

    no_mask: Tensor
    positions: Tensor
    upscale: Tensor

    def __init__(self, network: SamLike) -> None:
        super().__init__()
        prompts, decoder = _frozen(network)
        transformer = decoder.transformer
        self.layers = cast(Sequence[TwoWayAttentionBlock], transformer.layers)
        self.final = transformer.final_attn_token_to_image
        self.register_buffer("no_mask", prompts.no_mask_embed.weight.detach().t(), persistent=False)
        self.register_buffer("positions", prompts.dense_pe().flatten(2)[0], persistent=False)
        self.register_buffer("upscale", as_product(decoder.output_upscaling[0]), persistent=False)
        self.names = part_names(len(self.layers))
        kinds = {"mask": _mask_weights(prompts)}
        for k, layer in enumerate(self.layers):
            out = layer.cross_attn_image_to_token.out_proj
            kinds[f"heads{k}"] = out.weight.t()
            if k:
                kinds[f"bias{k}"] = (out.bias + self.layers[k - 1].norm4.bias)[None]
            for kind, weights in kinds.items():
                weights = centred(weights)
                self.register_buffer(f"{kind}_to_{k}", 2 * weights, persistent=False)
                kinds[kind] = weights * layer.norm4.weight

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        image = embedding[0].flatten(1) + self.no_mask  # C x L
        parts: dict[str, Tensor] = {}
        for k, layer in enumerate(self.layers):
            look, answer = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            # The positions of later layers are not divided by the spread; the prompt part adds them.
            placed = image + self.positions if k == 0 else image
            queries = answer.q_proj.weight @ placed
            if k == 0:
                queries = queries + answer.q_proj.bias[:, None]
            else:
                shifted = self.positions + self.layers[k - 1].norm4.bias[:, None]
                shifted = answer.q_proj.weight @ shifted + answer.q_proj.bias[:, None]
                parts[f"query_positions{k}"] = _heads(shifted, answer.num_heads)
                parts[f"key_positions{k}"] = _heads(look.k_proj.weight @ self.positions, look.num_heads)
            parts[f"keys{k}"] = _heads(look.k_proj.weight @ placed, look.num_heads)
            parts[f"values{k}"] = _heads(look.v_proj.weight @ image, look.num_heads).transpose(1, 2)
            parts[f"queries{k}"] = _heads(queries, answer.num_heads)
            if k == 0:
                image = image + answer.out_proj.bias[:, None]
            image = image - image.mean(0, keepdim=True)
            parts[f"square{k}"] = (image * image).sum(0, keepdim=True)
            for name in (name for name in self.names if name.endswith(f"_to_{k}")):
                product = getattr(self, name) @ image
                parts[name] = _heads(product, answer.num_heads) if name.startswith("heads") else product
            image = image * layer.norm4.weight[:, None]
        look, last = self.final, len(self.layers)
        parts[f"keys{last}"] = _heads(look.k_proj.weight @ image, look.num_heads)
        parts[f"values{last}"] = _heads(look.v_proj.weight @ image, look.num_heads).transpose(1, 2)
        parts[f"key_positions{last}"] = _heads(look.k_proj.weight @ self.positions, look.num_heads)
        parts["upscaled"] = image.t() @ self.upscale
        return tuple(parts[name].contiguous() for name in self.names)


class PromptPart(nn.Module):
    """Prompts on one image, given what `ImagePart` made of it -> all four masks of each prompt.

    `two_way` serves other decoders with the same transformer.
    """

    mask_weights: Tensor

    def __init__(self, network: SamLike) -> None:
        super().__init__()
        prompts, decoder = _frozen(network)
        self.prompt_encoder, self.decoder = prompts, decoder
        transformer: TwoWayTransformer = decoder.transformer
        self.layers = cast(Sequence[TwoWayAttentionBlock], transformer.layers)
        self.part_names = part_names(len(self.layers))
        self.reading = MaskReading(decoder, self.layers[-1].norm4.bias)
        self.register_buffer("mask_weights", _mask_weights(prompts).contiguous(), persistent=False)

    def forward(
        self,
        parts: Sequence[Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts; padding as `PromptTensors.from_padded` reads it.

        Args:
            parts: what `ImagePart` gave.
            points, labels: B x N x 2, B x N.
            mask_input, has_mask: B x 1 x 4h x 4w logits and B, 1 where they count; both or none.

        Returns:
            low-resolution logits B x M x 4h x 4w, predicted IoU B x M.
        """
        tokens, image, scores = self.judge(parts, points, labels, mask_input, has_mask)
        return self.draw(parts, tokens, image), scores

    def judge(
        self,
        parts: Sequence[Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, ImageRows, Tensor]:
        """Half of the work, which says how good the masks will be: tokens B x T x C, images, predicted IoU B x M."""
        decoder = self.decoder
        points, labels, hidden = _visible(points, labels)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        sparse = self.prompt_encoder.embed_points(points, labels)
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        hidden = F.pad(hidden, (own.shape[0], 0))  # B x T
        image = ImageRows()
        named = dict(zip(self.part_names, parts, strict=True))
        if mask_input is not None and has_mask is not None:
            image = self.mask_rows(mask_input, has_mask)
        tokens, image = self.two_way(tokens, hidden, image, named)
        return tokens, image, decoder.iou_prediction_head(tokens[:, 0])

    def draw(
        self, parts: Sequence[Tensor], tokens: Tensor, image: ImageRows, visible: Tensor | None = None
    ) -> Tensor:
        """The other half: logits of what `judge` gave, in all cells or the first rows and columns, ``visible``."""
        shared = parts[self.part_names.index("upscaled")]
        h, w = self.prompt_encoder.grid_size
        if visible is not None:
            rows, columns = visible[0], visible[1]
            image = image.within(h, w, rows, columns)
            seen = shared.reshape(h, w, -1)[:rows, :columns]
            shared, h, w = seen.flatten(0, 1), seen.shape[0], seen.shape[1]
        masks: Tensor = self.reading(tokens, image, shared, h, w)
        return masks

    def promising(
        self,
        parts: Sequence[Tensor],
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor | None,
        has_mask: Tensor | None,
        least_iou: Tensor,
        visible: Tensor,
        multiple: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` that draws only the prompts of whose masks 1 to M - 1 one has a predicted IoU of ``least_iou``.

        The most promising prompt is drawn in any case, since engines differ in what they make of nothing; where scores
        are no numbers all are.

        Args:
            visible: rows and columns of cells, 1 to h and 1 to w, that are drawn: those of the picture without padding.
            multiple: a whole number; others are drawn too until it divides how many are, or there are no more. An
                engine that prepares itself anew for every length of an axis meets fewer of them.

        Returns:
            logits K x M x 4 rows x 4 columns of these, predicted IoU B x M of all, and the numbers K of these, rising.
        """
        tokens, image, scores = self.judge(parts, points, labels, mask_input, has_mask)
        best = scores[:, 1:].amax(1)
        too_low = (best < torch.minimum(best.amax(), least_iou)).to(torch.int64)
        missing = ((too_low - 1).sum() % multiple + multiple) % multiple
        drawn = (too_low * too_low.cumsum(0) <= missing).nonzero()[:, 0]
        logits = self.draw(parts, tokens.index_select(0, drawn), image.only(drawn), visible)
        return logits, scores, drawn

    def mask_rows(self, mask_input: Tensor, has_mask: Tensor) -> ImageRows:
        """Mask prompts as the first rows, all zero where a prompt has none; a single row where no prompt has one.

        Where none has one, only the first is looked at and nothing of it is left (there are no branches in a graph,
        but lengths may follow values).
        """
        prompts, given = mask_input.shape[0], has_mask.amax().to(torch.int64)
        mask_input = mask_input[: 1 + given * (prompts - 1)]
        first, norm1, _, second, norm2 = list(self.prompt_encoder.mask_downscaling)[:5]
        fine = F.gelu(_norm_channels(first(mask_input), norm1))
        coarse = F.gelu(_norm_channels(second(fine), norm2)).flatten(2)
        rows = torch.cat([coarse, torch.ones_like(coarse[:, :1])], dim=1)
        weights = self.mask_weights[: 1 + given * (self.mask_weights.shape[0] - 1)]
        rows = rows[:, : 1 + given * (rows.shape[1] - 1)] * has_mask[:, None, None]
        return ImageRows(weights.expand(prompts, -1, -1), rows)

    def two_way(
        self, tokens: Tensor, hidden: Tensor, image: ImageRows, parts: dict[str, Tensor]
    ) -> tuple[Tensor, ImageRows]:
        """`TwoWayTransformer.forward`: tokens B x T x C; hidden: B x T, added to the attention of a token."""
        place, masked = tokens, image.rows
        seen: list[tuple[Tensor, Tensor]] = []
        for k, layer in enumerate(self.layers):
            query = tokens if layer.first else tokens + place
            attended = _self_attention(layer.self_attn, query, tokens, hidden[:, None, None])
            tokens = layer.norm1(attended if layer.first else tokens + attended)
            attended = self._look(layer.cross_attn_token_to_image, tokens + place, image, parts, k)
            tokens = layer.norm2(tokens + attended)
            tokens = layer.norm3(tokens + layer.mlp(tokens))

            answer = layer.cross_attn_image_to_token
            keys = split_heads(answer.k_proj(tokens + place), answer.num_heads) * _temperature(answer)
            values = split_heads(answer.v_proj(tokens), answer.num_heads)
            # A cell's attention to all tokens sums to 1: that to the first need not be kept.
            first, others = values[:, :, :1], values[:, :, 1:] - values[:, :, :1]
            seen.append((first, others))
            scores = image.scores(
                keys, answer.q_proj.weight, parts[f"queries{k}"], parts.get(f"query_positions{k}")
            )
            attention = (scores + hidden[:, None, :, None]).softmax(2)[:, :, 1:].flatten(1, 2)
            out = _heads(answer.out_proj.weight.t(), answer.num_heads)  # H x D x C
            constant = (first @ out).sum(1)
            if k:  # the first layer's is in the shared image
                constant = constant + answer.out_proj.bias
            image = image.grown(attention, (others @ out).flatten(1, 2), constant)
            cross = []
            if masked is not None:  # as many rows as there are
                cross.append(parts[f"mask_to_{k}"][: masked.shape[1]].expand(tokens.shape[0], -1, -1))
            for j, (first, others) in enumerate(seen):  # in the order in which `grown` adds rows
                of_heads = parts[f"heads{j}_to_{k}"]
                everywhere = of_all_prompts(first, of_heads).sum(1)  # B x 1 x L
                cross.append(of_all_prompts(others, of_heads).flatten(1, 2))
                cross.append(everywhere + parts[f"bias{j}_to_{k}"] if j else everywhere)
            image = image.normed(layer.norm4, parts[f"square{k}"], torch.cat(cross, dim=1))
        transformer, last = self.decoder.transformer, len(self.layers)
        final = transformer.final_attn_token_to_image
        attended = self._look(final, tokens + place, image, parts, last)
        return transformer.norm_final_attn(tokens + attended), image

    def _look(
        self, attention: Attention, query: Tensor, image: ImageRows, parts: dict[str, Tensor], k: int
    ) -> Tensor:
        """Tokens B x T x C look at the image: B x T x C."""
        queries = split_heads(attention.q_proj(query), attention.num_heads) * _temperature(attention)
        scores = image.scores(
            queries, attention.k_proj.weight, parts[f"keys{k}"], parts.get(f"key_positions{k}")
        )
        means = image.pooled(scores.softmax(-1), attention.v_proj.weight, parts[f"values{k}"])
        bias: Tensor = attention.v_proj.bias
        if image.shift is not None:
            bias = bias + attention.v_proj.weight @ image.shift
        out: Tensor = attention.out_proj(means.transpose(1, 2).flatten(2) + bias)
        return out


class FastDecoder(nn.Module):
    """Both parts in one: an embedding and prompts on it -> all four masks of each prompt.

    Made from a network with its weights in place, of which it keeps copies. Whoever decodes several times on one image
    keeps what ``image_part`` makes of the embedding and calls ``prompt_part`` with it.
    """

    feature_names = ("embedding",)

    def __init__(self, network: SamLike) -> None:
        super().__init__()
        self.image_part = ImagePart(network)
        self.prompt_part = PromptPart(network)

    def forward(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """embedding: 1 x C x h x w; the rest, and what comes back, as `PromptPart.forward`."""
        answer: tuple[Tensor, Tensor] = self.prompt_part(
            self.image_part(embedding), points, labels, mask_input, has_mask
        )
        return answer


def _frozen(network: SamLike) -> tuple[PromptEncoder, MaskDecoder]:
    parts = copy.deepcopy((network.prompt_encoder, network.mask_decoder))
    for part in parts:
        part.eval().float().requires_grad_(False)
    return parts


def _visible(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`PromptTensors.from_padded` without branches: points and labels, with one slot more where a prompt lacks the
    -1 that goes with points, and what is added to the attention of each slot."""
    real = (labels != NOT_A_POINT).to(points.dtype)
    corners = (labels >= TOP_LEFT).to(points.dtype)
    wants_pad = real.amax(1, keepdim=True) * (1 - corners.amax(1, keepdim=True))  # B x 1
    missing = (wants_pad * real.amin(1, keepdim=True)).amax().to(torch.int64)  # 1 where any prompt lacks it
    points = torch.cat([points, torch.zeros_like(points[:, :1])[:, :missing]], dim=1)
    labels = torch.cat([labels, torch.full_like(labels[:, :1], NOT_A_POINT)[:, :missing]], dim=1)
    padding = (labels == NOT_A_POINT).to(points.dtype)
    first = padding * (padding.cumsum(1) == 1).to(points.dtype)
    present = 1 - padding + first * wants_pad
    return points, labels, (1 - present) * _HIDDEN


def _self_attention(attention: Attention, query: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    heads = attention.num_heads
    queries = split_heads(attention.q_proj(query), heads) * _temperature(attention)
    keys = split_heads(attention.k_proj(query), heads)
    weights = (queries @ keys.transpose(2, 3) + hidden).softmax(-1)
    mixed = weights @ split_heads(attention.v_proj(value), heads)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


def _temperature(attention: Attention) -> float:
    return float((attention.q_proj.out_features // attention.num_heads) ** -0.5)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(H D) x L -> H x D x L."""
    return x.reshape(heads, -1, x.shape[-1])


def _norm_channels(x: Tensor, norm: nn.Module) -> Tensor:
    """`LayerNorm2d` without moving the channels to the end, which costs more than the norm when they are few."""
    norm = cast(LayerNorm2d, norm)
    x = x - x.mean(1, keepdim=True)
    scale = ((x * x).mean(1, keepdim=True) + norm.eps).rsqrt()
    return x * scale * norm.weight[:, None, None] + norm.bias[:, None, None]


def _mask_weights(prompts: PromptEncoder) -> Tensor:
    """What a mask prompt adds to the image, as weights of its last feature map and of one row of ones."""
    last = cast(nn.Conv2d, prompts.mask_downscaling[6])
    bias = cast(Tensor, last.bias) - prompts.no_mask_embed.weight[0]
    return torch.cat([last.weight.flatten(1).t(), bias[None]]).detach()
