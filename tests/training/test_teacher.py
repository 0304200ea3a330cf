"""Distillation: the teacher is asked what the student is asked, and the student comes to answer as it does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from small_nano import SMALL_NANO, seeded_nano

from anymask.errors import WeightsError
from anymask.model.families import build_network, published_config, save_network
from anymask.model.nano.network import Nano
from anymask.model.weights import read_safetensors
from anymask.training.interaction import PromptState, first_prompt
from anymask.training.loop import TrainConfig, train, training_sources
from anymask.training.losses import LossWeights
from anymask.training.sampling_config import SamplingConfig
from anymask.training.teacher import Teacher, teacher_loss

CPU = torch.device("cpu")
DEEPER = dataclasses.replace(SMALL_NANO, encoder=dataclasses.replace(SMALL_NANO.encoder, blocks=(1, 2, 3, 2)))
CONFIG = TrainConfig(
    name="taught",
    steps=4,
    warmup=1,
    workers=0,
    model=SMALL_NANO,
    sampling=SamplingConfig(images=2, masks=3, phases=((0, ((64, 64), (64, 96))),)),
)


@pytest.fixture
def deeper(tmp_path: Path) -> Path:
    """Weights of a teacher with more blocks than the student."""
    path = tmp_path / "deeper.safetensors"
    save_network(seeded_nano(DEEPER), DEEPER, path, {"sources": "elsewhere"})
    return path


def _prompts(masks: int) -> PromptState:
    truth = torch.zeros(masks, 1, 16, 24)
    truth[:, :, 4:12, 6:18] = 1
    return first_prompt(truth, 4, 0.5, 0.5, torch.Generator().manual_seed(3))


def test_the_teacher_answers_as_its_own_network_does(deeper: Path) -> None:
    teacher, network = Teacher(deeper, CPU), seeded_nano(DEEPER)
    pixels, state = torch.randn(2, 3, 64, 96), _prompts(6)
    teacher.look(pixels, masks=3)
    probability, quality = teacher.answer(state)
    for image in range(2):
        mine = slice(3 * image, 3 * image + 3)
        with torch.no_grad():
            features = {
                k: v.expand(3, -1, -1, -1) for k, v in network.encode(pixels[image : image + 1]).items()
            }
            logits, expected = network.decode(
                features, state.points[mine], state.labels[mine], state.mask_input[mine], state.has_mask[mine]
            )
        torch.testing.assert_close(probability[mine], logits.sigmoid(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(quality[mine], expected, atol=1e-5, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert not teacher.network.training


def test_it_goes_on_with_the_prompts_that_are_kept(deeper: Path) -> None:
    teacher, state = Teacher(deeper, CPU), _prompts(6)
    teacher.look(torch.randn(2, 3, 64, 96), masks=3)
    whole, _ = teacher.answer(state)
    keep = torch.tensor([True, False, True, False, False, True])
    teacher.keep(keep)
    part = PromptState(state.points[keep], state.labels[keep], state.mask_input[keep], state.has_mask[keep])
    torch.testing.assert_close(teacher.answer(part)[0], whole[keep], atol=1e-5, rtol=1e-4)


def test_the_loss_is_least_where_student_and_teacher_agree() -> None:
    logits = 4 * torch.randn(3, 4, 8, 8)
    quality = torch.rand(3, 4)
    same = teacher_loss(logits, quality, logits.sigmoid(), quality)
    moved = (logits + 0.5).requires_grad_()
    other = teacher_loss(moved, quality, logits.sigmoid(), quality)
    swapped = teacher_loss(logits.flip(1), quality, logits.sigmoid(), quality)
    assert same < other < swapped  # answers are matched by their place
    other.backward()
    assert moved.grad is not None
    assert (moved.grad > 0).float().mean() > 0.95  # down, back to the teacher's
    worse = teacher_loss(logits, quality + 0.5, logits.sigmoid(), quality)
    assert (worse - same).item() == pytest.approx(0.25, abs=1e-4)


def test_a_student_comes_to_answer_as_its_teacher_does(shards: Path, deeper: Path, tmp_path: Path) -> None:
    alone = LossWeights(focal=0, dice=0, quality=0, affinity=0)
    config = dataclasses.replace(
        CONFIG, steps=40, warmup=5, lr=3e-3, rounds=2, log_every=1, teacher=str(deeper), loss=alone
    )
    train(config, shards, tmp_path)
    lines = (tmp_path / "taught" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["teacher/1"] for line in lines]
    assert sum(losses[-10:]) / 10 < 0.85 * sum(losses[:3]) / 3  # the entropy of the teacher's answers stays


def test_a_taught_run_differs_and_goes_on_to_the_bit(shards: Path, deeper: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, teacher=str(deeper))
    alone, _ = read_safetensors(train(CONFIG, shards, tmp_path / "alone"))
    whole, _ = read_safetensors(train(config, shards, tmp_path / "whole"))
    for _ in range(config.steps):
        path = train(config, shards, tmp_path / "broken", seconds=0.0)
    broken, _ = read_safetensors(path)
    assert broken.keys() == whole.keys() == alone.keys()  # nothing of the teacher is kept
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
    assert any(not torch.equal(value, alone[name]) for name, value in whole.items())


def test_what_the_teacher_has_seen_is_recorded(shards: Path, deeper: Path) -> None:
    assert "elsewhere" in training_sources(dataclasses.replace(CONFIG, teacher=str(deeper)), shards)
    assert "elsewhere" not in training_sources(CONFIG, shards)


def test_only_a_nano_can_teach(tmp_path: Path) -> None:
    sizes = dataclasses.replace(published_config("mobile_sam"), image_size=1024)
    path = tmp_path / "other.safetensors"
    save_network(build_network(sizes), sizes, path)
    with pytest.raises(WeightsError, match="a teacher has to be a nano"):
        Teacher(path, CPU)
    with pytest.raises(WeightsError):
        Teacher(tmp_path / "missing.safetensors", CPU)


def test_the_deeper_nano_teaches_from_its_file() -> None:
    teacher = Teacher(Path(__file__).parents[2] / "weights" / "nano_v2.safetensors", CPU)
    assert isinstance(teacher.network, Nano)
    assert teacher.network.config.encoder.blocks == (1, 3, 10, 6)
