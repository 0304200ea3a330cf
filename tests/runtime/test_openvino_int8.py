"""An encoder whose products are in int8: near the one in float32, also where a few channels outgrow all others."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_sam import change_manifest

from anymask.errors import ModelError
from anymask.image import read_image
from anymask.model.export.network import export_network
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime import agreement, choice, openvino_export, openvino_int8
from anymask.runtime.agreement import trial_pixels
from anymask.runtime.choice import open_folder
from anymask.runtime.engine import engine_of
from anymask.runtime.manifest import read_manifest
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend, open_core
from anymask.runtime.openvino_export import convert_to_openvino
from anymask.runtime.openvino_int8 import quantise_products
from anymask.settings import Settings

openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")


@pytest.fixture(autouse=True)
def any_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: few masks have wide margins."""
    monkeypatch.setitem(agreement.MEDIAN_IOU, "int8", 0.5)


def exported(network: Sam, folder: Path) -> Path:
    """A SAM as ONNX."""
    export_network(network, TINY_TEST, folder)
    return folder


def error_of(int8: Path, source: Path) -> float:
    """Of the embedding, relative."""
    reference = OnnxBackend(source, 1)
    pixels = trial_pixels(reference.spec)
    exact, seen = (backend.encode(pixels)["embedding"] for backend in (reference, OpenVinoBackend(int8, 1)))
    return float(np.linalg.norm(seen - exact) / np.linalg.norm(exact))


def with_outliers(network: Sam, channels: int, factor: float) -> Sam:
    """Some channels of every first norm so many times larger, what is multiplied with them as many times smaller."""
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for block in changed.image_encoder.blocks:
            for norm, product in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.lin1)):
                norm.weight[:channels] *= factor
                norm.bias[:channels] *= factor
                product.weight[:, :channels] /= factor
    return changed


def test_its_products_are_in_int8_and_its_files_smaller(random_sam: Sam, tmp_path: Path) -> None:
    source = exported(random_sam, tmp_path / "onnx")
    convert_to_openvino(source, tmp_path / "fp32", threads=1)
    convert_to_openvino(source, tmp_path / "int8", "int8", threads=1)
    backend = OpenVinoBackend(tmp_path / "int8", 1)
    assert str(engine_of(backend)) == "openvino int8"
    sizes = [(tmp_path / name / "encoder.bin").stat().st_size for name in ("fp32", "int8")]
    products = sum(
        layer.weight.numel()
        for block in random_sam.image_encoder.blocks
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2)
    )
    assert sizes[0] - sizes[1] > 2 * products  # three bytes of four, less the scales
    assert (tmp_path / "fp32" / "decoder.bin").read_bytes() == (
        tmp_path / "int8" / "decoder.bin"
    ).read_bytes()
    backend.encode(trial_pixels(backend.spec))
    kinds = [
        str(node.get_rt_info()["primitiveType"].astype(str))
        for node in backend._encoder._compiled.get_runtime_model().get_ops()
    ]
    assert sum("i8" in kind or "u8" in kind for kind in kinds) >= 4 * TINY_TEST.depth
    assert 1e-4 < error_of(tmp_path / "int8", source) < 0.03


def test_channels_that_outgrow_the_others_do_not_take_the_bits(random_sam: Sam, tmp_path: Path) -> None:
    """The function is the same; one scale for all channels would leave the small ones with three of 255 levels."""
    source = exported(with_outliers(random_sam, 2, 100.0), tmp_path / "onnx")
    convert_to_openvino(source, tmp_path / "int8", "int8", threads=1)
    assert error_of(tmp_path / "int8", source) < 0.03


