"""A new quality head: answers judged as they are, a fit that learns, and nothing else touched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_nano import SMALL_NANO, seeded_nano

from anymask.data.dataset import Sample
from anymask.data.sa1b import TarShard
from anymask.errors import WeightsError
from anymask.model.families import build_network, load_network, save_network
from anymask.model.nano.quality import NUM_MASKS
from anymask.model.variants import TINY_TEST
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.training import quality_head
from anymask.training.quality_head import HeadConfig, Judged, fit, judge, steps_of, teach, with_new_head
from anymask.training.recipes import nano_v5
from anymask.training.samples import Batch, is_held_back
from anymask.training.sampling_config import SamplingConfig
from anymask.training.ship import ship

CONFIG = HeadConfig(
    name="taught",
    weights="",
    long_side=64,
    pictures=4,
    epochs=2,
    batch=8,
    sampling=SamplingConfig(images=2, masks=2, hold_back=5),
)


def test_views_are_square_wide_and_tall() -> None:
    ((start, sizes),) = HeadConfig("any", "", 576).views().phases
    assert (start, sizes) == (0, ((576, 576), (448, 576), (576, 448)))


def test_every_mask_is_asked_for_by_box_and_clicks() -> None:
    coverage = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    coverage[0, 0, 2:10, 2:15] = 255
    coverage[0, 1, 5:15, 10:22] = 255  # the third is empty: nothing to ask for
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), generator=generator, dtype=torch.uint8)
    model = with_new_head(seeded_nano(), 96)
    judged = judge(model, [Batch(pixels, coverage)], CONFIG)
    prompts = 2 * (1 + CONFIG.clicks)
    assert judged.iou.shape == (prompts, NUM_MASKS)
    assert judged.clues.shape == (prompts, NUM_MASKS, model.mask_decoder.quality[0].in_features)
    assert ((judged.iou >= 0) & (judged.iou <= 1)).all()
    assert judged.iou.std() > 0
    with pytest.raises(ValueError, match="no batch"):
        judge(model, [], CONFIG)


def test_a_fit_learns_what_clues_say_and_takes_their_scale_over() -> None:
    generator = torch.Generator().manual_seed(0)
    clues = torch.randn(600, NUM_MASKS, 6, generator=generator) * torch.tensor([100.0, 1, 1, 1, 1, 0.01]) + 7
    truth = torch.sigmoid((clues[..., 0] - 7) / 100 + 100 * (clues[..., 5] - 7))
    head = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
    config = dataclasses.replace(CONFIG, epochs=60, batch=64, lr=1e-2, dropout=0.0)
    before = torch.random.get_rng_state()
    error = fit(head, Judged(clues, truth), config)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert error < 0.1 * float(truth.var())
    with torch.no_grad():  # asked as the decoder asks, clues as they come
        said = torch.sigmoid(head(clues).squeeze(-1))
    assert float((said - truth).square().mean()) < 0.1 * float(truth.var())
    again = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
    assert fit(again, Judged(clues, truth), config) == error


def test_each_epoch_sees_every_prompt() -> None:
    seen = torch.cat(list(quality_head._draws(10, 4, 5)))
    assert sorted(seen.tolist()) == sorted(2 * list(range(10)))
    assert steps_of(dataclasses.replace(CONFIG, epochs=2, batch=4), 10) == 5


def test_all_but_the_head_stays(shards: Path, tmp_path: Path) -> None:
    old = seeded_nano()
    save_network(old, SMALL_NANO, tmp_path / "old.safetensors", {"sources": "elsewhere"})
    config = dataclasses.replace(CONFIG, weights=str(tmp_path / "old.safetensors"))
    facts = teach(config, shards, tmp_path / "new" / "new.safetensors")
    new, sizes = load_network(tmp_path / "new" / "new.safetensors")
    assert sizes == dataclasses.replace(
        SMALL_NANO, long_side=64, decoder=dataclasses.replace(SMALL_NANO.decoder, quality_version=2)
    )
    for name, value in old.state_dict().items():
        if not name.startswith("mask_decoder.quality."):
            assert torch.equal(new.state_dict()[name], value.half().float()), name
    assert facts["sources"].split() == ["elsewhere", "first", "second"]
    shipped = ship(tmp_path / "new" / "new.safetensors", tmp_path / "model", "taught", half=True)["training"]
    assert shipped["recipe"] == "taught"
    assert OnnxBackend(tmp_path / "model").manifest.facts["training"] == shipped


def test_pictures_held_back_are_not_drawn(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[int] = set()
    read = TarShard.__getitem__

    def noted(self: TarShard, index: int) -> Sample:
        drawn.add(index)
        return read(self, index)

    monkeypatch.setattr(TarShard, "__getitem__", noted)
    save_network(seeded_nano(), SMALL_NANO, tmp_path / "old.safetensors")
    config = dataclasses.replace(CONFIG, weights=str(tmp_path / "old.safetensors"), pictures=40)
    teach(config, shards, tmp_path / "new.safetensors")
    assert len(drawn) > 5
    assert not [index for index in drawn if is_held_back(index, 5)]


@pytest.mark.parametrize("case", ["another network", "no file", "no shards"])
def test_bad_input_gets_one_sentence(
    case: str,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, data = tmp_path / "weights.safetensors", shards
    if case == "another network":
        save_network(build_network(TINY_TEST), TINY_TEST, weights)
    if case == "no shards":
        save_network(seeded_nano(), SMALL_NANO, weights)
        data = tmp_path
    out = tmp_path / "out.safetensors"
    words = ["nano_v5", "--data", str(data), "--out", str(out), "--weights", str(weights), "--pictures", "2"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        nano_v5.main()
    assert stopped.value.code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def test_weights_that_do_not_say_their_training_are_not_shipped(tmp_path: Path) -> None:
    save_network(seeded_nano(), SMALL_NANO, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="does not say"):
        ship(tmp_path / "bare.safetensors", tmp_path / "model")
    save_network(build_network(TINY_TEST), TINY_TEST, tmp_path / "sam.safetensors")
    with pytest.raises(WeightsError, match="another network"):
        ship(tmp_path / "sam.safetensors", tmp_path / "model")
    assert not (tmp_path / "model").exists()
