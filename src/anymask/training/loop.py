"""The training loop: one loop, the same on a CPU and on a GPU.

``python -m anymask.training.recipes.nano_v0`` starts or resumes a run; see the recipe's header. Batches are a
pure function of the step (`samples`), prompts come from a generator whose state is saved, so a run that was
killed goes on as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from anymask.data.sa1b import open_shards
from anymask.errors import InputError
from anymask.model.nano.encoder import normalise
from anymask.model.nano.network import PIXEL_MEAN, PIXEL_STD, Nano, NanoConfig
from anymask.model.weights import read_weights

from .augmentation import LOW_RES_STRIDE
from .batches import keep_freed_memory, numbered_batches
from .encoder_weights import load_encoder
from .growth import load_grown
from .interaction import first_prompt, is_ambiguous, next_prompt
from .losses import LossWeights, affinity_loss, prompt_loss
from .parallel import Team, join_team
from .run import Lesson, Run
from .samples import Batch, BatchSource
from .sampling_config import SamplingConfig
from .teacher import Teacher, teacher_loss


@dataclass(frozen=True)
class TrainConfig:
    """A run, whole. Recipes are values of this type.

    Attributes:
        name: the run's folder below ``runs/``.
        steps: optimiser steps of the whole run.
        accumulate: batches per optimiser step.
        rounds: rounds of prompting per batch (the first prompt included).
        rounds_masks: masks per image that go on after the first round.
        silent_share: share of later rounds that give no new click.
        box_share: share of first prompts that are boxes.
        central_share: share of first clicks that go to the object's middle; the others fall anywhere on it.
        average: decay of the exponential moving average of weights.
        bf16: autocast on a GPU (CPUs without native bf16 are slower with it).
        hold: share of the steps after warm-up that keep the full rate before it falls; what was reached by then is kept
            as ``held.safetensors``, for a longer run to go on from.
        init: weights file that the run starts from (`ship` writes one), of this network or one with fewer blocks.
        encoder_init: file of a pre-trained image encoder (`pretraining` writes one); everything else starts fresh.
        teacher: weights file of a nano of any size whose answers are learned beside the masks (`teacher`).

    Raises:
        InputError: both ``init`` and ``encoder_init`` are given.
    """

    name: str
    steps: int
    lr: float = 1.5e-3
    final_lr: float = 1e-5
    warmup: int = 300
    hold: float = 0.0
    weight_decay: float = 0.05
    clip: float = 1.0
    accumulate: int = 1
    rounds: int = 3
    rounds_masks: int = 2
    silent_share: float = 0.15
    box_share: float = 0.4
    central_share: float = 0.5
    average: float = 0.999
    bf16: bool = True
    seed: int = 0
    workers: int = 1
    save_every_s: float = 240.0
    log_every: int = 20
    init: str | None = None
    encoder_init: str | None = None
    teacher: str | None = None
    model: NanoConfig = field(default_factory=NanoConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.init is not None and self.encoder_init is not None:
            raise InputError(
                f"a run starts from init or from encoder_init, got both: {self.init!r} and {self.encoder_init!r}"
            )


def batch_loss(
    model: Nano, batch: Batch, config: TrainConfig, generator: torch.Generator, teacher: Teacher | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Encode once, prompt for several rounds, and average the rounds' losses."""
    pixels = normalise(batch.pixels, PIXEL_MEAN, PIXEL_STD).contiguous(memory_format=torch.channels_last)
    features = model.encode(pixels)
    masks = batch.coverage.shape[1]
    if teacher is not None:
        teacher.look(pixels, masks)
    target = batch.coverage.flatten(0, 1).unsqueeze(1).float() / 255.0
    truth = (target > 0.5).float()
    truth = torch.where(truth.sum((1, 2, 3), keepdim=True) == 0, (target > 0).float(), truth)
    per_prompt = {k: v.repeat_interleave(masks, dim=0) for k, v in features.items()}
    state = first_prompt(truth, LOW_RES_STRIDE, config.box_share, config.central_share, generator)
    log: dict[str, Tensor] = {}
    losses = []
    for turn in range(config.rounds):
        logits, quality = model.decode(
            per_prompt, state.points, state.labels, state.mask_input, state.has_mask
        )
        logits, quality = logits.float(), quality.float()
        loss, scalars = prompt_loss(logits, quality, target, is_ambiguous(state), config.loss)
        losses.append(loss)
        if teacher is not None:
            taught = teacher_loss(logits, quality, *teacher.answer(state))
            losses.append(config.loss.teacher * taught)
            log[f"teacher/{turn}"] = taught.detach()
        if turn == 0 and config.loss.affinity > 0:
            affinity = model.mask_decoder.affinity
            maps = affinity(per_prompt["skip8"], state.points, state.labels).float()
            closeness = affinity_loss(maps, target, affinity.scale, affinity.bias)
            losses.append(closeness * (config.loss.affinity * config.rounds))
            log["affinity"] = closeness.detach()
        log |= {f"{key}/{turn}": value for key, value in scalars.items()}
        if turn + 1 < config.rounds:
            if turn == 0 and config.rounds_masks < masks:
                keep = (torch.arange(truth.shape[0], device=truth.device) % masks) < config.rounds_masks
                logits, quality, target, truth = logits[keep], quality[keep], target[keep], truth[keep]
                per_prompt = {k: v[keep] for k, v in per_prompt.items()}
                if teacher is not None:
                    teacher.keep(keep)
                state = type(state)(
                    state.points[keep], state.labels[keep], state.mask_input[keep], state.has_mask[keep]
                )
            best = torch.where(is_ambiguous(state) > 0, quality[:, 1:].argmax(1) + 1, 0)
            answer = logits[torch.arange(logits.shape[0], device=logits.device), best].unsqueeze(1)
            silent = bool(torch.rand((), generator=generator, device=generator.device) < config.silent_share)
            state = next_prompt(state, answer, truth, LOW_RES_STRIDE, not silent, generator)
    return torch.stack(losses).sum() / config.rounds, log


