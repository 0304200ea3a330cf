"""Several processes train one model on their own batches, on one machine or many.

    torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_v0 --data ...

Each process holds the whole model; after every backward pass the gradients are averaged, so all take the same
step. On a CPU, processes of one thread each beat threads in one process: no operator waits for a sibling.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """This process among its siblings."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes logs and checkpoints."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the team."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(
            gradients, torch.split(flat / self.size, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view(gradient.shape))

    def agree(self, wish: bool) -> bool:
        """The leader's answer, in every process."""
        if self.size == 1:
            return wish
        answer = torch.tensor([float(wish)])
        dist.broadcast(answer, src=0)
        return bool(answer[0] > 0)

    def gather_states(self, state: Tensor) -> list[Tensor]:
        """Every member's random state (1-D uint8, CPU), in the order of ranks."""
        if self.size == 1:
            return [state]
        states = [torch.empty_like(state) for _ in range(self.size)]
        dist.all_gather(states, state)
        return states

    def wait(self) -> None:
        """Return when every member has come here."""
        if self.size > 1:
            dist.barrier()


def join_team(device: torch.device) -> Team:
    """The team that torchrun started this process in, or a team of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team()
    if not dist.is_initialized():
        dist.init_process_group("gloo")
        atexit.register(_leave_team)
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return Team(int(os.environ["RANK"]), size)


def _leave_team() -> None:
    """End the backend's threads while the interpreter still stands.

    Left to the end of the process they at times abort it (SIGABRT, "terminate called without an active exception")
    after all its work is done: 4 of 44 processes on a busy machine, none of 144 that left in this way.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
