"""Folders in the hubs' habit: transformers reads what we write and we read what transformers writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from anymask.compat import Sam, SamPredictor, build_nano, from_pretrained, sam_model_registry  # noqa: E402
from anymask.compat.pretrained import read_sizes, write_sizes  # noqa: E402
from anymask.compat.segmenter_model import SegmenterModel  # noqa: E402
from anymask.errors import ModelError, ModelFormatError, WeightsError  # noqa: E402
from anymask.model.variants import TINY_TEST, VIT_B, VIT_H, VIT_L  # noqa: E402


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_saved_is_loaded(sam, tmp_path, picture):
    folder = tmp_path / "new" / "tiny_test"
    sam.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    loaded = Sam.from_pretrained(folder)
    assert same_weights(sam, loaded)
    assert loaded.config == TINY_TEST
    assert not loaded.training
    predictors = SamPredictor(sam), SamPredictor.from_pretrained(str(folder))
    answers = []
    for predictor in predictors:
        predictor.set_image(picture)
        answers.append(predictor.predict(box=np.array([5, 5, 90, 90])))
    assert all(np.array_equal(one, other) for one, other in zip(*answers, strict=True))


def test_what_transformers_saved_is_loaded(sam, tmp_path):
    """From its own classes and defaults, with other sizes than any published network."""
    config = transformers.SamConfig(
        vision_config={"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64,
                       "window_size": 2, "global_attn_indexes": [1], "output_channels": 16, "num_pos_feats": 8,
                       "mlp_dim": 50},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "image_embedding_size": 4,
                               "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 12},
    )  # fmt: skip
    peer = transformers.SamModel(config).eval()
    peer.save_pretrained(tmp_path)
    model = Sam.from_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.image_encoder(pixels), peer.get_image_embeddings(pixels), atol=1e-4)
        theirs = peer(pixel_values=pixels, input_boxes=torch.tensor([[[3.0, 4.0, 50.0, 60.0]]]))
        sparse, dense = model.prompt_encoder(None, torch.tensor([[3.0, 4.0, 50.0, 60.0]]), None)
        logits, scores = model.mask_decoder(
            model.image_encoder(pixels), model.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
    assert model.image_encoder.img_size == 64
    assert torch.allclose(logits, theirs.pred_masks[:, 0], atol=1e-3)
    assert torch.allclose(scores, theirs.iou_scores[:, 0], atol=1e-4)


@pytest.mark.parametrize("config", [VIT_B, VIT_L, VIT_H, TINY_TEST], ids=lambda config: config.name)
def test_sizes_go_there_and_back(config):
    """Through transformers' own configuration, which leaves out nothing that decides a shape."""
    there = transformers.SamConfig.from_dict(write_sizes(config)).to_dict()
    assert read_sizes(there, {}, config.name) == config
    assert there["vision_config"]["mlp_dim"] == int(config.embed_dim * config.mlp_ratio)


def test_its_defaults_are_vit_b():
    assert read_sizes({"model_type": "sam"}, {}, "any") == VIT_B
    assert read_sizes(transformers.SamConfig().to_dict(), {}, "any") == VIT_B


def test_means_come_from_the_preprocessor():
    sizes = read_sizes({}, {"image_mean": [0.5, 0.25, 0.125], "image_std": [1.0, 0.5, 0.25]}, "any")
    assert sizes.pixel_mean == pytest.approx((127.5, 63.75, 31.875))
    assert sizes.pixel_std == pytest.approx((255.0, 127.5, 63.75))


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {"qkv_bias": False}},
        {"vision_config": {"hidden_size": "wide"}},
        {"vision_config": {"hidden_size": 0, "mlp_dim": 4}},
        {"vision_config": [1]},
        {"mask_decoder_config": {"num_attention_heads": 7}},
    ],
)
def test_sizes_that_make_no_sam(config):
    with pytest.raises(ModelError):
        read_sizes(config, {}, "any")


def test_weights_that_do_not_go_with_the_sizes(sam, tmp_path):
    sam.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["window_size"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="misshapen"):
        from_pretrained(tmp_path)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelFormatError, match="is no model"):
        from_pretrained(tmp_path)


def test_a_light_sam_is_kept_in_our_format(tmp_path):
    """transformers has no MobileSAM; ours comes back as it was."""
    from anymask.model.families import build_network
    from anymask.model.light.mobile_sam import MobileSamConfig

    sizes = MobileSamConfig(
        name="small", image_size=64, prompt_dim=16, decoder_heads=2, decoder_mlp_dim=24, iou_head_hidden_dim=12,
        embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_sizes=(2, 2, 2, 2),
    )  # fmt: skip
    model = Sam.of(build_network(sizes), sizes).eval()
    assert model.image_encoder.img_size == 64
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "mobile_sam"
    loaded = from_pretrained(tmp_path)
    assert same_weights(model, loaded)
    assert loaded.config == sizes


def test_a_network_with_parts_of_its_own_runs_behind_a_segmenter(tmp_path):
    import dataclasses

    from anymask.model.families import build_network, save_network
    from anymask.model.hq.network import HqSamConfig

    sizes = HqSamConfig(**dataclasses.asdict(TINY_TEST))
    network = build_network(sizes)
    save_network(network, sizes, tmp_path / "hq.safetensors")
    assert isinstance(from_pretrained(tmp_path / "hq.safetensors"), SegmenterModel)
    with pytest.raises(ModelError, match="parts of its own"):
        Sam.of(network, sizes)


def test_an_exported_folder_needs_no_torch_network(nano_folder, picture):
    model = from_pretrained(nano_folder)
    assert isinstance(model, SegmenterModel)
    assert model.eval().to("cpu").to(device=torch.device("cpu")) is model
    with pytest.raises(ModelError, match="stays where it was loaded"):
        model.to("cuda")
    predictor = SamPredictor(build_nano(nano_folder))
    predictor.set_image(picture)
    masks, scores, logits = predictor.predict(np.array([[80, 50]]), np.array([1]))
    expected = model.segmenter.segment(picture, points=[(80, 50)], labels=[1])
    order = np.argsort(-scores, kind="stable")
    assert scores[order] == pytest.approx(expected.scores, abs=1e-6)
    for index, mask in zip(order, expected, strict=True):
        assert np.array_equal(masks[index], mask.array)
        assert np.array_equal(logits[index], mask.low_res_logits)
    with pytest.raises(ModelError, match="no SAM in torch"):
        Sam.from_pretrained(nano_folder)


@pytest.mark.slow
def test_a_published_checkpoint_through_the_registry(tmp_path):
    """At full size: the light one of the registry, kept as a `.pth` under the published names."""
    from anymask.compat import build_sam_vit_t

    model = build_sam_vit_t()
    torch.save(model.state_dict(), tmp_path / "mobile_sam.pth")
    loaded = sam_model_registry["vit_t"](checkpoint=str(tmp_path / "mobile_sam.pth"))
    assert same_weights(model, loaded)
    assert loaded.image_encoder.img_size == 1024
    assert loaded.prompt_encoder.image_embedding_size == (64, 64)
