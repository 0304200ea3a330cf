"""What OpenVINO adds to the conformance suite: precisions, its compiled graphs on disk, its own format."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from exported_sam import change_manifest

from anymask.errors import MissingExtraError, ModelError, ModelFormatError, ParityError, WeightsError
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime import agreement as bounds
from anymask.runtime import openvino_export
from anymask.runtime.agreement import agreement, ask, trial_pixels, trial_prompts
from anymask.runtime.backend import Needed
from anymask.runtime.checks import low_res_size
from anymask.runtime.engine import engine_of
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend, open_core, runs_bf16
from anymask.runtime.openvino_export import convert_to_openvino

pytest.importorskip("openvino", reason="the openvino extra is not installed")


@pytest.fixture(scope="module")
def folder(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random SAM as ONNX."""
    from anymask.model.export.network import export_network

    path = tmp_path_factory.mktemp("onnx") / "sam"
    export_network(random_sam, TINY_TEST, path)
    return path


def test_full_precision_is_not_left_to_the_machine(folder: Path) -> None:
    """Processors with bfloat16 would use it unasked: the embedding must be that of float32."""
    backend = OpenVinoBackend(folder, threads=1)
    seen = agreement(ask(OnnxBackend(folder, threads=1)), ask(backend))
    assert seen.faults() == []
    assert seen.features < 1e-5
    assert str(engine_of(backend)) == "openvino fp32"
    compiled = backend._encoder._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_bfloat16_is_another_model_and_near(folder: Path) -> None:
    if not runs_bf16(open_core()):
        pytest.skip("this processor has no bfloat16 arithmetic")
    full, half = OpenVinoBackend(folder, 1), OpenVinoBackend(folder, 1, "bf16")
    assert full.spec.digest != half.spec.digest
    pixels = trial_pixels(full.spec)
    exact, rounded = (backend.encode(pixels)["embedding"] for backend in (full, half))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_rounding_leaves_out_no_prompt_that_promises_enough(
    folder: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every score that occurs, and a little beside it."""
    if precision == "bf16" and not runs_bf16(open_core()):
        pytest.skip("this processor has no bfloat16 arithmetic")
    if precision == "int8":
        monkeypatch.setitem(bounds.MEDIAN_IOU, "int8", 0.5)  # random weights: few masks have wide margins
        convert_to_openvino(folder, tmp_path / "int8", "int8", threads=1)
        folder = tmp_path / "int8"
    backend = OpenVinoBackend(folder, 1, precision)
    features = backend.encode(trial_pixels(backend.spec))
    *_, prompts = trial_prompts(backend.spec, (128, 128), low_res_size(backend.spec, features))
    best = backend.decode(features, prompts)[1][:, 1:].max(axis=1)
    for least in (best[:, None] + np.array([-0.003, -1e-5, 0, 1e-5, 0.003])).ravel():
        drawn = backend.decode_promising(features, prompts, Needed(float(least))).drawn
        assert set(np.flatnonzero(best > least)) <= set(drawn.tolist())
        at_most = max(1, (best > least - 0.03).sum())
        assert len(drawn) <= -(-at_most // 4) * 4  # in fours


def test_precisions_that_openvino_does_not_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="int8 is made by the export"):
        OpenVinoBackend(folder, 1, "int8")
    with pytest.raises(ModelError, match="fp32, bf16, int8"):
        OpenVinoBackend(folder, 1, "fp8")
    copy = Path(shutil.copytree(folder, tmp_path / "sam"))
    change_manifest(copy, lambda manifest: manifest.update(precision="int8"))
    with pytest.raises(ModelError, match="onnxruntime"):
        OpenVinoBackend(copy, 1)


def test_compiled_graphs_are_kept_and_damaged_ones_made_again(folder: Path, tmp_path: Path) -> None:
    pixels = trial_pixels(OnnxBackend(folder).spec)
    wanted = OpenVinoBackend(folder, 1, cache_dir=tmp_path).encode(pixels)["embedding"]
    (blob,) = (tmp_path / "openvino").iterdir()  # the decoder was not used
    whole = blob.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:60] + b"\0" + whole[61:], b"x" * 5000):
        blob.write_bytes(damaged)
        seen = OpenVinoBackend(folder, 1, cache_dir=tmp_path).encode(pixels)["embedding"]
        assert np.array_equal(seen, wanted)
        assert (
            abs(len(blob.read_bytes()) - len(whole)) < 5000
        )  # names in it are counted on from model to model
    kept = blob.read_bytes()
    backend = OpenVinoBackend(folder, 1, cache_dir=tmp_path)
    backend._encoder._compile = None  # type: ignore[method-assign,assignment]
    assert np.array_equal(backend.encode(pixels)["embedding"], wanted)
    assert blob.read_bytes() == kept
    OpenVinoBackend(folder, 2, cache_dir=tmp_path).encode(pixels)
    assert len(list((tmp_path / "openvino").iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino").write_text("a file")
    pixels = trial_pixels(OnnxBackend(folder).spec)
    assert OpenVinoBackend(folder, 1, cache_dir=tmp_path).encode(pixels)["embedding"].shape == (1, 32, 8, 8)


@pytest.mark.parametrize("model", ["sam", "nano"])
def test_its_own_format_answers_like_the_source(
    folder: Path, nano_folder: Path, tmp_path: Path, model: str
) -> None:
    source = folder if model == "sam" else nano_folder
    convert_to_openvino(source, tmp_path / "ir", threads=1)
    graphs = ["encoder", "image", "decoder"] if model == "sam" else ["encoder", "decoder"]
    files = {f"{graph}.{end}" for graph in graphs for end in ("xml", "bin")} | {"manifest.json"}
    assert {f.name for f in (tmp_path / "ir").iterdir()} == files
    backend = OpenVinoBackend(tmp_path / "ir", 1)
    reference = OnnxBackend(source, 1)
    assert backend.spec == reference.spec
    assert agreement(ask(reference), ask(backend)).faults() == []
    with pytest.raises(ModelFormatError, match="openvino"):
        OnnxBackend(tmp_path / "ir")
    whole = (tmp_path / "ir" / "encoder.bin").read_bytes()
    (tmp_path / "ir" / "encoder.bin").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="SHA-256"):
        OpenVinoBackend(tmp_path / "ir", 1)


def test_a_conversion_that_disagrees_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of one layer are changed on the way; the gate must see it."""
    import openvino

    save = openvino.save_model

    def spoil(model: openvino.Model, path: str, **options: bool) -> None:
        constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
        floats = [op for op in constants if op.get_element_type() == openvino.Type.f32]
        largest = max(floats, key=lambda op: op.data.size)
        changed = openvino.op.Constant(np.ascontiguousarray(largest.data * np.float32(1.02)))
        largest.output(0).replace(changed.output(0))
        save(model, path, **options)

    monkeypatch.setattr(openvino, "save_model", spoil)
    with pytest.raises(ParityError, match="was refused"):
        openvino_export.convert_to_openvino(folder, tmp_path / "ir", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_the_message_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"anymask\[openvino\]"):
        OpenVinoBackend(folder)


def test_the_manifest_says_what_was_measured(folder: Path, tmp_path: Path) -> None:
    seen = convert_to_openvino(folder, tmp_path / "ir", threads=1)
    manifest = json.loads((tmp_path / "ir" / "manifest.json").read_text())
    assert manifest["parity"]["openvino_fp32"]["logits"] == seen.logits
    assert manifest["precision"] == "fp32"
