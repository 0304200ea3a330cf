"""What every training run has: steps, whole checkpoints, a moving average, a time limit; what it learns is given.

The same on a CPU and on a GPU, in one process and in several. A run that was killed goes on as if nothing had happened,
as long as its batches are a pure function of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .checkpoint import load_checkpoint, save_checkpoint
from .optimisation import Schedule, fall_starts, learning_rate, parameter_groups, update_average
from .parallel import Team
from .run_log import RunLog

BatchT = TypeVar("BatchT")
Scalars = dict[str, Tensor]
LAST = "last.safetensors"
HELD = "held.safetensors"


class RunConfig(Schedule, Protocol):
    """The numbers that steps and checkpoints depend on; `TrainConfig` says what each means."""

    @property
    def weight_decay(self) -> float: ...

    @property
    def clip(self) -> float: ...

    @property
    def average(self) -> float: ...

    @property
    def bf16(self) -> bool: ...

    @property
    def seed(self) -> int: ...

    @property
    def save_every_s(self) -> float: ...

    @property
    def log_every(self) -> int: ...


@dataclass(frozen=True)
class Lesson(Generic[BatchT]):
    """What a run learns.

    Attributes:
        batches: the first step -> the batches of each step from there on.
        loss: a batch -> a scalar to go down, and scalars to report.
        describe: means of the scalars -> a line for people.
    """

    batches: Callable[[int], Iterable[Sequence[BatchT]]]
    loss: Callable[[BatchT], tuple[Tensor, Scalars]]
    describe: Callable[[Mapping[str, float]], str]


class Run:
    """A model on its way; where ``folder`` holds a checkpoint, it goes on from there.

    Attributes:
        generator: for all chance within a step; its state is saved.
        average: the moving average of weights and batch statistics, by name.
        numbers: ``step`` and ``seconds`` so far.
        path: of the checkpoint.
    """

    def __init__(
        self, config: RunConfig, model: nn.Module, folder: Path, device: torch.device, team: Team
    ) -> None:
        self.config, self.device, self.team = config, device, team
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98)
        )
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.generator = torch.Generator(device).manual_seed(config.seed + 1_000_003 * team.rank)
        self.path = folder / LAST
        self.numbers: dict[str, Any] = {"step": 0, "seconds": 0.0}
        if self.path.exists():
            self.numbers = load_checkpoint(
                self.path, self.model, self.average, self.optimizer, self.generator, team.rank, device
            )

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return int(self.numbers["step"]) >= self.config.steps

    def go(self, lesson: Lesson[BatchT], seconds: float | None = None) -> None:
        """Make the steps that are left, or as many as fit into ``seconds``, and save."""
        config = self.config
        first = int(self.numbers["step"])
        started = saved = time.monotonic()
        before = float(self.numbers["seconds"])
        log = None
        if self.team.leads:
            log = RunLog(self.path.parent, config.steps, config.log_every, lesson.describe)
        self.model.train()
        for step, batches in enumerate(lesson.batches(first), start=first):
            scalars = self._step(step, batches, lesson)
            now = time.monotonic()
            self.numbers = {"step": step + 1, "seconds": before + now - started}
            if log is not None:
                log.add(step, scalars, (now - started) / (step + 1 - first))
            out_of_time = self.team.agree(seconds is not None and now - started > seconds)
            save_due = self.team.agree(now - saved > config.save_every_s)
            if save_due or out_of_time or step + 1 == config.steps:
                self._save(LAST)
                saved = now
            if config.hold > 0 and step + 1 == fall_starts(config):
                self._save(HELD)
            if out_of_time:
                break
        if log is not None:
            log.close()

    def _step(self, step: int, batches: Sequence[BatchT], lesson: Lesson[BatchT]) -> Scalars:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        use_bf16 = config.bf16 and self.device.type == "cuda"
        scalars: Scalars = {}
        for batch in batches:
            with torch.autocast("cuda", torch.bfloat16) if use_bf16 else nullcontext():
                loss, scalars = lesson.loss(batch)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
        self.team.average_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        update_average(self.average, self.model, config.average, step)
        return scalars | {"gradient_norm": norm.detach()}

    def _save(self, name: str) -> None:
        states = self.team.gather_states(self.generator.get_state())
        if self.team.leads:
            path = self.path.with_name(name)
            save_checkpoint(path, self.model, self.average, self.optimizer, states, self.numbers)
