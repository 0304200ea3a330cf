"""The export's parity gate opens for equal graphs and stays shut for others."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_nano import seeded_nano

from anymask.errors import ParityError
from anymask.model.export import nano as export
from anymask.model.export import parity
from anymask.model.export.half_storage import store_half
from anymask.model.nano.network import Nano

GRAPHS = ("encoder.onnx", "decoder.onnx")


@pytest.fixture(scope="module")
def model() -> Nano:
    """The small network, this module's own."""
    return seeded_nano()


@pytest.fixture(scope="module")
def folder(model: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported network."""
    path = tmp_path_factory.mktemp("export")
    export.export_nano(model, path, "small")
    return path


def test_manifest_describes_the_files(folder: Path) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert manifest["pad"] == 32
    assert manifest["parity"]["logits"] <= 1e-3


def test_graphs_have_no_external_data_and_pass_the_checker(folder: Path) -> None:
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(str(folder / name), load_external_data=False)
        onnx.checker.check_model(graph, full_check=True)
        assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in graph.graph.initializer)


def test_another_networks_graph_is_refused(model: Nano, folder: Path, tmp_path: Path) -> None:
    """A small perturbation of one decoder layer must show in the measured parity."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.mask_decoder.to4.weight += 0.01 * torch.randn_like(other.mask_decoder.to4.weight)
    encoder, decoder = (folder / "encoder.onnx").read_bytes(), (folder / "decoder.onnx").read_bytes()
    assert export.check_parity(model, encoder, decoder).broken_bounds() == []
    faults = export.check_parity(other, encoder, decoder).broken_bounds()
    assert any("logits" in fault for fault in faults)


def test_a_refused_export_writes_nothing(
    model: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "check_parity", lambda *_: parity.Parity(0.0, 0.5, 0.0, 1.0))
    with pytest.raises(ParityError, match="logits differ"):
        export.export_nano(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.fixture(scope="module")
def half_folder(model: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with its weights stored in half precision."""
    path = tmp_path_factory.mktemp("half")
    export.export_nano(model, path, "small", half=True)
    return path


def test_half_precision_halves_the_files_and_keeps_the_masks(
    model: Nano, folder: Path, half_folder: Path
) -> None:
    whole, half = (sum((at / name).stat().st_size for name in GRAPHS) for at in (folder, half_folder))
    values = sum(p.numel() for p in model.parameters())
    assert whole - half > 0.8 * 2 * values  # two of four bytes of nearly every parameter
    encoder, decoder = ((half_folder / name).read_bytes() for name in GRAPHS)
    seen = export.check_parity(model, encoder, decoder)
    assert seen.broken_bounds(parity.HALF_WEIGHTS) == []
    assert seen.broken_bounds()  # rounding shows, so the looser bounds are what let it pass
    assert json.loads((half_folder / "manifest.json").read_text())["storage"]["weights"] == "float16"


def test_half_precision_is_storage_alone(folder: Path, half_folder: Path) -> None:
    """Every stored value is the nearest half of the original, and every operator goes on in float32."""
    for name in GRAPHS:
        whole, half = (onnx.load(str(at / name)) for at in (folder, half_folder))
        onnx.checker.check_model(half, full_check=True)
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in half.graph.initializer}
        casts = [n for n in half.graph.node if n.name.endswith(".half.cast")]
        assert len(half.graph.node) == len(whole.graph.node) + len(casts)
        assert casts
        for tensor in whole.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            kept = stored.get(tensor.name)
            if kept is None:
                kept = stored[f"{tensor.name}.half"]
                assert (kept == values.astype(kept.dtype)).all()
            else:
                assert (kept == values).all()


def test_values_beyond_half_precision_stay() -> None:
    values = np.full(1000, 7e4, np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])],
        "large",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1000])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    model = onnx.helper.make_model(graph)
    assert store_half(model.SerializeToString()) == model.SerializeToString()


def test_suite_holds_the_awkward_prompts() -> None:
    labels = [prompts[1] for prompts in parity.prompt_suite(64, 96)]
    box_only = [x for x in labels if (x == 2).any() and not ((x == 0) | (x == 1) | (x == -1)).any()]
    padded = [x for x in labels if (x == -1).any() and (x >= 0).any()]
    nothing_but_a_mask = [x for x in labels if (x == -1).all()]
    assert box_only
    assert padded
    assert nothing_but_a_mask
