"""Our SAM beside transformers' SAM with the same random weights: what `families.py` and the tests compare with.

Two facts about the peer: its decoder norms default to an epsilon of 1e-6 where the published code has torch's
1e-5, so it is set here; and its padding label -10 leaves a zero token in the attention, so ragged batches are
compared with the peer run one by one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from anymask.model.checkpoints.transformers_names import to_transformers
from anymask.model.layers import LayerNorm2d
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.network import Sam, build_sam
from anymask.model.variants import SamConfig

PROMPT_CASES = ("points", "box", "points + box", "padding points", "mask", "points + mask", "ragged")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest absolute differences of one comparison, and the largest value there was."""

    case: str
    logits: float
    scores: float
    logits_range: float
    scores_range: float


def randomised_sam(config: SamConfig, seed: int) -> Sam:
    """A SAM in which every parameter is random and no activation dies or explodes."""
    generator = torch.Generator().manual_seed(seed)
    sam = build_sam(config)
    with torch.no_grad():
        for module in sam.modules():
            for name, parameter in module.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                if isinstance(module, nn.LayerNorm | LayerNorm2d) and name == "weight":
                    parameter.copy_(1 + 0.1 * noise)
                elif isinstance(module, nn.Embedding):
                    parameter.copy_(noise)
                elif name == "weight":
                    parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
                else:  # biases and positions
                    parameter.copy_(0.2 * noise)
        buffer = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return sam.eval()


def transformers_peer(sam: Sam, config: SamConfig) -> Any:
    """transformers' `SamModel` of the same sizes and with the same weights, plain attention."""
    peer_config = transformers.SamConfig(
        vision_config={
            "hidden_size": config.embed_dim,
            "output_channels": config.prompt_dim,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.num_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "window_size": config.window_size,
            "global_attn_indexes": list(config.global_attn_indexes),
            "num_pos_feats": config.prompt_dim // 2,
            "mlp_dim": int(config.embed_dim * config.mlp_ratio),
        },
        prompt_encoder_config={
            "hidden_size": config.prompt_dim,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "mask_input_channels": config.mask_channels,
        },
        mask_decoder_config={
            "hidden_size": config.prompt_dim,
            "mlp_dim": config.decoder_mlp_dim,
            "num_hidden_layers": config.decoder_depth,
            "num_attention_heads": config.decoder_heads,
            "attention_downsample_rate": config.attention_downsample_rate,
            "num_multimask_outputs": config.num_multimask_outputs,
            "iou_head_depth": config.iou_head_depth,
            "iou_head_hidden_dim": config.iou_head_hidden_dim,
            "layer_norm_eps": 1e-5,
        },
    )
    peer = transformers.SamModel._from_config(peer_config, attn_implementation="eager")
    peer.load_state_dict(to_transformers(sam.state_dict()), strict=True)
    return peer.eval()


def make_prompts(case: str, config: SamConfig, objects: int, seed: int) -> list[dict[str, Tensor]]:
    """`objects` prompts of one kind: points N x 2, labels N, box 4, mask 1 x 4h x 4w (some of them)."""
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for index in range(objects):
        count = 1 + index if case == "ragged" else 3
        prompt: dict[str, Tensor] = {}
        if "point" in case or case == "ragged":
            prompt["points"] = torch.rand(count, 2, generator=generator) * config.image_size
            prompt["labels"] = torch.randint(0, 2, (count,), generator=generator)
        if case == "padding points":
            prompt["labels"][1:] = -1
        if "box" in case or (case == "ragged" and index % 2):
            corners = torch.rand(2, 2, generator=generator) * config.image_size
            prompt["box"] = corners.sort(dim=0).values.reshape(4)
        if "mask" in case or (case == "ragged" and index % 3 == 2):
            size = config.mask_input_size
            prompt["mask"] = 4 * torch.randn(1, size, size, generator=generator)
        prompts.append(prompt)
    return prompts


def as_tensors(prompts: list[dict[str, Tensor]]) -> PromptTensors:
    """Our batch of the prompts; ragged ones are joined."""
    single = [
        PromptTensors.of(
            *(
                None if (t := prompt.get(key)) is None else t[None]
                for key in ("points", "labels", "box", "mask")
            )
        )
        for prompt in prompts
    ]
    return PromptTensors.join(single)


def ask_peer(
    peer: Any, embedding: Tensor, prompt: dict[str, Tensor], multimask: bool
) -> tuple[Tensor, Tensor]:
    """One prompt on one image by transformers: (logits M x 4h x 4w, scores M)."""
    places = {"points": "input_points", "labels": "input_labels", "box": "input_boxes"}
    inputs = {name: prompt[key][None, None] for key, name in places.items() if key in prompt}
    if "mask" in prompt:
        inputs["input_masks"] = prompt["mask"][None]
    out = peer(image_embeddings=embedding, multimask_output=multimask, **inputs)
    return out.pred_masks[0, 0], out.iou_scores[0, 0]


@torch.no_grad()
def compare(
    sam: Sam, peer: Any, embedding: Tensor, config: SamConfig, case: str, multimask: bool, objects: int = 4
) -> Difference:
    """Our batch of `objects` prompts on one shared embedding against the peer's one by one."""
    prompts = make_prompts(case, config, objects, seed=11)
    logits, scores = sam.decode(embedding, as_tensors(prompts))
    chosen = slice(1, None) if multimask else slice(0, 1)
    theirs = [ask_peer(peer, embedding, prompt, multimask) for prompt in prompts]
    their_logits = torch.stack([answer[0] for answer in theirs])
    their_scores = torch.stack([answer[1] for answer in theirs])
    return Difference(
        f"{case}, {'three masks' if multimask else 'one mask'}",
        (logits[:, chosen] - their_logits).abs().max().item(),
        (scores[:, chosen] - their_scores).abs().max().item(),
        their_logits.abs().max().item(),
        their_scores.abs().max().item(),
    )


@torch.no_grad()
def compare_embeddings(sam: Sam, peer: Any, pixels: Tensor) -> tuple[Tensor, float, float]:
    """Our embedding, its largest difference from the peer's, and the smallest cosine over all cells."""
    normalised = sam.preprocess(pixels)
    ours, theirs = sam.image_encoder(normalised), peer.get_image_embeddings(normalised)
    cosine = torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=1)
    return ours, (ours - theirs).abs().max().item(), cosine.min().item()
