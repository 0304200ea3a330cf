"""Any network becomes graphs that answer like it, with the weights inside or beside them, or nothing is written."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from seeded_networks import seeded_weights

from anymask.errors import OutputError, ParityError, PromptError
from anymask.model.export import network as export
from anymask.model.families import build_network, published_config
from anymask.model.hq.network import HqSamConfig
from anymask.model.inference import InferenceBlock, for_inference, network_digest
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.image_encoder import Block
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime import agreement as bounds
from anymask.runtime.agreement import agreement, ask
from anymask.runtime.backend import PromptArrays
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend
from anymask.runtime.openvino_export import convert_to_openvino
from anymask.runtime.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def folders(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network with its weights inside and outside."""
    made = {}
    for kind, limit in (("inside", 1 << 30), ("outside", 0)):
        made[kind] = tmp_path_factory.mktemp(kind) / "sam"
        export.export_network(random_sam, TINY_TEST, made[kind], inside_bytes=limit)
    return made


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_files_and_manifest_belong_together(folders: dict[str, Path], random_sam: Sam) -> None:
    for kind, names in (
        ("inside", {"encoder.onnx", "image.onnx", "decoder.onnx"}),
        ("outside", {"encoder.onnx", "image.onnx", "decoder.onnx", "encoder.weights", "decoder.weights"}),
    ):
        manifest = json.loads((folders[kind] / "manifest.json").read_text())
        assert set(manifest["files"]) == names
        for name, facts in manifest["files"].items():
            data = (folders[kind] / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"])
        assert manifest["network_sha256"] == network_digest(random_sam, TINY_TEST)
        assert manifest["pad"] == "square"
        assert manifest["parity"]["logits"] <= 1e-3


def test_graphs_pass_the_checker_and_keep_little_when_weights_are_outside(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        for name in ("encoder.onnx", "image.onnx", "decoder.onnx"):
            onnx.checker.check_model(str(folder / name), full_check=True)
    numbers = sum(p.numel() for p in Block(24, 2, 96, 3, 8).parameters())
    assert (folders["outside"] / "encoder.weights").stat().st_size > 4 * numbers


def test_any_tool_can_open_the_outside_weights(folders: dict[str, Path], random_sam: Sam) -> None:
    """onnxruntime, given the path, follows the standard's external data to the same answer."""
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = random_sam.encode_features(pixels)["embedding"].numpy()
    for folder in folders.values():
        seen = session(folder / "encoder.onnx").run(["embedding"], {"pixels": pixels.numpy()})[0]
        assert np.abs(seen - wanted).max() < 1e-5  # measured 1e-6; two images: the axis is free


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
def test_both_decoders_take_any_prompts(
    random_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(export, "fast_decoder", lambda network: None)
    export.write_network_graphs(random_sam, 128, tmp_path)
    run = session(tmp_path / "decoder.onnx")
    assert (tmp_path / "image.onnx").exists() == fast
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(1, 32, 8, 8, generator=generator)
    image = {"embedding": embedding.numpy()}
    if fast:
        once = session(tmp_path / "image.onnx")
        image = dict(zip([out.name for out in once.get_outputs()], once.run(None, image), strict=True))
    for count, slots, fed in ((1, 1, 0), (1, 5, 1), (3, 2, 0), (17, 3, 5)):
        points = torch.rand(count, slots, 2, generator=generator) * 128
        labels = torch.randint(-1, 2, (count, slots), generator=generator).float()
        masks = torch.randn(count, 1, 32, 32, generator=generator)
        has_mask = (torch.arange(count) < fed).float()
        with torch.no_grad():
            prompts = PromptTensors.from_padded(points, labels, masks, has_mask)
            logits, scores = random_sam.decode_features({"embedding": embedding}, prompts)
        inputs = (points, labels, masks, has_mask)
        names = ("points", "labels", "mask_input", "has_mask")
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        if fast:
            given["least_iou"] = np.full(1, -np.inf, dtype=np.float32)
            given["visible"] = np.array([8, 8], dtype=np.int64)
            given["multiple"] = np.ones(1, dtype=np.int64)
        seen = run.run(None, image | given)
        assert np.abs(seen[0] - logits.numpy()).max() < 1e-4
        assert np.abs(seen[1] - scores.numpy()).max() < 1e-4


def test_padded_prompts_are_those_with_branches(random_sam: Sam) -> None:
    """Every pattern of labels of three slots."""
    labels = torch.cartesian_prod(*[torch.arange(-1, 4)] * 3).float()
    points = torch.rand(*labels.shape, 2, generator=torch.Generator().manual_seed(0)) * 128
    embedding = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(len(labels), 1, 32, 32)
    with torch.no_grad():
        wanted = random_sam.decode_features(
            {"embedding": embedding}, PromptTensors.from_padded(points, labels)
        )
        prompts = export.padded_prompts(points, labels, masks, torch.zeros(len(labels)))
        seen = random_sam.decode_features({"embedding": embedding}, prompts)
    for one, other in zip(seen, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_network_that_answers_otherwise_is_refused(
    folders: dict[str, Path], random_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(random_sam)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight += 0.05
        other.image_encoder.blocks[1].attn.rel_pos_h[0] += 0.5
    faults = export.network_parity(other, 128, folders["inside"]).broken_bounds()
    assert any("features" in fault for fault in faults)
    assert any("scores" in fault for fault in faults)
    monkeypatch.setattr(export, "for_inference", lambda _: for_inference(other))
    with pytest.raises(ParityError, match="features differ"):
        export.export_network(random_sam, TINY_TEST, tmp_path / "refused")
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_do_not_run_are_a_refusal(
    random_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published blocks cannot be traced: what comes out fails in onnxruntime, or disagrees."""
    monkeypatch.setattr(export, "for_inference", lambda network: network)
    with pytest.raises(ParityError):
        export.export_network(random_sam, TINY_TEST, tmp_path / "refused")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(random_sam: Sam, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export.export_network(random_sam, TINY_TEST, tmp_path / "file" / "model")


def test_an_older_export_is_replaced(random_sam: Sam, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("old")
    (tmp_path / "encoder.onnx").write_text("old")
    export.export_network(random_sam, TINY_TEST, tmp_path, name="new")
    assert json.loads((tmp_path / "manifest.json").read_text())["name"] == "new"


def test_the_form_for_inference_shares_its_weights_and_leaves_the_network_alone(random_sam: Sam) -> None:
    running = for_inference(random_sam)
    ours = {p.data_ptr() for p in random_sam.parameters()}
    assert all(p.data_ptr() in ours for p in running.parameters())
    assert sum(isinstance(m, InferenceBlock) for m in running.modules()) == TINY_TEST.depth
    assert not any(isinstance(m, InferenceBlock) for m in random_sam.modules())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("window", [0, 3, 4])
@pytest.mark.parametrize("traced", [False, True])
def test_inference_blocks_equal_the_published_ones(window: int, traced: bool) -> None:
    """Windows that do and do not divide the grid; the form that torch runs and the exported one."""
    generator = torch.Generator().manual_seed(3)
    block = Block(24, 2, 48, window, 8).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    x = torch.randn(2, 8, 8, 24, generator=generator)
    form = InferenceBlock(block)
    with torch.no_grad():
        wanted = block(x)
        seen = torch.jit.trace(form, (x,), check_trace=False)(x) if traced else form(x)
    assert (seen - wanted).abs().max() < 1e-5
    assert wanted.abs().max() > 1


def small_configs() -> dict[str, Any]:
    """A small network of each other kind: batch norms and attention biases, two features, no mask prompts."""
    tiny_vit = {
        "image_size": 128,
        "embed_dims": (8, 16, 24, 32),
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 3, 4),
        "window_sizes": (7, 4, 4, 4),
        "prompt_dim": 32,
        "decoder_mlp_dim": 32,
    }
    efficient = {"image_size": 128, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return {
        "mobile_sam": dataclasses.replace(published_config("mobile_sam"), **tiny_vit),
        "hq_sam_tiny": dataclasses.replace(published_config("hq_vit_tiny"), **tiny_vit),
        "hq_sam": HqSamConfig(**dataclasses.asdict(TINY_TEST)),
        "efficient_sam": dataclasses.replace(published_config("efficient_sam_ti"), **efficient),
    }


@pytest.mark.parametrize("family", sorted(small_configs()))
def test_other_families_go_the_same_way(family: str, tmp_path: Path) -> None:
    """Features keep their names, and a network without mask prompts has no inputs for them."""
    config = small_configs()[family]
    network = build_network(config)
    network.load_state_dict(seeded_weights(network.state_dict(), 1))
    network.eval()
    parity = export.export_network(network, config, tmp_path / "model")
    assert parity.broken_bounds() == []
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["config"]["family"] == family
    assert tuple(manifest["features"]) == network.feature_names
    assert manifest.get("screens", False) is ("parts" in manifest)
    assert manifest["mask_prompts"] is (family != "efficient_sam")
    for backend in (OnnxBackend(tmp_path / "model", 1), OpenVinoBackend(tmp_path / "model", 1)):
        assert agreement(ask(TorchBackend(network, config)), ask(backend)).faults() == []
        pixels = np.zeros((1, 3, config.image_size, config.image_size), np.float32)
        low_res = config.image_size // 4
        fed = PromptArrays(
            np.zeros((1, 1, 2), np.float32),
            np.ones((1, 1), np.float32),
            np.ones((1, 1, low_res, low_res), np.float32),
            np.ones(1, np.float32),
        )
        features = backend.encode(pixels)
        if family == "efficient_sam":
            with pytest.raises(PromptError, match="no mask prompts"):
                backend.decode(features, fed)
        else:
            backend.decode(features, fed)


@pytest.mark.parametrize("family", sorted(small_configs()))
def test_other_families_have_products_for_int8(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_configs()[family]
    network = build_network(config)
    network.load_state_dict(seeded_weights(network.state_dict(), 1))
    network.eval()
    export.export_network(network, config, tmp_path / "model")
    monkeypatch.setitem(bounds.MEDIAN_IOU, "int8", 0.5)  # random weights: few masks have wide margins
    convert_to_openvino(tmp_path / "model", tmp_path / "int8", "int8", 1)
    exact, rounded = OpenVinoBackend(tmp_path / "model", 1), OpenVinoBackend(tmp_path / "int8", 1)
    pixels = bounds.trial_pixels(exact.spec)
    for name, wanted in exact.encode(pixels).items():
        seen = rounded.encode(pixels)[name]
        assert 1e-4 < np.linalg.norm(seen - wanted) / np.linalg.norm(wanted) < 0.05, name
