"""How weights move: the learning rate's course, which parameters decay, and the moving average of weights."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """What the learning rate's course depends on; `TrainConfig` says what each part means."""

    @property
    def steps(self) -> int: ...

    @property
    def lr(self) -> float: ...

    @property
    def final_lr(self) -> float: ...

    @property
    def warmup(self) -> int: ...

    @property
    def hold(self) -> float: ...


def learning_rate(step: int, config: Schedule) -> float:
    """Linear warm-up, perhaps a plateau, then half a cosine down to ``final_lr``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    falls = fall_starts(config)
    progress = max(0, step - falls) / max(1, config.steps - falls)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (
        1.0 + math.cos(math.pi * min(1.0, progress))
    )


def fall_starts(config: Schedule) -> int:
    """The first step at which the rate falls."""
    return config.warmup + int(config.hold * max(0, config.steps - config.warmup))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels; leave biases, norms and embeddings free."""
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_table = "tokens" in name or "kinds" in name
        (free if parameter.ndim < 2 or is_table else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: torch.nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch statistics, faster at the start."""
    decay = min(decay, (1.0 + step) / (10.0 + step))
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            average[key].lerp_(value, 1.0 - decay)
        else:
            average[key].copy_(value)
