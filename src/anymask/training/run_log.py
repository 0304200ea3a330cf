"""What a run tells while it goes: a console line with ETA, a JSON line per report, and TensorBoard where installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

Describe = Callable[[Mapping[str, float]], str]


class RunLog:
    """The reports of one run, appended to its folder.

    Args:
        folder: of the run.
        steps: of the whole run.
        every: steps that a report is the mean of.
        describe: what the console line says of the means.
    """

    def __init__(self, folder: Path, steps: int, every: int, describe: Describe) -> None:
        self._steps, self._every, self._describe = steps, every, describe
        self._console = Console(stderr=True, highlight=False)
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._file = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            self._board = None

    def add(self, step: int, scalars: Mapping[str, Tensor], seconds_per_step: float) -> None:
        """Take a step's scalars in, and report when it is time."""
        for key, value in scalars.items():
            self._sums[key] = self._sums.get(key, torch.zeros_like(value)) + value
        self._count += 1
        if self._count < self._every:
            return
        means = {k: float(v) / self._count for k, v in self._sums.items()}
        self._sums, self._count = {}, 0
        left = (self._steps - step - 1) * seconds_per_step
        self._console.print(
            f"step {step + 1}/{self._steps}  {self._describe(means)}"
            f"  {seconds_per_step:.2f} s/step  ETA {left / 60:.0f} min"
        )
        self._file.write(
            json.dumps({"step": step + 1, "s_per_step": round(seconds_per_step, 3), **means}) + "\n"
        )
        self._file.flush()
        if self._board is not None:
            for key, mean in means.items():
                self._board.add_scalar(key, mean, step + 1)

    def close(self) -> None:
        """End the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
