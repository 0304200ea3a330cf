"""Masked image modelling: hide patches of a picture, predict them from the rest.

Xie et al., "SimMIM: a Simple Framework for Masked Image Modeling", CVPR 2022: hidden patches of the input are filled
with a learned colour, the encoder sees the whole grid (so that a convolutional one needs no change), a light head
predicts pixels, and the L1 distance counts on hidden patches only. Targets are normalised per patch as in He et al.,
"Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, section 4.

Shape legend: B images, H x W network pixels, P the patch's side, C channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.nano.encoder import NanoEncoder, NanoEncoderConfig

_FLAT = 1e-2
"""Added to a patch's variance (pixels of unit spread), so that the noise of a plain wall does not become a target."""


class MaskedImageModel(nn.Module):
    """nano's image encoder, the colour of what is hidden, and a linear head on each of the encoder's three outputs.

    The head reads all three, so that the neck is trained too; each predicts the pixels of its cells, and the three
    predictions are added.
    """

    def __init__(self, config: NanoEncoderConfig) -> None:
        super().__init__()
        self.encoder = NanoEncoder(config)
        self.hidden_colour = nn.Parameter(torch.zeros(3))
        self.from16 = nn.Conv2d(config.embedding_channels, 3 * 16**2, 1)
        self.from8 = nn.Conv2d(config.skip8_channels, 3 * 8**2, 1)
        self.from4 = nn.Conv2d(config.skip4_channels, 3 * 4**2, 1)

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """Predict pixels.

        Args:
            pixels: (B, 3, H, W) normalised RGB, H and W multiples of 32.
            hidden: (B, H/P, W/P) bool, patches that the encoder does not see.

        Returns:
            (B, 3, H, W) pixels, normalised per patch.
        """
        covered = enlarged(hidden, pixels.shape[-2:])
        features = self.encoder(torch.where(covered, self.hidden_colour.view(1, 3, 1, 1), pixels))
        return (
            F.pixel_shuffle(self.from16(features["embedding"]), 16)
            + F.pixel_shuffle(self.from8(features["skip8"]), 8)
            + F.pixel_shuffle(self.from4(features["skip4"]), 4)
        )


def enlarged(hidden: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Patches (B, H/P, W/P) -> pixels (B, 1, H, W)."""
    rows, columns = size[0] // hidden.shape[1], size[1] // hidden.shape[2]
    return hidden.repeat_interleave(rows, 1).repeat_interleave(columns, 2).unsqueeze(1)


def normalised_patches(pixels: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) with each patch of ``patch`` x ``patch`` pixels brought to zero mean and (nearly) unit spread."""
    folded = F.pixel_unshuffle(pixels, patch)  # (B, 3 P P, H/P, W/P)
    variance, mean = torch.var_mean(folded, dim=1, keepdim=True, correction=0)
    return F.pixel_shuffle((folded - mean) * torch.rsqrt(variance + _FLAT), patch)


def masked_loss(prediction: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
    """Mean L1 distance over the hidden patches, a scalar.

    Args:
        prediction: (B, 3, H, W), as `MaskedImageModel.forward` gives it.
        pixels: (B, 3, H, W) normalised RGB, whole.
        hidden: (B, H/P, W/P) bool, at least one of them True.
    """
    target = normalised_patches(pixels, pixels.shape[-2] // hidden.shape[1])
    covered = enlarged(hidden, pixels.shape[-2:]).expand_as(pixels)
    return (prediction.float() - target).abs()[covered].mean()


def draw_hidden(rows: int, columns: int, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(rows, columns) bool with ``share`` of the patches True, rounded, at least one hidden and one seen."""
    patches = rows * columns
    count = min(max(round(share * patches), 1), patches - 1)
    hidden = np.zeros(patches, dtype=np.bool_)
    hidden[rng.permutation(patches)[:count]] = True
    return hidden.reshape(rows, columns)
