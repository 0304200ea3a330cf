"""Pre-training of nano's image encoder on pictures without masks (`masked_images`).

``python -m anymask.training.recipes.nano_pretrain`` starts or resumes it; the run's conventions are those of `loop`:
batches are a pure function of the step, the checkpoint is whole, a killed run goes on as if nothing had happened. At
the end the averaged encoder lies in ``encoder.safetensors``, where `TrainConfig.encoder_init` takes it from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from anymask.data.photographs import Photographs
from anymask.data.sa1b import open_shards
from anymask.errors import InputError
from anymask.model.nano.encoder import NanoEncoderConfig, normalise
from anymask.model.nano.network import PIXEL_MEAN, PIXEL_STD

from .batches import keep_freed_memory, numbered_batches
from .encoder_weights import save_encoder
from .masked_images import MaskedImageModel, masked_loss
from .parallel import Team, join_team
from .run import Lesson, Run
from .sampling_config import SamplingConfig
from .unlabelled import HidingConfig, MaskedBatch, MaskedBatchSource

ENCODER = "encoder.safetensors"


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run, whole; fields of the same name mean what they do in `TrainConfig`.

    Raises:
        InputError: a view's side is no multiple of the patch, or a view has fewer than two patches.
    """

    name: str
    steps: int
    lr: float = 1.5e-3
    final_lr: float = 1e-5
    warmup: int = 100
    hold: float = 0.0
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    bf16: bool = True
    seed: int = 0
    workers: int = 0
    save_every_s: float = 240.0
    log_every: int = 20
    encoder: NanoEncoderConfig = field(default_factory=NanoEncoderConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hiding: HidingConfig = field(default_factory=HidingConfig)

    def __post_init__(self) -> None:
        patch = self.hiding.patch
        for height, width in (size for _, sizes in self.sampling.phases for size in sizes):
            if height % patch or width % patch or height * width < 2 * patch**2:
                raise InputError(
                    f"views are made of two or more whole patches of {patch} pixels, got {height} x {width}"
                )


def pretrain(
    config: PretrainConfig,
    data: str | Path,
    out: str | Path,
    device: str = "cpu",
    photographs: str | Path | None = None,
    seconds: float | None = None,
) -> Path:
    """Pre-train, or go on, and return the path of the last checkpoint.

    Args:
        config: the recipe.
        data: folder of tar shards, of which only the pictures are used, those held back left out.
        out: folder for runs; the run writes to ``out/NAME``.
        device: "cpu" or "cuda".
        photographs: folder or tar file of more pictures.
        seconds: stop (resumably) after this long.
    """
    keep_freed_memory()
    folder = Path(out) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    target = torch.device(device)
    team = join_team(target)
    pictures = Photographs(photographs) if photographs is not None else None
    torch.manual_seed(config.seed)
    model = MaskedImageModel(config.encoder)
    run = Run(config, model, folder, target, team)
    sources = sorted(
        {shard.source for shard in open_shards(data)} | ({pictures.source} if pictures else set())
    )
    if team.leads:
        (folder / "config.json").write_text(json.dumps(asdict(config) | {"sources": sources}, indent=1))
    lesson = Lesson(
        lambda first: _batches(config, data, pictures, first, team, target),
        lambda batch: _loss(model, batch.to(target)),
        lambda means: f"loss {means['loss']:.4f}  gradient {means['gradient_norm']:.2f}",
    )
    run.go(lesson, seconds)
    if team.leads and run.done:
        _save_encoder(run, config.name, sources)
    team.wait()
    return run.path


def _batches(
    config: PretrainConfig,
    data: str | Path,
    photographs: Photographs | None,
    first: int,
    team: Team,
    device: torch.device,
) -> Iterator[list[MaskedBatch]]:
    shards = open_shards(data)
    sampling = replace(config.sampling, images=max(1, config.sampling.images // team.size))
    names = [shard.source for shard in shards]
    source = MaskedBatchSource(shards, names, photographs, sampling, config.hiding, config.seed, team.size)
    pin_memory = device.type == "cuda"
    for batch in numbered_batches(source, first, config.steps, team, config.workers, pin_memory):
        yield [batch]


def _loss(model: MaskedImageModel, batch: MaskedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    pixels = normalise(batch.pixels, PIXEL_MEAN, PIXEL_STD).contiguous(memory_format=torch.channels_last)
    loss = masked_loss(model(pixels, batch.hidden).float(), pixels, batch.hidden)
    return loss, {"loss": loss.detach()}


def _save_encoder(run: Run, recipe: str, sources: list[str]) -> None:
    prefix = "encoder."
    tensors = {k.removeprefix(prefix): v for k, v in run.average.items() if k.startswith(prefix)}
    facts = {
        "recipe": recipe,
        "steps": str(run.numbers["step"]),
        "hours": str(round(run.numbers["seconds"] / 3600, 2)),
    }
    save_encoder(tensors, run.path.with_name(ENCODER), sources, facts)
