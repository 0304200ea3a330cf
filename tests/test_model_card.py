"""The model card says of the embedded model what was measured on it, and nothing older."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anymask.runtime.onnx_backend import OnnxBackend

ROOT = Path(__file__).parents[1]
NANO = ROOT / "src" / "anymask" / "assets" / "nano"
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def card() -> str:
    """The card's text."""
    return (NANO / "MODEL_CARD.md").read_text()


def test_the_quality_table_is_the_measured_one(card: str) -> None:
    measured = json.loads((RESULTS / "click_table.json").read_text())
    assert measured["model_digest"] == OnnxBackend(NANO).spec.digest
    rows = {line.split("|")[1].strip(" *"): line for line in card.splitlines() if line.startswith("| ")}
    for name, figures in {**measured["sets"], "mean of sets": measured["mean_of_sets"]}.items():
        for column in ("box", "click_top", "click_best", "clicks_3", "clicks_5"):
            assert f"| {figures[column]:.3f} |" in rows[name], (name, column)


def test_the_speed_table_is_the_measured_one(card: str) -> None:
    measured = json.loads((RESULTS / "nano_speed.json").read_text())
    assert measured["model_digest"] == OnnxBackend(NANO).spec.digest
    for name, figures in measured["milliseconds"].items():
        assert f"| {name} | {figures['encode']['p50']:.0f} | {figures['decode']['p50']:.1f} |" in card


def test_the_files_are_small_and_made_by_the_stated_recipe(card: str) -> None:
    manifest = json.loads((NANO / "manifest.json").read_text())
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 20e6
    assert f"{manifest['training']['steps']:,} steps, {manifest['training']['hours']} hours" in card
    recipe = ROOT / "src" / "anymask" / "training" / "recipes" / f"{manifest['training']['recipe']}.py"
    assert recipe.is_file()


def test_every_training_source_is_named(card: str) -> None:
    shards = ROOT.parent / "shared" / "data" / "train"
    if not shards.is_dir():
        pytest.skip("the data pack is not beside the project")
    for shard in shards.glob("*.tar"):
        assert f"| {shard.stem} |" in card
