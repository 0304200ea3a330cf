"""The engine is chosen by speed among those that agree, once per model and machine; checkpoints get graphs once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anymask.errors import ModelError, ParityError, WeightsError
from anymask.model.families import save_network
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime import choice, prepared
from anymask.runtime.backend import Features, FloatArray, PromptArrays
from anymask.runtime.choice import Choice, measure, open_folder
from anymask.runtime.engine import engine_of
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend
from anymask.runtime.registry import load_backend
from anymask.runtime.torch_backend import TorchBackend
from anymask.settings import Settings


class Other(FakeBackend):
    """An engine that answers a little or much otherwise."""

    def __init__(self, shift: float = 0.0, features: float = 0.0) -> None:
        super().__init__()
        self.shift, self.features = shift, features

    def encode(self, pixels: FloatArray) -> Features:
        return {name: array + np.float32(self.features) for name, array in super().encode(pixels).items()}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        logits, scores = super().decode(features, prompts)
        return logits + np.float32(self.shift), scores


def chosen(monkeypatch: pytest.MonkeyPatch, times: list[float], *others: Callable[[], Any]) -> Choice:
    """The choice when one trial after the other takes these seconds."""
    left = iter(times)
    real = choice.ask
    monkeypatch.setattr(
        choice,
        "ask",
        lambda backend: type(a := real(backend))(a.features, a.decoded, next(left), 0.0),
    )
    openers: dict[str, Callable[[], Any]] = {"onnx": FakeBackend}
    return measure(openers | {f"other{index}": opener for index, opener in enumerate(others)})


def test_the_fastest_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, [3.0, 2.0], Other).engine == "other0"


def test_the_default_when_it_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, [2.0, 3.0], Other).engine == "onnx"


@pytest.mark.parametrize("fault", [{"shift": 0.01}, {"features": 0.01}, {"shift": float("nan")}])
def test_a_faster_one_that_disagrees_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, fault: dict[str, float]
) -> None:
    seen = chosen(monkeypatch, [3.0, 1.0, 2.0], lambda: Other(**fault), Other)
    assert seen.engine == "other1"
    assert "differ" in seen.refused["other0"]


def test_one_that_cannot_be_opened_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> FakeBackend:
        raise ModelError("no such engine")

    assert chosen(monkeypatch, [3.0], broken).refused == {"other0": "no such engine"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A cache folder of its own."""
    return Settings(cache_dir=tmp_path / "cache", threads=1)


def test_small_models_stay_with_onnxruntime_untried(nano_folder: Path, settings: Settings) -> None:
    assert isinstance(open_folder(nano_folder, settings), OnnxBackend)
    assert not (settings.cache_dir / "engines").exists()


