"""Pre-training by hidden patches: what counts in the loss, what is drawn, exact resume, where the encoder goes."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_nano import SMALL_NANO
from test_loop import CONFIG as LABELLED

from anymask.data.photographs import Photographs
from anymask.data.sa1b import TarShard, open_shards
from anymask.errors import DatasetError, InputError, WeightsError
from anymask.model.nano.network import Nano
from anymask.model.weights import read_safetensors, read_weights, save_weights
from anymask.training.augmentation import warp
from anymask.training.checkpoint import load_average
from anymask.training.encoder_weights import load_encoder
from anymask.training.loop import train, training_sources
from anymask.training.masked_images import MaskedImageModel, draw_hidden, masked_loss
from anymask.training.pretraining import ENCODER, PretrainConfig, pretrain
from anymask.training.recipes.nano_pretrain import RECIPE
from anymask.training.recipes.nano_short import RECIPE as SHORT
from anymask.training.sampling_config import SamplingConfig
from anymask.training.unlabelled import HidingConfig, MaskedBatchSource, random_window

CONFIG = PretrainConfig(
    name="tiny",
    steps=6,
    warmup=2,
    log_every=1,
    encoder=SMALL_NANO.encoder,
    sampling=SamplingConfig(images=3, phases=((0, ((64, 64), (64, 96))),)),
    hiding=HidingConfig(patch=16),
)


def _hidden(*places: tuple[int, int]) -> torch.Tensor:
    hidden = torch.zeros(1, 4, 6, dtype=torch.bool)
    for row, column in places:
        hidden[0, row, column] = True
    return hidden


def test_the_loss_is_the_distance_to_normalised_pixels_of_hidden_patches_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 64, 96, generator=generator)
    prediction = torch.randn(1, 3, 64, 96, generator=generator, requires_grad=True)
    places = ((0, 0), (3, 2), (1, 5))
    loss = masked_loss(prediction, pixels, _hidden(*places))
    distances = []
    for row, column in places:
        window = np.s_[0, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        patch, guess = pixels.numpy()[window], prediction.detach().numpy()[window]
        distances.append(np.abs(guess - (patch - patch.mean()) / np.sqrt(patch.var() + 0.01)).mean())
    assert float(loss.detach()) == pytest.approx(np.mean(distances), rel=1e-5)
    loss.backward()
    assert prediction.grad is not None
    counted = prediction.grad.abs().sum((0, 1)).reshape(4, 16, 6, 16).sum((1, 3)) > 0
    assert torch.equal(counted, _hidden(*places)[0])


def test_the_encoder_does_not_see_hidden_patches_and_all_of_it_learns() -> None:
    torch.manual_seed(0)
    model = MaskedImageModel(SMALL_NANO.encoder)
    pixels, hidden = torch.randn(2, 3, 64, 96), torch.cat([_hidden((0, 1), (2, 2)), _hidden((3, 5))])
    other = pixels.clone()
    other[0, :, 0:16, 16:32] += 1.0
    other[1, :, 48:, 80:] -= 1.0
    assert torch.equal(model.eval()(pixels, hidden), model(other, hidden))
    other[0, :, 0:16, 0:16] += 1.0
    assert not torch.equal(model(pixels, hidden), model(other, hidden))
    for name, parameter in model.named_parameters():  # wake branches that are born as zero
        if name.endswith("out_norm.weight"):
            torch.nn.init.ones_(parameter)
    masked_loss(model.train()(pixels, hidden), pixels, hidden).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_share_of_hidden_patches_is_exact_and_their_places_are_not_always_the_same() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_hidden(4, 6, 0.6, rng) for _ in range(20)]
    assert {int(draw.sum()) for draw in draws} == {14}
    assert len({draw.tobytes() for draw in draws}) == 20
    assert int(draw_hidden(1, 2, 1.0, rng).sum()) == int(draw_hidden(1, 2, 0.0, rng).sum()) == 1


@pytest.mark.parametrize("size", [(180, 240), (300, 100), (40, 50)])
def test_a_window_lies_inside_its_picture(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    white = np.full((*size, 3), 255, np.uint8)
    for _ in range(20):
        matrix = random_window(size, 64, 96, (1.0, 2.2), rng)
        corners = np.linalg.solve(matrix[:, :2], np.array([[0.0, 96.0], [0.0, 64.0]]) - matrix[:, 2:])
        assert corners.min() >= -1e-6
        assert corners[0].max() <= size[1] + 1e-6
        assert corners[1].max() <= size[0] + 1e-6
        assert warp(white, matrix, 64, 96)[1:-1, 1:-1].min() == 255


class _Noted:
    """A shard that notes which of its samples were read."""

    def __init__(self, shard: TarShard) -> None:
        self.shard, self.read = shard, set[int]()

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, index: int) -> Any:
        self.read.add(index)
        return self.shard[index]


def test_batches_are_a_function_of_their_number_and_leave_out_what_is_held_back(shards: Path) -> None:
    noted = [_Noted(shard) for shard in open_shards(shards)]
    sampling = dataclasses.replace(CONFIG.sampling, hold_back=3)
    source = MaskedBatchSource(noted, ["first", "second"], None, sampling, CONFIG.hiding, 0)
    batches = [source[number] for number in range(40)]
    again = source[7]
    assert torch.equal(again.pixels, batches[7].pixels)
    assert torch.equal(again.hidden, batches[7].hidden)
    assert not torch.equal(batches[1].pixels[0, :, :64, :64], batches[2].pixels[0, :, :64, :64])
    assert batches[0].hidden.shape[1:] == tuple(side // 16 for side in batches[0].pixels.shape[2:])
    assert noted[0].read == {i for i in range(12) if i % 3 != 2}
    assert noted[1].read == {0, 1, 3, 4}


def _photographs(folder: Path) -> Path:
    """Six orange pictures, the last one damaged, in folders of two levels."""
    (folder / "more").mkdir(parents=True)
    orange = np.full((70, 90, 3), (40, 120, 240), np.uint8)  # BGR
    data = cv2.imencode(".png", orange)[1].tobytes()
    for number in range(6):
        name = f"{number}.png" if number % 2 else f"more/{number}.PNG"
        (folder / name).write_bytes(data[:60] if number == 5 else data)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_photographs_of_a_folder_or_a_tar_file_are_drawn_and_damaged_ones_passed_over(
    shards: Path, tmp_path: Path
) -> None:
    folder = _photographs(tmp_path / "my photographs")
    with tarfile.open(tmp_path / "packed.tar", "w") as archive:
        archive.add(folder, arcname=".")
    loose, packed = Photographs(folder), Photographs(tmp_path / "packed.tar")
    assert (loose.source, packed.source, len(loose), len(packed)) == ("my_photographs", "packed", 6, 6)
    assert sorted(loose[i] for i in range(6)) == sorted(packed[i] for i in range(6))
    light = dataclasses.replace(CONFIG.sampling, grey=0.0, invert=0.0)
    source = MaskedBatchSource([], [], loose, light, CONFIG.hiding, 0)
    for number in range(10):
        red, green, blue = source[number].pixels.float().mean((0, 2, 3))
        assert red > green > blue
    run = pretrain(
        dataclasses.replace(CONFIG, steps=1), shards, tmp_path, photographs=tmp_path / "packed.tar"
    )
    facts = read_weights(run.with_name(ENCODER))[1]
    assert facts["sources"].split() == ["first", "packed", "second"]


def test_photographs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no picture"):
        Photographs(tmp_path / "empty")
    with pytest.raises(DatasetError, match="no photographs at"):
        Photographs(tmp_path / "missing")
    (tmp_path / "plain.tar").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="neither a folder nor a plain tar"):
        Photographs(tmp_path / "plain.tar")
    (tmp_path / "empty" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source = MaskedBatchSource([], [], Photographs(tmp_path / "empty"), CONFIG.sampling, CONFIG.hiding, 0)
    with pytest.raises(DatasetError, match="the last could not be read"):
        source[0]


def test_views_are_whole_patches() -> None:
    with pytest.raises(InputError, match="whole patches of 24 pixels"):
        dataclasses.replace(CONFIG, hiding=HidingConfig(patch=24))


def test_resumed_pretraining_equals_an_undisturbed_one(shards: Path, tmp_path: Path) -> None:
    whole = pretrain(CONFIG, shards, tmp_path / "whole")
    for _ in range(CONFIG.steps):  # each call ends after one step
        broken = pretrain(CONFIG, shards, tmp_path / "broken", seconds=0.0)
    for name in ("last.safetensors", ENCODER):
        expected = read_safetensors(whole.with_name(name))[0]
        seen = read_safetensors(broken.with_name(name))[0]
        assert seen.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(seen[key], value), key
    kept = broken.with_name(ENCODER).read_bytes()
    broken.with_name(ENCODER).unlink()  # as when killed between the last checkpoint and the encoder
    pretrain(CONFIG, shards, tmp_path / "broken")
    assert broken.with_name(ENCODER).read_bytes() == kept


def test_pretraining_lowers_the_loss(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=60, warmup=5, lr=3e-3)
    pretrain(config, shards, tmp_path)
    log = (tmp_path / "tiny" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_the_encoder_arrives_in_nano_and_the_rest_starts_fresh(shards: Path, tmp_path: Path) -> None:
    run = pretrain(dataclasses.replace(CONFIG, steps=2), shards, tmp_path)
    path = run.with_name(ENCODER)
    average = MaskedImageModel(CONFIG.encoder)
    load_average(run, average)
    tensors, facts = read_weights(path)
    assert tensors.keys() == Nano(SMALL_NANO).image_encoder.state_dict().keys()
    assert all(torch.equal(value, average.encoder.state_dict()[name]) for name, value in tensors.items())
    assert (facts["recipe"], facts["steps"]) == ("tiny", "2")
    config = dataclasses.replace(LABELLED, steps=1, lr=0.0, final_lr=0.0, encoder_init=str(path))
    assert training_sources(config, shards) == ["first", "second"]
    started = Nano(SMALL_NANO)
    load_average(train(config, shards, tmp_path / "labelled"), started)
    torch.manual_seed(config.seed)
    fresh = Nano(SMALL_NANO)
    for name, parameter in started.named_parameters():  # at rate zero the start is where the run stays
        part, _, rest = name.partition(".")
        expected = tensors[rest] if part == "image_encoder" else fresh.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(tensors["stem.0.0.weight"], fresh.image_encoder.state_dict()["stem.0.0.weight"])


def test_a_file_that_is_no_encoder_is_refused(shards: Path, tmp_path: Path) -> None:
    encoder = Nano(SMALL_NANO).image_encoder
    save_weights(Nano(SMALL_NANO), tmp_path / "whole.safetensors")
    with pytest.raises(WeightsError, match=r"holds no pre-trained encoder; make one with") as caught:
        load_encoder(encoder, tmp_path / "whole.safetensors")
    assert "\n" not in str(caught.value)
    run = pretrain(dataclasses.replace(CONFIG, steps=1), shards, tmp_path)
    with pytest.raises(WeightsError, match="were not written by anymask"):  # the checkpoint beside it
        load_encoder(encoder, run)
    with pytest.raises(WeightsError, match="does not fit NanoEncoder"):
        load_encoder(Nano().image_encoder, run.with_name(ENCODER))
    with pytest.raises(InputError, match="from init or from encoder_init"):
        dataclasses.replace(LABELLED, init="a.safetensors", encoder_init="b.safetensors")


def test_the_recipe_fits_the_short_run() -> None:
    assert RECIPE.encoder == SHORT.model.encoder
    assert RECIPE.sampling.hold_back == SHORT.sampling.hold_back == 25
