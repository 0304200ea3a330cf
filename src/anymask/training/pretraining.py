"""Pre-training of nano's image encoder on pictures without masks (`masked_images`).

``python -m anymask.training.recipes.nano_pretrain`` starts or resumes it; the run's conventions are those of `loop`:
batches are a pure function of the step, the checkpoint is whole, a killed run goes on as if nothing had happened. At
the end the averaged encoder lies in ``encoder.safetensors``, where `TrainConfig.encoder_init` takes it from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.data.photographs import Photographs
from anymask.data.sa1b import open_shards
from anymask.errors import InputError
from anymask.model.nano.encoder import NanoEncoderConfig, normalise
from anymask.model.nano.network import PIXEL_MEAN, PIXEL_STD

from .batches import keep_freed_memory, numbered_batches
from .checkpoint import load_checkpoint, save_checkpoint
from .encoder_weights import save_encoder
from .masked_images import MaskedImageModel, masked_loss
from .optimisation import learning_rate, parameter_groups, update_average
from .parallel import Team, join_team
from .run_log import RunLog
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
    model = model.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98)
    )
    run = _Run(
        config,
        model,
        {k: v.detach().clone() for k, v in model.state_dict().items()},
        optimizer,
        torch.Generator(target).manual_seed(config.seed),
        folder / "last.safetensors",
        {"step": 0, "seconds": 0.0},
        target,
        team,
        sorted({shard.source for shard in open_shards(data)} | ({pictures.source} if pictures else set())),
    )
    if team.leads:
        (folder / "config.json").write_text(json.dumps(asdict(config) | {"sources": run.sources}, indent=1))
    run.restore()
    run.go(data, pictures, seconds)
    team.wait()
    return run.path


@dataclass
class _Run:
    config: PretrainConfig
    model: MaskedImageModel
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    path: Path
    numbers: dict[str, Any]
    device: torch.device
    team: Team
    sources: list[str]

    def restore(self) -> None:
        if self.path.exists():
            self.numbers = load_checkpoint(
                self.path,
                self.model,
                self.average,
                self.optimizer,
                self.generator,
                self.team.rank,
                self.device,
            )

    def go(self, data: str | Path, photographs: Photographs | None, seconds: float | None) -> None:
        config = self.config
        first = int(self.numbers["step"])
        started = saved = time.monotonic()
        before = float(self.numbers["seconds"])
        log = RunLog(self.path.parent, config.steps, config.log_every, _describe) if self.team.leads else None
        self.model.train()
        for step, batch in enumerate(self._batches(data, photographs, first), start=first):
            scalars = self._step(step, batch)
            now = time.monotonic()
            self.numbers = {"step": step + 1, "seconds": before + now - started}
            if log is not None:
                log.add(step, scalars, (now - started) / (step + 1 - first))
            out_of_time = self.team.agree(seconds is not None and now - started > seconds)
            save_due = self.team.agree(now - saved > config.save_every_s)
            if save_due or out_of_time or step + 1 == config.steps:
                self._save()
                saved = now
            if out_of_time:
                break
        if log is not None:
            log.close()
            if self.numbers["step"] >= config.steps:
                self._save_encoder()

    def _save(self) -> None:
        states = self.team.gather_states(self.generator.get_state())
        if self.team.leads:
            save_checkpoint(self.path, self.model, self.average, self.optimizer, states, self.numbers)

    def _save_encoder(self) -> None:
        prefix = "encoder."
        tensors = {k.removeprefix(prefix): v for k, v in self.average.items() if k.startswith(prefix)}
        facts = {
            "recipe": self.config.name,
            "steps": str(self.numbers["step"]),
            "hours": str(round(self.numbers["seconds"] / 3600, 2)),
        }
        save_encoder(tensors, self.path.with_name(ENCODER), self.sources, facts)

    def _batches(
        self, data: str | Path, photographs: Photographs | None, first: int
    ) -> Iterator[MaskedBatch]:
        config = self.config
        shards = open_shards(data)
        sampling = replace(config.sampling, images=max(1, config.sampling.images // self.team.size))
        names = [shard.source for shard in shards]
        source = MaskedBatchSource(
            shards, names, photographs, sampling, config.hiding, config.seed, self.team.size
        )
        pin_memory = self.device.type == "cuda"
        return numbered_batches(source, first, config.steps, self.team, config.workers, pin_memory)

    def _step(self, step: int, batch: MaskedBatch) -> dict[str, Tensor]:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = batch.to(self.device)
        pixels = normalise(batch.pixels, PIXEL_MEAN, PIXEL_STD).contiguous(memory_format=torch.channels_last)
        use_bf16 = config.bf16 and self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if use_bf16 else nullcontext():
            prediction = self.model(pixels, batch.hidden)
        loss = masked_loss(prediction, pixels, batch.hidden)
        loss.backward()  # type: ignore[no-untyped-call]
        self.team.average_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        update_average(self.average, self.model, config.average, step)
        return {"loss": loss.detach(), "gradient_norm": norm.detach()}


def _describe(means: Mapping[str, float]) -> str:
    return f"loss {means['loss']:.4f}  gradient {means['gradient_norm']:.2f}"
