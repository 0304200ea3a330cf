"""Who takes part in `automatic`, with which settings, and the files that the processes share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anymask.automatic.settings import AutomaticSettings
from anymask.types import Mask

__all__ = [
    "AFTER_DECODER",
    "CONTENDERS",
    "INT8",
    "MEMORY",
    "PARTS",
    "PEER",
    "PLAIN",
    "PLANTED",
    "POINTS_PER_BATCH",
    "TINY",
    "Contender",
    "Job",
    "left_out",
    "load_masks",
    "masks_file",
    "of_parts",
    "save_masks",
]

PLAIN: Final = "straightforward"
PEER: Final = "transformers pipeline"
AFTER_DECODER: Final = "after the decoder"
"""Not a contender: a process that has the decoder's answers already."""
PLANTED: Final = "planted"
TINY: Final = "planted, tiny"
"""Weights that are not a file."""
INT8: Final = "int8"
"""The folder of the graphs whose encoder is in int8, beside that of the others."""
POINTS_PER_BATCH: Final = 64
"""Of the straightforward way and the peer, as published."""


@dataclass(frozen=True)
class Contender:
    """One way to find everything.

    Attributes:
        name: in tables and on the command line.
        model: ``vit_b`` or ``nano``.
        engine: ``onnx`` or ``openvino``; empty for the two that are not ours.
        precision: ``fp32``, ``bf16`` or ``int8``.
        effort: as of `anymask auto`; ``adaptive`` is the full grid asked from coarse to fine.
        full: the contender with all clicks whose masks this one should find again.
    """

    name: str
    model: str = "vit_b"
    engine: str = ""
    precision: str = "fp32"
    effort: str = "normal"
    full: str | None = None

    @property
    def exact(self) -> bool:
        """Whether its masks are to be those of the straightforward way."""
        return self.model == "vit_b" and bool(self.engine) and self.precision == "fp32" and self.full is None


_ALL: Final = (
    Contender(PLAIN),
    Contender(PEER),
    Contender("onnxruntime", engine="onnx"),
    Contender("openvino", engine="openvino"),
    Contender("openvino bf16", engine="openvino", precision="bf16"),
    Contender(
        "openvino bf16 adaptive", engine="openvino", precision="bf16", effort="adaptive", full="openvino bf16"
    ),
    Contender("openvino bf16 fast", engine="openvino", precision="bf16", effort="fast", full="openvino bf16"),
    Contender("openvino int8", engine="openvino", precision="int8"),
    Contender(
        "openvino int8 adaptive", engine="openvino", precision="int8", effort="adaptive", full="openvino int8"
    ),
    Contender("nano", "nano", "onnx"),
    Contender("nano adaptive", "nano", "onnx", effort="adaptive", full="nano"),
    Contender("nano fast", "nano", "onnx", effort="fast", full="nano"),
    Contender("nano openvino", "nano", "openvino"),
    Contender("nano openvino fast", "nano", "openvino", effort="fast", full="nano openvino"),
)
CONTENDERS: Final = {contender.name: contender for contender in _ALL}
MEMORY: Final = "memory"
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "fp32": (PLAIN, "onnxruntime", "openvino"),
    "bf16": (PLAIN, "openvino bf16", "openvino bf16 adaptive", "openvino bf16 fast"),
    "int8": (PLAIN, "openvino int8", "openvino int8 adaptive"),
    "nano": (PLAIN, "nano", "nano adaptive", "nano fast", "nano openvino", "nano openvino fast"),
    "transformers": (PEER, "openvino", "openvino bf16", "openvino bf16 adaptive", "openvino int8 adaptive"),
    "after": (AFTER_DECODER,),
    MEMORY: (),
}
"""Who takes turns in a part that can be measured alone: always one that ours are compared with."""


def of_parts(parts: Iterable[str]) -> list[str]:
    """The contenders of these parts, each once, in the order of all."""
    asked = {name for part in parts for name in PARTS[part]}
    return [name for name in CONTENDERS if name in asked]


def left_out(contender: Contender) -> str | None:
    """Why a contender cannot run here; None when it can."""
    from anymask.runtime.machine import installed

    if contender.engine == "openvino" and not installed("openvino"):
        return "openvino is not installed"
    if contender.precision == "bf16":
        from anymask.runtime.openvino_backend import open_core, runs_bf16

        if not runs_bf16(open_core()):
            return "this processor has no bfloat16 arithmetic"
    return None


@dataclass(frozen=True)
class Job:
    """What all contenders are given; lies as ``job.json`` in the folder of weights and graphs.

    Attributes:
        weights: name of a file, or `PLANTED` or `TINY`.
        side: pixels of the network's frame.
        photographs: paths.
        thresholds: of predicted IoU and stability, for ViT-B; nano has its own.
        points_per_side: of the full grid.
        batch: clicks decoded together by ours; None for the package's own choice.
        threads: for every engine.
    """

    weights: str
    side: int
    photographs: list[str]
    thresholds: tuple[float, float]
    points_per_side: int
    batch: int | None
    threads: int

    def save(self, folder: Path) -> None:
        """Write it."""
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Read it back."""
        given = json.loads((folder / "job.json").read_text())
        return cls(**{**given, "thresholds": tuple(given["thresholds"])})

    def settings(self, contender: Contender) -> AutomaticSettings:
        """The contender's; what is not the effort's is the package's."""
        given: dict[str, Any] = {}
        if contender.model == "vit_b":
            given = {"pred_iou_thresh": self.thresholds[0], "stability_score_thresh": self.thresholds[1]}
        if not contender.engine:
            given["points_per_batch"] = POINTS_PER_BATCH
        elif self.batch is not None:
            given["points_per_batch"] = self.batch
        if contender.effort == "fast":
            return AutomaticSettings.for_effort(
                "fast", contender.model, points_per_side=self.points_per_side // 2, **given
            )
        return AutomaticSettings.for_effort(
            model=contender.model,
            points_per_side=self.points_per_side,
            adaptive=contender.effort == "adaptive",
            **given,
        )


def masks_file(folder: Path, name: str, photograph: int) -> Path:
    """Where a contender's process leaves its masks."""
    return folder / f"{name}.{photograph}.json"


def save_masks(path: Path, masks: list[Mask]) -> None:
    """As COCO run lengths with their scores."""
    path.write_text(json.dumps([[mask.rle, mask.score] for mask in masks]))


def load_masks(path: Path) -> list[Mask]:
    """What `save_masks` wrote."""
    return [Mask.from_rle(rle, score) for rle, score in json.loads(path.read_text())]