def test_weights_of_seven_bits_where_sums_would_overflow(
    random_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = exported(random_sam, tmp_path / "onnx")
    for bits in (7, 8):
        for module in (openvino_int8, openvino_export):
            monkeypatch.setattr(module, "int8_weight_bits", lambda bits=bits: bits)
        convert_to_openvino(source, tmp_path / str(bits), "int8", threads=1)
        model = open_core().read_model(tmp_path / str(bits) / "encoder.xml")
        kept = [node.data for node in model.get_ops() if node.get_type_name() == "Constant"]
        whole = [data for data in kept if data.dtype == np.int8 and data.ndim == 2]
        assert max(int(np.abs(data.astype(int)).max()) for data in whole) == 2 ** (bits - 1) - 1
        assert read_manifest(tmp_path / str(bits)).weight_bits == bits
    assert error_of(tmp_path / "7", source) < 0.03

    monkeypatch.setattr(choice, "int8_weight_bits", lambda: 7)
    for bits, warnings in ((7, 0), (8, 1)):
        caplog.clear()
        open_folder(tmp_path / str(bits), Settings(precision="int8", threads=1, cache_dir=tmp_path / "cache"))
        assert sum("another processor" in record.message for record in caplog.records) == warnings


def test_scales_come_from_the_pictures_given(random_sam: Sam, tmp_path: Path) -> None:
    source = exported(random_sam, tmp_path / "onnx")
    rng = np.random.default_rng(0)
    noise = [read_image(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]
    convert_to_openvino(source, tmp_path / "drawn", "int8", threads=1)
    convert_to_openvino(source, tmp_path / "noise", "int8", threads=1, pictures=noise)
    digests = {OpenVinoBackend(tmp_path / name, 1).spec.digest for name in ("drawn", "noise")}
    assert len(digests | {OnnxBackend(source, 1).spec.digest}) == 3, "their embeddings must not be mixed"


def test_it_cannot_be_run_as_another_precision(random_sam: Sam, tmp_path: Path) -> None:
    source = exported(random_sam, tmp_path / "onnx")
    convert_to_openvino(source, tmp_path / "int8", "int8", threads=1)
    for precision in ("fp32", "bf16"):
        with pytest.raises(ModelError, match="exported in int8"):
            OpenVinoBackend(tmp_path / "int8", 1, precision)
    change_manifest(tmp_path / "int8", lambda manifest: manifest.update(precision="fp32"))
    with pytest.raises(ModelError, match="exported in fp32"):
        OpenVinoBackend(tmp_path / "int8", 1, "int8")


def test_what_has_no_products_or_no_numbers() -> None:
    from openvino import opset13 as ops

    core = open_core()
    pixels = np.ones((1, 3, 32, 32), dtype=np.float32)
    given = ops.parameter([1, 3, 32, 32], np.float32)
    plain = openvino.Model([ops.relu(given)], [given], "plain")
    with pytest.raises(ModelError, match="no product"):
        quantise_products(core, plain, [pixels])

    weights = np.full((32, 128), np.nan, dtype=np.float32)
    given = ops.parameter([1, 3, 32, 32], np.float32)
    first = ops.matmul(given, ops.constant(weights), False, False)
    second = ops.matmul(first, ops.constant(np.ones((128, 64), dtype=np.float32)), False, False)
    damaged = openvino.Model([second], [given], "damaged")
    with pytest.raises(ModelError, match="NaN"):
        quantise_products(core, damaged, [pixels])


def test_silent_channels_and_outputs_stay_silent() -> None:
    from openvino import opset13 as ops

    core = open_core()
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 128)).astype(np.float32)
    rows[:, :3] = 0
    for turned in (False, True):
        weights = rng.normal(size=(128, 64)).astype(np.float32)
        weights[3:6] = 0
        weights[:, 7] = 0
        given = ops.parameter([-1, 128], np.float32)
        constant = ops.constant(np.ascontiguousarray(weights.T if turned else weights))
        model = openvino.Model([ops.matmul(given, constant, False, turned)], [given], "one")
        assert quantise_products(core, model, [rows], threads=1) == 1
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        seen = compiled([rows])[0]
        assert np.abs(seen[:, 7]).max() == 0
        exact = rows @ weights
        assert np.linalg.norm(seen - exact) / np.linalg.norm(exact) < 0.02
