"""How the contenders of `automatic` take turns, and how far their masks agree."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from anymask.automatic.recall import FOUND_IOU, found_again
from anymask.types import Mask
from automatic_contenders import AFTER_DECODER, CONTENDERS, PLAIN, Contender, load_masks, masks_file
from automatic_engines import READY

__all__ = ["Worker", "agreement", "race", "race_after_decoder", "recall", "same_masks"]

SAME_IOU: Final = 0.99
SHORT_S, SHORT_RUNS = 10.0, 3
"""Runs of fewer seconds are made so often in a turn: what disturbs a machine for a moment is much of them."""
Runs = dict[str, list[dict[str, Any]]]
"""By contender, the figures of each of its runs."""


class Worker:
    """The parent's side of a contender's process."""

    def __init__(self, name: str, script: Path, folder: Path) -> None:
        """Starts ``script --worker NAME --folder FOLDER``; returns when it is ready."""
        self.name = name
        command = [sys.executable, str(script), "--worker", name, "--folder", str(folder)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._expect()

    def run(self, photograph: int) -> dict[str, Any]:
        """Its figures for a photograph."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{photograph}\n")
        self._process.stdin.flush()
        figures: dict[str, Any] = json.loads(self._expect())
        return figures

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def _expect(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith((READY, "{")):
                return line.strip()
        self._errors.seek(0)
        raise SystemExit(f"{self.name} ended: {self._errors.read().decode(errors='replace')[-2000:]}")


def race(
    names: Sequence[str],
    script: Path,
    folder: Path,
    photographs: Sequence[int],
    rounds: int,
    sitting: int,
) -> Runs:
    """Every run of these contenders; every other turn, counted on from ``sitting``, goes the other way round.

    In a turn a contender makes one run, or `SHORT_RUNS` where a run takes less than `SHORT_S`.
    """
    runs: Runs = {name: [] for name in names}
    workers = []
    for name in names:
        print(f"opening {name}", file=sys.stderr)
        workers.append(Worker(name, script, folder))
    turns = [(turn, index) for turn in range(rounds) for index in photographs]
    for number, (turn, index) in enumerate(turns, sitting):
        for worker in workers if number % 2 == 0 else workers[::-1]:
            for _ in range(SHORT_RUNS):
                figures = {"sitting": sitting, "photograph": index, "round": turn, **worker.run(index)}
                runs[worker.name].append(figures)
                print(
                    f"round {turn + 1}, photograph {index + 1}: {worker.name}: "
                    f"{figures['seconds']:.2f} s, {figures['masks']} masks, {figures['peak_mb']:.0f} MB",
                    file=sys.stderr,
                )
                if figures["seconds"] >= SHORT_S:
                    break
    for worker in workers:
        worker.close()
    return runs


def race_after_decoder(script: Path, folder: Path, photographs: Sequence[int], sitting: int) -> Runs:
    """Both ways from the decoder's answers on."""
    worker = Worker(AFTER_DECODER, script, folder)
    runs = []
    for index in photographs:
        figures = {"sitting": sitting, "photograph": index, **worker.run(index)}
        runs.append(figures)
        print(
            f"after the decoder, photograph {index + 1}: {figures['plain_s']:.2f} s the straightforward way, "
            f"{figures['ours_s']:.3f} s ours",
            file=sys.stderr,
        )
    worker.close()
    return {AFTER_DECODER: runs}


def agreement(folder: Path, photographs: int) -> dict[str, dict[str, float]]:
    """Of all photographs together: masks that are the same as the straightforward ones, and found again.

    Taken from the files of masks in ``folder``; a contender is compared on the photographs that both have.
    """
    result: dict[str, dict[str, float]] = {}
    for contender in CONTENDERS.values():
        reference = _reference(contender)
        if reference is None:
            continue
        shared = [
            index
            for index in range(photographs)
            if all(masks_file(folder, name, index).exists() for name in (reference, contender.name))
        ]
        if not shared:
            continue
        wanted, found = (
            [load_masks(masks_file(folder, name, index)) for index in shared]
            for name in (reference, contender.name)
        )
        same = same_masks(wanted, found) if reference == PLAIN else {}
        result[contender.name] = {**same, "recall": recall(wanted, found), "photographs": len(shared)}
    return result


def _reference(contender: Contender) -> str | None:
    """Whose masks it should find."""
    if contender.full is not None:
        return contender.full
    return PLAIN if contender.model == "vit_b" and contender.name != PLAIN else None


def same_masks(wanted: Sequence[Sequence[Mask]], found: Sequence[Sequence[Mask]]) -> dict[str, float]:
    """Shares of masks with a partner at IoU `SAME_IOU`, by photographs: of the wanted, and of the found."""
    return {
        "same_of_wanted": recall(wanted, found, SAME_IOU),
        "same_of_found": recall(found, wanted, SAME_IOU),
    }


def recall(
    wanted: Sequence[Sequence[Mask]], found: Sequence[Sequence[Mask]], iou: float = FOUND_IOU
) -> float:
    """Share of the wanted masks of all photographs that are found; 1 where none is wanted."""
    total = sum(map(len, wanted))
    hits = sum(found_again(one, other, iou) for one, other in zip(wanted, found, strict=True))
    return hits / total if total else 1.0
