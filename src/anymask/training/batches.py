"""Batches by number, handed to the processes of a team: each has its own, made ahead by workers where asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .parallel import Team

T = TypeVar("T")


def numbered_batches(
    source: Dataset[T], start: int, stop: int, team: Team, workers: int, pin_memory: bool
) -> Iterator[T]:
    """This process's share of the batches ``start`` to ``stop`` (numbers per process) of a map-style ``source``."""
    yield from DataLoader(
        source,
        batch_size=None,
        sampler=_Numbers(start, stop, team),
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread if workers else None,
    )


class _Numbers(Sampler[int]):
    """Numbers of the batches that fall to one process: every one of the team has its own."""

    def __init__(self, start: int, stop: int, team: Team) -> None:
        self._range = range(start * team.size + team.rank, stop * team.size, team.size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def _one_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks: large tensors otherwise fault their pages in again at every step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, value in (
            (-3, 32 << 20),
            (-1, 2**31 - 1),
            (-2, 256 << 20),
        ):  # mmap and trim thresholds, top pad
            libc.mallopt(option, value)
    except OSError:
        return
