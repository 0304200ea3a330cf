"""The short recipe and its variants: one thing differs, everything else is the same to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nano import SMALL_NANO

from anymask.errors import WeightsError
from anymask.model.weights import read_safetensors
from anymask.training.loop import TrainConfig, train
from anymask.training.recipes.nano_pretrain import RECIPE as PRETRAINING
from anymask.training.recipes.nano_short import DEEP_COST, DISTIL_COST, RECIPE, VARIANTS
from anymask.training.recipes.run import main, parse

NAMED: dict[str, dict[str, Any]] = {
    "full": {},
    "no-scenes": {"sampling.scenes": 0.0},
    "no-paste": {"sampling.paste": 0.0},
    "no-affinity": {"loss.affinity": 0.0},
    "mae": {
        "encoder_init": "runs/nano_pretrain/encoder.safetensors",
        "steps": VARIANTS["mae"].steps,
        "sampling.phases": VARIANTS["mae"].sampling.phases,
    },
    "distil": {
        "teacher": "weights/nano_v2.safetensors",
        "steps": VARIANTS["distil"].steps,
        "sampling.phases": VARIANTS["distil"].sampling.phases,
    },
    "deep": {
        "model.encoder.blocks": (1, 3, 10, 6),
        "steps": VARIANTS["deep"].steps,
        "sampling.phases": VARIANTS["deep"].sampling.phases,
    },
}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested records by their dotted path."""
    if not dataclasses.is_dataclass(value):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        leaves |= _flat(getattr(value, field.name), f"{prefix}.{field.name}".lstrip("."))
    return leaves


def _differences(config: TrainConfig) -> dict[str, Any]:
    base = _flat(RECIPE)
    return {key: value for key, value in _flat(config).items() if value != base[key]}


@pytest.mark.parametrize("name", NAMED)
def test_a_variant_differs_in_what_it_names_and_in_its_folder(name: str) -> None:
    seen = _differences(VARIANTS[name])
    folder = seen.pop("name", RECIPE.name)
    assert folder == f"nano_short_{name}"
    assert seen == NAMED[name]


def test_what_a_variant_takes_away_is_there_in_the_recipe() -> None:
    assert RECIPE.init is None
    assert RECIPE.sampling.hold_back == 25
    assert min(RECIPE.sampling.scenes, RECIPE.sampling.paste, RECIPE.loss.affinity) > 0


def _seconds(config: TrainConfig) -> float:
    """Processor time of a run by the seconds per step that the recipes state."""
    small = config.sampling.phases[1][0]
    return small * 0.885 + (config.steps - small) * 1.168


@pytest.mark.parametrize(
    ("name", "cost", "before"),
    [("mae", 1.0, PRETRAINING.steps * 0.722), ("distil", DISTIL_COST, 0.0), ("deep", DEEP_COST, 0.0)],
)
def test_a_variant_with_dearer_steps_takes_as_long_as_the_recipe(
    name: str, cost: float, before: float
) -> None:
    variant = VARIANTS[name]
    assert _seconds(variant) * cost + before == pytest.approx(_seconds(RECIPE), rel=0.02)
    assert variant.sampling.phases[1][0] / variant.steps == pytest.approx(
        RECIPE.sampling.phases[1][0] / RECIPE.steps, rel=1e-3
    )
    assert [sizes for _, sizes in variant.sampling.phases] == [sizes for _, sizes in RECIPE.sampling.phases]


def test_a_missing_encoder_ends_in_one_sentence(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["nano_short", "--data", str(shards), "--variant", "mae"])
    with pytest.raises(SystemExit) as ended:
        main(RECIPE, VARIANTS)
    assert ended.value.code == WeightsError.exit_status
    assert "cannot read the weights 'runs/nano_pretrain/encoder.safetensors'" in capsys.readouterr().err


def test_the_command_line_names_a_variant_and_another_seed_another_run() -> None:
    chosen, options = parse(RECIPE, VARIANTS, ["--data", "shards", "--variant", "no-paste", "--steps", "7"])
    assert chosen == dataclasses.replace(VARIANTS["no-paste"], steps=7)
    assert options.data == "shards"
    assert parse(RECIPE, VARIANTS, ["--data", "shards"])[0] == RECIPE
    seeded = parse(RECIPE, VARIANTS, ["--data", "shards", "--seed", "3"])[0]
    assert seeded == dataclasses.replace(RECIPE, seed=3, name="nano_short_full_seed3")
    with pytest.raises(SystemExit):
        parse(RECIPE, VARIANTS, ["--data", "shards", "--variant", "nothing"])
    with pytest.raises(SystemExit):  # a recipe without variants has no such option
        parse(RECIPE, None, ["--data", "shards", "--variant", "full"])


def _weights(config: TrainConfig, shards: Path, out: Path) -> dict[str, torch.Tensor]:
    sampling = dataclasses.replace(
        config.sampling,
        images=3,
        masks=2,
        hold_back=0,
        scenes=min(config.sampling.scenes * 3, 1.0),
        paste_sources=("first",),
        phases=((0, ((64, 64), (64, 96))),),
    )
    small = dataclasses.replace(config, steps=3, warmup=1, model=SMALL_NANO, sampling=sampling)
    tensors, _ = read_safetensors(train(small, shards, out))
    return {name: value for name, value in tensors.items() if name.startswith("model.")}


def test_the_same_seed_gives_the_same_weights_and_another_variant_others(
    shards: Path, tmp_path: Path
) -> None:
    first, second = (_weights(RECIPE, shards, tmp_path / name) for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for name in ("no-scenes", "no-affinity"):
        other = _weights(VARIANTS[name], shards, tmp_path / name)
        assert any(not torch.equal(value, other[key]) for key, value in first.items())
