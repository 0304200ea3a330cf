"""Names, shapes and counts that the published checkpoints have, written down from the paper's description."""

from __future__ import annotations

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from anymask.errors import ModelError  # noqa: E402
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST, VIT_B, SamConfig, variant  # noqa: E402


def _linear(name: str, out: int, inp: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inp), f"{name}.bias": (out,)}


def _norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _vit_b_encoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 64, 64, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        "neck.0.weight": (256, 768, 1, 1),
        **_norm("neck.1", 256),
        "neck.2.weight": (256, 256, 3, 3),
        **_norm("neck.3", 256),
    }
    for n in range(12):
        block, places = f"blocks.{n}", 127 if n in (2, 5, 8, 11) else 27
        shapes |= _norm(f"{block}.norm1", 768) | _norm(f"{block}.norm2", 768)
        shapes |= _linear(f"{block}.attn.qkv", 2304, 768) | _linear(f"{block}.attn.proj", 768, 768)
        shapes |= {f"{block}.attn.rel_pos_h": (places, 64), f"{block}.attn.rel_pos_w": (places, 64)}
        shapes |= _linear(f"{block}.mlp.lin1", 3072, 768) | _linear(f"{block}.mlp.lin2", 768, 3072)
    return {f"image_encoder.{name}": shape for name, shape in shapes.items()}


def _prompt_encoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        **{f"point_embeddings.{n}.weight": (1, 256) for n in range(4)},
        "not_a_point_embed.weight": (1, 256),
        "no_mask_embed.weight": (1, 256),
        "mask_downscaling.0.weight": (4, 1, 2, 2),
        "mask_downscaling.0.bias": (4,),
        **_norm("mask_downscaling.1", 4),
        "mask_downscaling.3.weight": (16, 4, 2, 2),
        "mask_downscaling.3.bias": (16,),
        **_norm("mask_downscaling.4", 16),
        "mask_downscaling.6.weight": (256, 16, 1, 1),
        "mask_downscaling.6.bias": (256,),
    }
    return {f"prompt_encoder.{name}": shape for name, shape in shapes.items()}


def _attention(name: str, inner: int) -> dict[str, tuple[int, ...]]:
    shapes = _linear(f"{name}.out_proj", 256, inner)
    for part in ("q_proj", "k_proj", "v_proj"):
        shapes |= _linear(f"{name}.{part}", inner, 256)
    return shapes


def _mask_decoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "iou_token.weight": (1, 256),
        "mask_tokens.weight": (4, 256),
        "output_upscaling.0.weight": (256, 64, 2, 2),
        "output_upscaling.0.bias": (64,),
        **_norm("output_upscaling.1", 64),
        "output_upscaling.3.weight": (64, 32, 2, 2),
        "output_upscaling.3.bias": (32,),
        **_attention("transformer.final_attn_token_to_image", 128),
        **_norm("transformer.norm_final_attn", 256),
    }
    for n in range(2):
        layer = f"transformer.layers.{n}"
        shapes |= _attention(f"{layer}.self_attn", 256)
        shapes |= _attention(f"{layer}.cross_attn_token_to_image", 128)
        shapes |= _attention(f"{layer}.cross_attn_image_to_token", 128)
        shapes |= _linear(f"{layer}.mlp.lin1", 2048, 256) | _linear(f"{layer}.mlp.lin2", 256, 2048)
        for norm in range(1, 5):
            shapes |= _norm(f"{layer}.norm{norm}", 256)
    heads = {f"output_hypernetworks_mlps.{n}": 32 for n in range(4)} | {"iou_prediction_head": 4}
    for head, out in heads.items():
        for n, size in enumerate((256, 256, out)):
            shapes |= _linear(f"{head}.layers.{n}", size, 256)
    return {f"mask_decoder.{name}": shape for name, shape in shapes.items()}


def _on_meta(config: SamConfig):
    with torch.device("meta"):
        return build_sam(config)


def test_vit_b_has_the_published_names_and_shapes():
    expected = _vit_b_encoder() | _prompt_encoder() | _mask_decoder()
    seen = {name: tuple(tensor.shape) for name, tensor in _on_meta(VIT_B).state_dict().items()}
    assert seen == expected
    assert len(seen) == 314


@pytest.mark.parametrize(
    ("name", "parameters"), [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)]
)
def test_published_parameter_counts(name, parameters):
    """The 256 numbers of the position matrix are a buffer and not counted."""
    assert sum(p.numel() for p in _on_meta(variant(name)).parameters()) == parameters


def test_decoder_is_light():
    sam = _on_meta(VIT_B)
    assert sum(p.numel() for p in sam.mask_decoder.parameters()) == 4_058_340 < 5_000_000
    assert sum(p.numel() for p in sam.prompt_encoder.parameters()) == 6_220


def test_pixel_statistics_are_no_weights():
    assert not [name for name in _on_meta(VIT_B).state_dict() if "pixel" in name]


def test_default_is_vit_h_and_other_names_are_refused():
    assert variant("default") is variant("vit_h")
    with pytest.raises(ModelError, match=r"vit_b.*vit_h"):
        variant("vit_x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "embed_dim"),
        ({"image_size": 130}, "patch_size"),
        ({"prompt_dim": 36}, "prompt_dim"),
        ({"decoder_heads": 3}, "decoder_heads"),
        ({"mask_channels": 6}, "mask_channels"),
        ({"global_attn_indexes": (2,)}, "global_attn_indexes"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(TINY_TEST, **change)


def test_sizes_survive_json():
    assert SamConfig.from_dict(json.loads(json.dumps(VIT_B.to_dict()))) == VIT_B
    with pytest.raises(ModelError, match="colour"):
        SamConfig.from_dict({**VIT_B.to_dict(), "colour": 3})
    with pytest.raises(ModelError, match="embed_dim"):
        SamConfig.from_dict({"name": "x"})
