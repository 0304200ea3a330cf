"""Prompts as the networks of the SAM family take them: coordinates, labels and rough masks as tensors.

A point has a label: 1 foreground, 0 background, 2 and 3 the top-left and bottom-right corner of a box, -1 no
point at all. The published rule adds one -1 point to every prompt of points that comes without a box.

Source: `segment_anything/modeling/prompt_encoder.py` of the published code.

Axis letters: B prompts (objects), N points of one prompt, h x w the cells of the embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.errors import ModelError

NOT_A_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTensors:
    """B prompts as the network takes them; `of` and `join` build them.

    coords: B x N x 2 float, (x, y) in pixels of the network frame. labels: B x N, -1..3 as above.
    present: B x N bool or None; False takes a point out of the attention, so a padded prompt gives exactly
    what it gives alone (a -1 label alone stays a token, as published). masks: B x 1 x 4h x 4w logits or None.
    has_mask: B bool or None (all): where False, `masks` is ignored.
    """

    coords: Tensor
    labels: Tensor
    present: Tensor | None = None
    masks: Tensor | None = None
    has_mask: Tensor | None = None

    def __post_init__(self) -> None:
        batch = tuple(self.labels.shape)
        if len(batch) != 2 or tuple(self.coords.shape) != (*batch, 2):
            raise ModelError(
                f"prompts need coords B x N x 2 and labels B x N, not {tuple(self.coords.shape)} and {batch}"
            )
        if not bool(torch.isfinite(self.coords).all()):
            raise ModelError("prompt coordinates must be finite numbers")
        known = (self.labels >= NOT_A_POINT) & (self.labels <= BOTTOM_RIGHT)
        if not bool(known.all()):
            strange = sorted(set(self.labels[~known].tolist()))
            raise ModelError(f"point labels must be -1, 0, 1, 2 or 3 and are {strange}")
        if self.present is not None and tuple(self.present.shape) != batch:
            raise ModelError(f"`present` must be {batch} like the labels, not {tuple(self.present.shape)}")
        if self.masks is not None and (self.masks.ndim != 4 or tuple(self.masks.shape[:2]) != (batch[0], 1)):
            raise ModelError(f"mask prompts must be {batch[0]} x 1 x H x W, not {tuple(self.masks.shape)}")
        if self.has_mask is not None and (self.masks is None or tuple(self.has_mask.shape) != batch[:1]):
            raise ModelError("`has_mask` needs one value per prompt, and masks")

    def __len__(self) -> int:
        return self.labels.shape[0]

    @classmethod
    def of(
        cls,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> PromptTensors:
        """Points (B x N x 2) with labels (B x N), boxes (B x 4, x0 y0 x1 y1), masks: the published rules.

        Points without boxes get one -1 point at the end; boxes become two corner points after the points.
        """
        if (points is None) != (labels is None):
            raise ModelError("points and labels come together: one of them is missing")
        given = next((t for t in (points, boxes, masks) if t is not None), None)
        if given is None:
            raise ModelError("a prompt needs points, a box or a mask")
        b, device = given.shape[0], given.device
        if any(t is not None and t.shape[0] != b for t in (points, labels, boxes, masks)):
            raise ModelError("points, labels, boxes and masks must be for the same number of prompts")
        if boxes is not None and tuple(boxes.shape) != (b, 4):
            raise ModelError(f"boxes must be B x 4 and are {tuple(boxes.shape)}")
        parts = [torch.zeros(b, 0, 2, device=device)]
        label_parts = [torch.zeros(b, 0, dtype=torch.long, device=device)]
        if points is not None and labels is not None:
            parts.append(points.to(torch.float32))
            label_parts.append(labels.to(torch.long))
            if boxes is None:
                parts.append(torch.zeros(b, 1, 2, device=device))
                label_parts.append(torch.full((b, 1), NOT_A_POINT, device=device))
        if boxes is not None:
            parts.append(boxes.to(torch.float32).reshape(b, 2, 2))
            label_parts.append(torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device).expand(b, 2))
        return cls(torch.cat(parts, 1), torch.cat(label_parts, 1), masks=masks)

    @classmethod
    def from_padded(
        cls, coords: Tensor, labels: Tensor, masks: Tensor | None = None, has_mask: Tensor | None = None
    ) -> PromptTensors:
        """A batch padded with -1 points of any number -> prompts that answer as each would alone.

        The first -1 of a prompt stays when it has points and no box (it is added where it lacks); all others
        are taken out of the attention. Masks that no prompt has are dropped.
        """
        labels = labels.long()
        real = labels != NOT_A_POINT
        wants_pad = real.any(1) & ~(labels >= TOP_LEFT).any(1)
        if bool((wants_pad & real.all(1)).any()):
            coords = F.pad(coords, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=NOT_A_POINT)
            real = labels != NOT_A_POINT
        first_pad = ~real & ((~real).cumsum(1) == 1)
        present = real | (first_pad & wants_pad[:, None])
        if has_mask is not None:
            has_mask = has_mask.bool()
            if not bool(has_mask.any()):
                masks = has_mask = None
        return cls(coords, labels, None if bool(present.all()) else present, masks, has_mask)

    @classmethod
    def join(cls, prompts: Sequence[PromptTensors]) -> PromptTensors:
        """One ragged batch of all: shorter prompts are padded with points labelled -1 and not present."""
        if not prompts:
            raise ModelError("there are no prompts to join")
        longest = max(p.labels.shape[1] for p in prompts)
        coords, labels, present = [], [], []
        for p in prompts:
            missing = longest - p.labels.shape[1]
            here = torch.ones_like(p.labels, dtype=torch.bool) if p.present is None else p.present
            coords.append(F.pad(p.coords, (0, 0, 0, missing)))
            labels.append(F.pad(p.labels, (0, missing), value=NOT_A_POINT))
            present.append(F.pad(here, (0, missing), value=False))
        everywhere = torch.cat(present)
        masks, has_mask = _join_masks(prompts)
        return cls(
            torch.cat(coords),
            torch.cat(labels),
            None if bool(everywhere.all()) else everywhere,
            masks,
            None if has_mask is None or bool(has_mask.all()) else has_mask,
        )


def _join_masks(prompts: Sequence[PromptTensors]) -> tuple[Tensor | None, Tensor | None]:
    """Masks of all prompts, zeros where a prompt has none, and a flag for each."""
    example = next((p.masks for p in prompts if p.masks is not None), None)
    if example is None:
        return None, None
    masks, flags = [], []
    for p in prompts:
        if p.masks is None:
            masks.append(example.new_zeros(len(p), *example.shape[1:]))
            flags.append(torch.zeros(len(p), dtype=torch.bool, device=example.device))
        elif p.masks.shape[1:] != example.shape[1:]:
            raise ModelError("mask prompts of one batch must have the same size")
        else:
            masks.append(p.masks)
            every = torch.ones(len(p), dtype=torch.bool, device=example.device)
            flags.append(every if p.has_mask is None else p.has_mask)
    return torch.cat(masks), torch.cat(flags)
