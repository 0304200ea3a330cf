"""MedSAM: ViT-B by its names, prepared and enlarged its own way, against the published steps with seeded weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import golden_inputs as inputs  # noqa: E402

from anymask.model.checkpoints.convert import convert_checkpoint  # noqa: E402
from anymask.model.families import infer_config, published_config  # noqa: E402
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST, VIT_B  # noqa: E402
from anymask.model.weights import load_strict  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend, load_torch  # noqa: E402

EMBEDDING_BOUND = 1e-4
LOGITS_BOUND = 1e-3
SCORES_BOUND = 1e-4
IOU_BOUND = 0.999

MEDSAM = published_config("medsam")
OWN = ("name", "pixel_mean", "pixel_std", "resize", "normalisation")
CONFIG = dataclasses.replace(TINY_TEST, **{field: getattr(MEDSAM, field) for field in OWN})
PICTURES = {"small": (90, 70), "large": (300, 200)}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    sam = build_sam(CONFIG)
    load_strict(sam, inputs.golden_weights(sam.state_dict()))
    return Segmenter(TorchBackend(sam, CONFIG))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return inputs.golden("medsam")


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_the_published_ones(segmenter: Segmenter, golden: dict[str, Any], name: str) -> None:
    """Stretched by a cubic spline to whole grey levels, then from darkest to brightest."""
    picture = inputs.golden_picture(*PICTURES[name]).numpy()
    levels = golden[f"{name}/levels"].numpy().astype(np.float64)
    expected = (levels - levels.min()) / (levels.max() - levels.min())
    network = segmenter.frame(PICTURES[name]).to_network(
        picture, segmenter.spec.pixel_mean, segmenter.spec.pixel_std
    )
    difference = np.abs(network[0].transpose(1, 2, 0) - expected)
    assert difference.max() <= 1e-6  # measured 3.0e-8


@pytest.mark.parametrize("name", PICTURES)
def test_a_box_gives_the_published_mask(segmenter: Segmenter, golden: dict[str, Any], name: str) -> None:
    height, width = PICTURES[name]
    embedding = segmenter.embed(inputs.golden_picture(height, width).numpy())
    features = embedding.features["embedding"]
    assert np.abs(features - golden[f"{name}/embedding"].numpy()).max() <= EMBEDDING_BOUND  # measured 1.5e-6
    mask = segmenter.segment(embedding, box=(5, 10, width - 20, height - 30), multimask=False)[0]
    assert mask.low_res_logits is not None
    expected = golden[f"{name}/logits"].numpy()
    assert np.abs(mask.low_res_logits - expected).max() <= LOGITS_BOUND  # measured 3.4e-6
    assert abs(mask.score - float(golden[f"{name}/score"])) <= SCORES_BOUND  # measured 7.2e-7
    theirs = golden[f"{name}/mask"].numpy().astype(bool)
    assert 0.1 < theirs.mean() < 0.9
    assert (mask.array & theirs).sum() / (mask.array | theirs).sum() >= IOU_BOUND  # measured 1


def test_it_must_be_named(tmp_path: Any) -> None:
    """Its keys are those of plain ViT-B, so only its name tells how its pictures are made."""
    with torch.device("meta"):
        weights = build_sam(MEDSAM).state_dict()
        assert {k: t.shape for k, t in weights.items()} == {
            k: t.shape for k, t in build_sam(VIT_B).state_dict().items()
        }
    assert infer_config(weights) == VIT_B
    torch.save(build_sam(CONFIG).state_dict(), tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors", CONFIG)
    spec = load_torch(tmp_path / "a.safetensors").spec
    assert (spec.name, spec.resize, spec.normalisation) == ("medsam", "stretch", "min_max")
    assert spec.preprocessing == "stretch-128/min-max/v1"
    assert (
        dataclasses.replace(spec, resize="longest_side").preprocessing
        == "longest-side-128/pad-square/min-max/v1"
    )
