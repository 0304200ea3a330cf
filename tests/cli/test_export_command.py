"""`anymask export`: files that answer like the model, or one sentence and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import onnxruntime
import torch

from anymask.cli.main import main
from anymask.model.families import save_network
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.runtime.manifest import read_manifest
from anymask.runtime.onnx_backend import OnnxBackend

SIDE = TINY_TEST.image_size


@pytest.fixture(scope="module")
def checkpoint(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random SAM in one file."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(random_sam, TINY_TEST, path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "cache"))


def test_onnx_and_what_is_said(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["files"]) == {"encoder.onnx", "image.onnx", "decoder.onnx", "manifest.json"}
    assert told["agreement"]["logits"] <= 1e-3
    assert read_manifest(tmp_path / "model").spec.name == "tiny"
    OnnxBackend(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino(checkpoint: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    from anymask.runtime import agreement
    from anymask.runtime.openvino_backend import OpenVinoBackend, open_core, runs_bf16

    if precision == "bf16" and not runs_bf16(open_core()):
        pytest.skip("this processor has no bfloat16 arithmetic")
    if precision != "fp32":
        monkeypatch.setitem(
            agreement.MEDIAN_IOU, precision, 0.9
        )  # random weights: few masks have wide margins
    arguments = ["export", str(checkpoint), "--to", "openvino", "--precision", precision]
    assert main([*arguments, "--out", str(tmp_path / "model")]) == 0
    assert OpenVinoBackend(tmp_path / "model", 1).engine.precision == precision


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tflite"], "onnx, openvino"),
        (["--precision", "fp8"], "fp32, bf16, int8"),
        (["--precision", "bf16"], "--to openvino"),
        (["--precision", "int8", "--calibrate", "photo.jpg"], "--to openvino --precision int8"),
        (["--published-decoder", "--to", "openvino"], "leave --to"),
    ],
)
def test_what_cannot_be_had(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "model"), *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_pictures_for_int8_are_looked_at_before_anything_is_made(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anymask import limits
    from anymask.cli import export as command

    monkeypatch.setattr(command, "_from_checkpoint", None)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    arguments = [
        "export",
        str(checkpoint),
        "--out",
        str(tmp_path / "model"),
        "--to",
        "openvino",
        "--precision",
        "int8",
    ]
    for pictures, status, words in (
        (bad, 3, "bad.jpg"),
        (tmp_path / "no.jpg", 7, "no.jpg"),
        (tmp_path, 3, "bad"),
    ):
        assert main([*arguments, "--calibrate", str(pictures)]) == status
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    monkeypatch.setattr(limits, "MAX_CALIBRATION_PICTURES", 0)
    assert main([*arguments, "--calibrate", str(bad)]) == 8
    assert "over the limit of 0" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_refusal_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    from anymask.model.export import network as export_network
    from anymask.model.inference import for_inference

    def other(network: Sam) -> Any:
        changed = copy.deepcopy(network)
        with torch.no_grad():
            changed.mask_decoder.iou_token.weight += 0.1
        return for_inference(changed)

    monkeypatch.setattr(export_network, "for_inference", other)
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "model")]) == 10
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "refused" in said
    assert not (tmp_path / "model").exists()


def test_graphs_are_not_exported_again(
    nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(nano_folder), "--out", str(tmp_path / "model")]) == 9
    assert "as graphs already" in capsys.readouterr().err


def test_damaged_weights(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Path(shutil.copy(checkpoint, tmp_path / "bad.safetensors"))
    data = bytearray(bad.read_bytes())
    data[-5] ^= 4
    bad.write_bytes(data)
    assert main(["export", str(bad), "--out", str(tmp_path / "model")]) == 9
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def published(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The decoder under the published contract, in onnxruntime."""
    folder = tmp_path_factory.mktemp("published")
    assert main(["export", str(checkpoint), "--out", str(folder), "--published-decoder"]) == 0
    assert [path.name for path in folder.iterdir()] == ["decoder.onnx"]
    return onnxruntime.InferenceSession(str(folder / "decoder.onnx"), providers=["CPUExecutionProvider"])


