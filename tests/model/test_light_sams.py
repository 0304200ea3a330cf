"""From keys to the light SAMs and back: families, names, sizes, files and engines."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from seeded_networks import seeded_picture, seeded_weights  # noqa: E402

from anymask.compat.live_backend import LiveBackend  # noqa: E402
from anymask.compat.modeling import Sam  # noqa: E402
from anymask.errors import ModelError, ModelFormatError  # noqa: E402
from anymask.masks.scores import stability_score  # noqa: E402
from anymask.model.checkpoints.convert import load_checkpoint  # noqa: E402
from anymask.model.families import (  # noqa: E402
    build_network,
    family_of,
    infer_config,
    load_network,
    published_config,
    save_network,
)
from anymask.model.light.mobile_sam import VIT_T, MobileSamConfig  # noqa: E402
from anymask.model.light.repvit_sam import (  # noqa: E402
    EDGE_SAM_M1,
    REPVIT_SAM_M2_3,
    EdgeSamConfig,
    RepVitSamConfig,
)
from anymask.model.network import NetworkConfig, PromptableNetwork  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.manifest import read_manifest  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402

SMALL_DECODER = {
    "image_size": 64,
    "prompt_dim": 32,
    "decoder_heads": 4,
    "decoder_mlp_dim": 48,
    "iou_head_hidden_dim": 20,
}
SMALL = (
    MobileSamConfig(
        name="small_mobile",
        embed_dims=(8, 12, 16, 24),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 2, 3),
        window_sizes=(3, 3, 4, 3),
        **SMALL_DECODER,
    ),
    EdgeSamConfig(name="small_edge", channels=(8, 16, 24, 32), depths=(3, 1, 2, 2), **SMALL_DECODER),
    RepVitSamConfig(name="small_repvit", channels=(8, 16, 24, 32), depths=(3, 1, 2, 2), **SMALL_DECODER),
)
PUBLISHED = {
    "mobile_sam": VIT_T,
    "vit_t": VIT_T,
    "edge_sam": EDGE_SAM_M1,
    "edge_sam_3x": EDGE_SAM_M1,
    "repvit_sam": REPVIT_SAM_M2_3,
}
EACH = (VIT_T, EDGE_SAM_M1, REPVIT_SAM_M2_3)


def seeded(config):
    network = build_network(config)
    network.load_state_dict(seeded_weights(network.state_dict(), seed=1))
    return network.eval()


def on_meta(config):
    with torch.device("meta"):
        return build_network(config).state_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names(name):
    assert published_config(name) == PUBLISHED[name]
    assert family_of(PUBLISHED[name]).name == PUBLISHED[name].family


@pytest.mark.parametrize("config", EACH, ids=lambda config: config.name)
def test_keys_tell_the_network(config):
    assert infer_config(on_meta(config)) == config
    assert isinstance(config, NetworkConfig)


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
def test_other_sizes_are_refused_with_what_they_are(config):
    known = next(iter(family_of(config).published))
    with pytest.raises(ModelFormatError, match=rf"no published .*24.*\({known}\)"):
        infer_config(on_meta(config))


@pytest.mark.parametrize(
    "key", ["image_encoder.patch_embed.seq.0.c.weight", "image_encoder.features.0.0.c.weight"]
)
def test_a_lonely_key_is_no_network(key):
    with pytest.raises(ModelFormatError, match="no published"):
        infer_config({key: torch.zeros(1)})


@pytest.mark.parametrize("config", EACH, ids=lambda config: config.name)
def test_keys_of_a_network_with_single_numbers_are_no_network(config):
    with pytest.raises(ModelFormatError, match="no published"):
        infer_config(dict.fromkeys(on_meta(config), torch.zeros(())))


@pytest.mark.parametrize("config", SMALL + EACH, ids=lambda config: config.name)
def test_sizes_survive_json(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (SMALL[0], {"image_size": 80}, "multiple of 32"),
        (SMALL[0], {"patch_size": 8}, "patch_size"),
        (SMALL[0], {"num_heads": (1, 2, 3, 3)}, "multiples of num_heads"),
        (SMALL[0], {"depths": (1, 1, 1)}, "4 entries"),
        (SMALL[0], {"window_sizes": (3, 3, 0, 3)}, "positive"),
        (SMALL[0], {"decoder_heads": 3}, "decoder_heads"),
        (SMALL[1], {"channels": (8, 16, 24)}, "4 entries"),
        (SMALL[1], {"channels": (8, 16, 24, 31)}, "even"),
        (SMALL[2], {"depths": (3, 0, 1, 1)}, "depths must be positive"),
        (SMALL[2], {"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config, change, message):
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(config, **change)
    with pytest.raises(ModelError):
        type(config).from_dict({**config.to_dict(), "colour": 3})
    with pytest.raises(ModelError):
        type(config).from_dict({**config.to_dict(), "depths": "deep"})


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
@torch.no_grad()
def test_a_file_brings_the_same_network_back(config, tmp_path):
    network = seeded(config)
    assert isinstance(network, PromptableNetwork)
    save_network(network, config, tmp_path / "ours.safetensors")
    torch.save({"model": network.state_dict()}, tmp_path / "theirs.pth")
    pixels = seeded_picture(2, 48, 64)
    embedding = network.encode(pixels)
    prompts = PromptTensors.of(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    for found, sizes in (
        load_network(tmp_path / "ours.safetensors"),
        load_checkpoint(tmp_path / "theirs.pth", config),
    ):
        assert sizes == config
        assert not found.training
        assert torch.equal(found.encode(pixels), embedding)
        logits, scores = found.decode_features({"embedding": embedding}, prompts)
        assert logits.shape == (1, 4, 16, 16)
        assert scores.shape == (1, 4)


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
def test_the_engine_runs_it_fused_and_answers_as_published(config):
    """From a picture to masks, in the form for inference against the published one."""
    picture = seeded_picture(3, 90, 120)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    fast, plain = (
        Segmenter(TorchBackend(seeded(config), config, as_published=published)) for published in (False, True)
    )
    for ours, theirs in zip(
        fast.segment(picture, points=[(60, 40)], labels=[1]),
        plain.segment(picture, points=[(60, 40)], labels=[1]),
        strict=True,
    ):
        assert abs(ours.score - theirs.score) <= 1e-4
        assert np.abs(ours.low_res_logits - theirs.low_res_logits).max() <= 1e-3
        assert np.abs(ours.low_res_logits).max() > 1


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
def test_only_edge_sam_ranks_by_stability(config):
    """Its candidates, in torch and in everything mode over a network of `anymask.compat`."""
    expected = "stability" if config.family == "edge_sam" else "predicted_iou"
    network = seeded(config)
    backend = TorchBackend(network, config)
    assert backend.spec.ranking == LiveBackend(Sam.of(network, config)).spec.ranking == expected
    picture = seeded_picture(3, 90, 120)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    segmenter = Segmenter(backend)
    masks = segmenter.segment(picture, points=[(60, 40)], labels=[1])
    stability = [float(stability_score(mask.low_res_logits)) for mask in masks]
    assert (stability == pytest.approx(masks.scores.tolist())) == (expected == "stability")


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
@torch.no_grad()
def test_its_graph_gives_the_same_embedding(config, tmp_path):
    """Maps that the windows do not divide, and the bicubic doubling, in onnxruntime too."""
    pytest.importorskip("onnx")
    import onnxruntime

    from anymask.model.export.network import export_network

    network = seeded(config)
    export_network(network, config, tmp_path / "graphs")
    assert read_manifest(tmp_path / "graphs").spec.ranking == config.ranking
    session = onnxruntime.InferenceSession(
        str(tmp_path / "graphs" / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    pixels = network.preprocess(seeded_picture(4, 64, 40))
    seen = session.run(["embedding"], {session.get_inputs()[0].name: pixels.numpy()})[0]
    assert np.abs(seen - network.encode_features(pixels)["embedding"].numpy()).max() <= 1e-4