def test_a_choice_is_remembered_and_a_damaged_one_made_again(
    nano_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    monkeypatch.setattr(choice, "WORTH_BYTES", 0)
    with caplog.at_level(logging.WARNING, "anymask"):
        first = open_folder(nano_folder, settings)
        assert len(caplog.records) == 1
        (kept,) = (settings.cache_dir / "engines").iterdir()
        told = json.loads(kept.read_text())
        assert set(told["seconds"]) == {"onnx", "openvino"}
        assert told["refused"] == {}
        for engine, kind in (("onnx", OnnxBackend), ("openvino", OpenVinoBackend)):
            kept.write_text(json.dumps(told | {"engine": engine}))
            assert isinstance(open_folder(nano_folder, settings), kind)
        assert len(caplog.records) == 1
        for damaged in ("", "{", "[]", '{"engine": "tpu", "seconds": {}, "refused": {}}'):
            kept.write_text(damaged)
            open_folder(nano_folder, settings)
            assert json.loads(kept.read_text())["engine"] in ("onnx", "openvino")
        assert len(caplog.records) == 5
    assert first.spec.digest == OnnxBackend(nano_folder).spec.digest


def test_engines_can_be_forced(nano_folder: Path, settings: Settings) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    assert isinstance(load_backend(nano_folder, settings, "onnx"), OnnxBackend)
    assert isinstance(load_backend(nano_folder, settings, "openvino"), OpenVinoBackend)
    with pytest.raises(ModelError, match="fp32"):
        open_folder(nano_folder, Settings(cache_dir=settings.cache_dir, precision="bf16"), "onnx")


@pytest.fixture
def checkpoint(random_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights that are worth an export here."""
    monkeypatch.setattr(prepared, "WORTH_BYTES", 0)
    path = tmp_path / "tiny.safetensors"
    save_network(random_sam, TINY_TEST, path)
    return path


def test_a_checkpoint_gets_graphs_once(
    checkpoint: Path, settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, "anymask"):
        first = load_backend(checkpoint, settings)
        assert isinstance(first, OnnxBackend)
        assert [record.getMessage()[:30] for record in caplog.records] == ["anymask: preparing graphs of t"]
    monkeypatch.setattr(prepared, "export_checkpoint", None)
    again = load_backend(checkpoint, settings)
    forced = load_backend(checkpoint, settings, "torch")
    assert isinstance(forced, TorchBackend)
    assert first.spec.digest == again.spec.digest == forced.spec.digest
    assert str(engine_of(forced)) == "torch fp32"


def test_other_weights_get_graphs_of_their_own(checkpoint: Path, settings: Settings, random_sam: Sam) -> None:
    import copy

    import torch

    first = load_backend(checkpoint, settings)
    other = copy.deepcopy(random_sam)
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight += 1e-2
    save_network(other, TINY_TEST, checkpoint)
    assert load_backend(checkpoint, settings).spec.digest != first.spec.digest


def test_graphs_can_be_left_and_do_not_fit_every_disk(
    checkpoint: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    assert isinstance(load_backend(checkpoint, replace(settings, graphs=False)), TorchBackend)
    usage = type("Usage", (), {"free": checkpoint.stat().st_size})()
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING, "anymask"):
        assert isinstance(load_backend(checkpoint, settings), TorchBackend)
    assert "are free" in caplog.text
    with pytest.raises(ModelError, match="without graphs"):
        load_backend(checkpoint, settings, "onnx")


def test_what_was_refused_is_not_tried_again(
    checkpoint: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ParityError("they differ")

    monkeypatch.setattr(prepared, "export_checkpoint", refuse)
    with caplog.at_level(logging.WARNING, "anymask"):
        assert isinstance(load_backend(checkpoint, settings), TorchBackend)
        assert "they differ" in caplog.text
        told = len(caplog.records)
        assert isinstance(load_backend(checkpoint, settings), TorchBackend)
        assert len(caplog.records) == told


def test_a_damaged_checkpoint_is_said_to_be_so(checkpoint: Path, settings: Settings) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[-10] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(WeightsError):
        load_backend(checkpoint, settings)
    assert not list((settings.cache_dir / "exports").glob("*/manifest.json"))


def test_int8_is_made_on_demand_and_computes_in_int8(
    checkpoint: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    import onnx

    from anymask.runtime import agreement as bounds

    monkeypatch.setitem(bounds.MEDIAN_IOU, "int8", 0.5)  # random weights: few masks have wide margins
    backend = load_backend(checkpoint, replace(settings, precision="int8"), "onnx")
    assert str(engine_of(backend)) == "onnxruntime int8"
    (folder,) = (settings.cache_dir / "exports").glob("*-int8")
    kinds = [node.op_type for node in onnx.load(str(folder / "encoder.onnx")).graph.node]
    assert kinds.count("MatMulInteger") >= 4 * TINY_TEST.depth
    assert "MatMulInteger" not in [n.op_type for n in onnx.load(str(folder / "decoder.onnx")).graph.node]
    full = load_backend(checkpoint, settings)
    assert full.spec.digest != backend.spec.digest
    pixels = bounds.trial_pixels(full.spec)
    exact, rounded = (b.encode(pixels)["embedding"] for b in (full, backend))
    assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.2


def test_int8_runs_in_openvino_where_that_is_installed(
    checkpoint: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from anymask.runtime import agreement as bounds

    monkeypatch.setitem(bounds.MEDIAN_IOU, "int8", 0.5)
    monkeypatch.setattr(prepared, "installed", lambda name: name in ("torch", "openvino"))
    wanted = replace(settings, precision="int8")
    openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed") and load_backend(
        checkpoint, wanted
    )
    assert str(engine_of(openvino)) == "openvino int8"
    monkeypatch.setattr(prepared, "installed", lambda name: name == "torch")
    other = load_backend(checkpoint, wanted)
    assert str(engine_of(other)) == "onnxruntime int8"
    assert len({openvino.spec.digest, other.spec.digest, load_backend(checkpoint, settings).spec.digest}) == 3


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_int8_that_strays_is_refused(
    checkpoint: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    from dataclasses import replace

    from anymask.runtime import agreement as bounds

    monkeypatch.setitem(bounds.MEDIAN_IOU, "int8", 1.01)
    with pytest.raises(ParityError, match="int8 was refused"):
        load_backend(checkpoint, replace(settings, precision="int8"), engine)
    assert not list((settings.cache_dir / "exports").glob("*-int8*"))