def test_the_published_contract_to_the_letter(published: Any) -> None:
    seen = {node.name: (node.type, node.shape) for node in published.get_inputs()}
    free = seen["point_coords"][1][1]
    assert isinstance(free, str)
    assert seen == {
        "image_embeddings": ("tensor(float)", [1, 32, 8, 8]),
        "point_coords": ("tensor(float)", [1, free, 2]),
        "point_labels": ("tensor(float)", [1, free]),
        "mask_input": ("tensor(float)", [1, 1, 32, 32]),
        "has_mask_input": ("tensor(float)", [1]),
        "orig_im_size": ("tensor(float)", [2]),
    }
    assert [node.name for node in published.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]


CASES: dict[str, tuple[list[list[float]], list[int], bool]] = {
    "click": ([[40, 30], [0, 0]], [1, -1], False),
    "clicks": ([[40, 30], [100, 20], [0, 0]], [1, 0, -1], False),
    "box": ([[10, 20], [90, 110]], [2, 3], False),
    "box and clicks": ([[40, 30], [50, 60], [10, 20], [90, 110]], [1, 0, 2, 3], False),
    "mask and click": ([[40, 30], [0, 0]], [1, -1], True),
    "mask and box": ([[10, 20], [90, 110]], [2, 3], True),
}


@pytest.mark.parametrize("size", [(96, 128), (301, 77), (128, 128)])
@pytest.mark.parametrize("case", sorted(CASES))
def test_the_published_decoder_equals_the_network(
    published: Any, random_sam: Sam, case: str, size: tuple[int, int]
) -> None:
    """Prompts by the network's own rules (`PromptTensors.of`), masks by the published postprocessing, in torch."""
    points, labels, fed = CASES[case]
    generator = torch.Generator().manual_seed(5)
    embedding = torch.randn(1, 32, 8, 8, generator=generator)
    mask = torch.randn(1, 1, 32, 32, generator=generator) * 4
    clicks = [(p, label) for p, label in zip(points, labels, strict=True) if label in (0, 1)]
    corners = [p for p, label in zip(points, labels, strict=True) if label in (2, 3)]
    prompts = PromptTensors.of(
        torch.tensor([[p for p, _ in clicks]]) if clicks else None,
        torch.tensor([[label for _, label in clicks]]) if clicks else None,
        torch.tensor(corners, dtype=torch.float32).reshape(1, 4) if corners else None,
        mask if fed else None,
    )
    with torch.no_grad():
        logits, scores = random_sam.decode_features({"embedding": embedding}, prompts)
    masks, seen_scores, low_res = published.run(
        None,
        {
            "image_embeddings": embedding.numpy(),
            "point_coords": np.array([points], np.float32),
            "point_labels": np.array([labels], np.float32),
            "mask_input": mask.numpy(),
            "has_mask_input": np.array([fed], np.float32),
            "orig_im_size": np.array(size, np.float32),
        },
    )
    assert np.abs(low_res - logits.numpy()).max() < 1e-4
    assert np.abs(seen_scores - scores.numpy()).max() < 1e-4
    scale = SIDE / max(size)
    inner = [int(side * scale + 0.5) for side in size]
    frame = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    wanted = torch.nn.functional.interpolate(
        frame[..., : inner[0], : inner[1]], size, mode="bilinear", align_corners=False
    )
    assert masks.shape == (1, 4, *size)
    assert np.abs(masks - wanted.numpy()).max() < 1e-3


def test_a_box_alone_needs_no_padding_point_and_bears_one(published: Any) -> None:
    """Tools differ in whether they add the point that says "no box"; beside a box it must count as nothing."""
    generator = torch.Generator().manual_seed(6)
    fixed = {
        "image_embeddings": torch.randn(1, 32, 8, 8, generator=generator).numpy(),
        "mask_input": np.zeros((1, 1, 32, 32), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([128, 128], np.float32),
    }
    corners = [[10, 20], [90, 110]]
    alone, with_point = (
        published.run(
            ["low_res_masks"],
            fixed
            | {
                "point_coords": np.array([points], np.float32),
                "point_labels": np.array([labels], np.float32),
            },
        )[0]
        for points, labels in ((corners, [2, 3]), ([*corners, [0, 0]], [2, 3, -1]))
    )
    assert np.abs(alone - with_point).max() < 1e-5
