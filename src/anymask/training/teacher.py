"""Distillation: a larger model trained here answers the same prompts, and its answers are targets beside the masks.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, for masks: the teacher's probabilities say where an
outline is doubtful and which other readings a click has, neither of which one annotated mask can.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.errors import WeightsError
from anymask.model.families import load_network
from anymask.model.nano.network import Nano

from .interaction import PromptState


class Teacher:
    """A frozen nano that answers what the student is asked; it sees the same pixels and the student's own masks."""

    def __init__(self, path: str | Path, device: torch.device) -> None:
        """Read whole weights; raises `WeightsError` for a damaged file or another network than nano's."""
        network, _ = load_network(path)
        if not isinstance(network, Nano):
            raise WeightsError(f"a teacher has to be a nano of any size, {str(path)!r} is another network")
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.requires_grad_(False)
        self.features: dict[str, Tensor] = {}

    @torch.no_grad()
    def look(self, pixels: Tensor, masks: int) -> None:
        """Encode (B, 3, H, W) normalised pixels, for ``masks`` prompts an image."""
        features = self.network.encode(pixels)
        self.features = {name: value.repeat_interleave(masks, dim=0) for name, value in features.items()}

    def keep(self, prompts: Tensor) -> None:
        """Go on with some of the prompts, (B * masks,) bool."""
        self.features = {name: value[prompts] for name, value in self.features.items()}

    @torch.no_grad()
    def answer(self, state: PromptState) -> tuple[Tensor, Tensor]:
        """Probabilities (B, 4, h, w) and predicted IoU (B, 4) for the prompts, float32."""
        logits, quality = self.network.decode(
            self.features, state.points, state.labels, state.mask_input, state.has_mask
        )
        return logits.float().sigmoid(), quality.float()


def teacher_loss(logits: Tensor, quality: Tensor, taught: Tensor, taught_quality: Tensor) -> Tensor:
    """How far a student's four answers are from the teacher's, each from the one of its own place.

    Args:
        logits: (B, 4, h, w) of the student.
        quality: (B, 4) its predicted IoU.
        taught: (B, 4, h, w) probabilities of the teacher.
        taught_quality: (B, 4).

    Returns:
        Scalar: cross-entropy, Dice loss of squares (Milletari et al., 2016), which unlike that of sums is least where
        both are the same, and squared error of quality; means over prompts and answers.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, taught)
    answer = logits.sigmoid()
    overlap = (answer * taught).sum((-2, -1))
    whole = (answer * answer).sum((-2, -1)) + (taught * taught).sum((-2, -1))
    dice = 1.0 - (2.0 * overlap + 1.0) / (whole + 1.0)
    return entropy + dice.mean() + F.mse_loss(quality, taught_quality)
