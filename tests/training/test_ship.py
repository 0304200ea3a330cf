"""A run becomes a model folder, and its weights the start of another run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG

from anymask.errors import WeightsError
from anymask.model.families import load_network
from anymask.model.nano.network import Nano
from anymask.model.weights import load_weights
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.training.checkpoint import load_average
from anymask.training.loop import train, training_sources
from anymask.training.ship import ship


def test_a_run_ships_its_average_and_another_starts_from_it(shards: Path, tmp_path: Path) -> None:
    checkpoint = train(CONFIG, shards, tmp_path)
    weights = tmp_path / "weights" / "tiny.safetensors"
    facts = ship(checkpoint.parent, tmp_path / "model", "tiny", 64, weights)
    assert facts["training"]["steps"] == CONFIG.steps
    backend = OnnxBackend(tmp_path / "model")
    assert backend.spec.long_side == 64
    told = backend.manifest.facts["training"]
    assert told["parameters"] == sum(p.numel() for p in Nano(CONFIG.model).parameters())
    assert told["sources"] == sorted(path.stem for path in shards.glob("*.tar"))
    average, kept = Nano(CONFIG.model), Nano(CONFIG.model)
    load_average(checkpoint, average)
    load_weights(kept, weights)
    assert load_network(weights)[1] == dataclasses.replace(CONFIG.model, long_side=64)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    again = dataclasses.replace(
        CONFIG, name="again", steps=1, warmup=1, lr=0.0, final_lr=0.0, init=str(weights)
    )
    started = Nano(CONFIG.model)
    load_average(train(again, shards, tmp_path), started)
    assert training_sources(again, shards) == told["sources"]
    (tmp_path / "other").mkdir()
    shutil.copy(next(shards.glob("*.tar")), tmp_path / "other" / "new.tar")
    assert training_sources(again, tmp_path / "other") == sorted([*told["sources"], "new"])
    for name, parameter in started.named_parameters():  # at rate zero the start is where the run stays
        torch.testing.assert_close(parameter, dict(kept.named_parameters())[name], rtol=1e-4, atol=1e-6)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no run"):
        ship(tmp_path, tmp_path / "model")
