"""Small models of transformers with random weights, saved as folders: SAM, SAM-HQ, SAM 2 and Mask2Former."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 64

_DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
_VIT = {
    "hidden_size": 16,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
    "mlp_dim": 32,
    "num_pos_feats": 16,
}
_VIT_PROMPTS = {
    "hidden_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
    "image_embedding_size": 8,
    "mask_input_channels": 8,
}
_HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [SIDE, SIDE],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "blocks_per_stage": [1, 1, 2, 1],
    "window_size_per_stage": [8, 4, 4, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}
_PYRAMID = {
    "backbone_config": _HIERA,
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}
STRETCHED = {
    "image_processor_type": "Sam2ImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
}


def save_sam(folder: Path, kind: str = "sam") -> Any:
    """A SAM, or a SAM-HQ, with its processor."""
    from transformers import SamConfig, SamHQConfig, SamHQModel, SamModel, SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    config, model = (SamConfig, SamModel) if kind == "sam" else (SamHQConfig, SamHQModel)
    decoder = _DECODER | ({"vit_dim": 16} if kind == "sam_hq" else {})
    built = _randomised(
        model(config(vision_config=_VIT, prompt_encoder_config=_VIT_PROMPTS, mask_decoder_config=decoder))
    )
    built.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    SamProcessor(SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=size)).save_pretrained(folder)
    return built


def save_sam2(folder: Path) -> Any:
    """A SAM 2 for single images; its processor's configuration is written by hand, since it needs torchvision."""
    from transformers import Sam2Config, Sam2Model

    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
    built = _randomised(
        Sam2Model(
            Sam2Config(vision_config=_PYRAMID, prompt_encoder_config=prompts, mask_decoder_config=_DECODER)
        )
    )
    built.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STRETCHED))
    return built


def save_detector(folder: Path) -> Any:
    """A Mask2Former of eight queries and three classes, with its processor."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    backbone = SwinConfig(
        image_size=SIDE,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=8,
        num_labels=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        built = Mask2FormerForUniversalSegmentation(config).eval()
    built.save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return built


def _randomised(model: Any) -> Any:
    """Weights of the size that keeps a signal's, so that masks and scores depend on image and prompt."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                fan = parameter[0].numel() if parameter.ndim > 1 else 100
                parameter.copy_(torch.randn_like(parameter) / fan**0.5)
    return model.eval()