def train(
    config: TrainConfig, data: str | Path, out: str | Path, device: str = "cpu", seconds: float | None = None
) -> Path:
    """Train, or go on training, and return the path of the last checkpoint.

    Args:
        config: the recipe.
        data: folder of tar shards.
        out: folder for runs; the run writes to ``out/NAME``.
        device: "cpu" or "cuda".
        seconds: stop (resumably) after this long.
    """
    keep_freed_memory()
    folder = Path(out) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    target = torch.device(device)
    team = join_team(target)
    if team.leads:
        known = asdict(config) | {"sources": training_sources(config, data)}
        (folder / "config.json").write_text(json.dumps(known, indent=1))
    torch.manual_seed(config.seed)
    model = Nano(config.model)
    if config.init is not None:
        load_grown(model, read_weights(config.init)[0], origin=config.init)
    if config.encoder_init is not None:
        load_encoder(model.image_encoder, config.encoder_init)
    teacher = Teacher(config.teacher, target) if config.teacher is not None else None
    run = Run(config, model, folder, target, team)
    lesson = Lesson(
        lambda first: _batches(config, data, first, team, target),
        lambda batch: batch_loss(model, batch.to(target), config, run.generator, teacher),
        lambda means: _describe(means, config.rounds - 1),
    )
    run.go(lesson, seconds)
    team.wait()
    return run.path


def training_sources(config: TrainConfig, data: str | Path) -> list[str]:
    """Names of all sources that the weights have seen: the shards, and those of weights it starts or learns from."""
    names = {shard.source for shard in open_shards(data)}
    for earlier in (config.init, config.encoder_init, config.teacher):
        if earlier is not None:
            names |= set(read_weights(earlier)[1].get("sources", "").split())
    return sorted(names)


def _batches(
    config: TrainConfig, data: str | Path, first: int, team: Team, device: torch.device
) -> Iterator[list[Batch]]:
    """The batches of each step from ``first`` on, ``config.accumulate`` of them."""
    shards = open_shards(data)
    sampling = replace(config.sampling, images=max(1, config.sampling.images // team.size))
    per_step = config.accumulate * team.size
    source = BatchSource(shards, [s.source for s in shards], sampling, config.seed, per_step)
    loader = numbered_batches(
        source,
        first * config.accumulate,
        config.steps * config.accumulate,
        team,
        config.workers,
        pin_memory=device.type == "cuda",
    )
    waiting: list[Batch] = []
    for batch in loader:
        waiting.append(batch)
        if len(waiting) == config.accumulate:
            yield waiting
            waiting = []


def _describe(means: Mapping[str, float], last: int) -> str:
    return (
        f"loss {means['loss/0']:.3f}"
        f"  first: top {means['iou_top/0']:.3f} best {means['iou_best/0']:.3f} single {means['iou_single/0']:.3f}"
        f"  last: single {means[f'iou_single/{last}']:.3f}"
    )
