"""A killed run goes on as if nothing had happened; a run learns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from small_nano import SMALL_NANO

from anymask.errors import WeightsError
from anymask.model.nano.network import Nano
from anymask.model.weights import read_safetensors
from anymask.training.checkpoint import load_average
from anymask.training.loop import TrainConfig, train
from anymask.training.optimisation import learning_rate
from anymask.training.sampling_config import SamplingConfig

CONFIG = TrainConfig(
    name="tiny",
    steps=6,
    warmup=2,
    workers=0,
    log_every=1,
    model=SMALL_NANO,
    sampling=SamplingConfig(images=2, masks=2, phases=((0, ((64, 64), (64, 96))),)),
)


def test_resumed_run_equals_undisturbed_run(shards: Path, tmp_path: Path) -> None:
    whole = train(CONFIG, shards, tmp_path / "whole")
    for _ in range(6):  # each call ends after one step
        broken = train(CONFIG, shards, tmp_path / "broken", seconds=0.0)
    expected, expected_facts = read_safetensors(whole)
    seen, seen_facts = read_safetensors(broken)
    assert json.loads(seen_facts["numbers"])["step"] == json.loads(expected_facts["numbers"])["step"] == 6
    assert seen.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(seen[key], value), key


def test_training_lowers_the_loss(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=60, warmup=5, lr=3e-3, rounds=2)
    train(config, shards, tmp_path)
    losses = [
        json.loads(line)["loss/0"] for line in (tmp_path / "tiny" / "log.jsonl").read_text().splitlines()
    ]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


def test_checkpoint_of_another_network_is_refused(shards: Path, tmp_path: Path) -> None:
    path = train(dataclasses.replace(CONFIG, steps=1), shards, tmp_path)
    with pytest.raises(WeightsError, match="keys are wrong"):
        load_average(path, Nano())
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot read"):
        read_safetensors(damaged)


def test_learning_rate_warms_up_and_falls() -> None:
    config = dataclasses.replace(CONFIG, steps=1000, warmup=100, lr=1.0, final_lr=0.0)
    assert learning_rate(49, config) == pytest.approx(0.5)
    assert learning_rate(100, config) == pytest.approx(1.0)
    assert learning_rate(550, config) == pytest.approx(0.5)
    assert learning_rate(1000, config) == pytest.approx(0.0, abs=1e-9)


def test_a_plateau_is_held_before_the_fall_and_its_end_is_kept(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=1000, warmup=100, hold=0.5, lr=1.0, final_lr=0.0)
    assert [learning_rate(step, config) for step in (100, 300, 550)] == [1.0, 1.0, 1.0]
    assert learning_rate(775, config) == pytest.approx(0.5)
    short = dataclasses.replace(CONFIG, steps=6, warmup=2, hold=0.5)
    folder = train(short, shards, tmp_path).parent
    assert json.loads(read_safetensors(folder / "held.safetensors")[1]["numbers"])["step"] == 4
