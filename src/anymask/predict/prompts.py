"""Prompts in image pixels -> the arrays that decoders take.

The published decoder's convention: points and box corners share one list of slots with a label each; a prompt
without a box has one slot labelled -1 after its points (`PromptEncoder._embed_points` of segment_anything); a
batch of unequal prompts is filled up with further -1, which every backend ignores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anymask.errors import PromptError
from anymask.frame import Frame
from anymask.runtime.backend import FloatArray, PromptArrays
from anymask.types import Prompt

PADDING, TOP_LEFT, BOTTOM_RIGHT = -1.0, 2.0, 3.0


def prompt_slots(prompt: Prompt) -> int:
    """Slots that a prompt fills: its points, and two box corners or one padding point."""
    return (0 if prompt.points is None else len(prompt.points)) + (1 if prompt.box is None else 2)


def prompt_arrays(prompts: Sequence[Prompt], frame: Frame, low_res_size: tuple[int, int]) -> PromptArrays:
    """Prompts for one image, any mix of points, box and mask each, as one batch.

    Args:
        prompts: one or more.
        frame: of the image; brings coordinates and full-size masks to the network.
        low_res_size: (height, width) of the model's logits in this frame.

    Raises `PromptError` when a prompt does not fit the image or a mask's logits do not fit the frame.
    """
    count = len(prompts)
    slots = max(prompt_slots(prompt) for prompt in prompts)
    points = np.zeros((count, slots, 2), dtype=np.float32)
    labels = np.full((count, slots), PADDING, dtype=np.float32)
    mask_input = np.zeros((count, 1, *low_res_size), dtype=np.float32)
    has_mask = np.zeros(count, dtype=np.float32)
    height, width = frame.image_size
    for index, prompt in enumerate(prompts):
        prompt.validate_for(width, height)
        used = 0
        if prompt.points is not None and prompt.labels is not None:
            used = len(prompt.points)
            points[index, :used] = frame.points_to_network(prompt.points)
            labels[index, :used] = prompt.labels
        if prompt.box is not None:
            points[index, used : used + 2] = frame.boxes_to_network(prompt.box).reshape(2, 2)
            labels[index, used : used + 2] = (TOP_LEFT, BOTTOM_RIGHT)
        if prompt.mask is not None:
            mask_input[index, 0] = _mask_logits(prompt, prompt.mask, frame, low_res_size)
            has_mask[index] = 1.0
    return PromptArrays(points, labels, mask_input, has_mask)


def _mask_logits(
    prompt: Prompt,
    mask: NDArray[np.bool_] | NDArray[np.float32],
    frame: Frame,
    low_res_size: tuple[int, int],
) -> FloatArray:
    if prompt.has_full_size_mask:
        return frame.mask_to_low_res(np.asarray(mask, dtype=np.bool_), low_res_size)
    if mask.shape != low_res_size:
        height, width = low_res_size
        raise PromptError(
            f"mask logits for this image and model are {width} x {height}, got {mask.shape[1]} x {mask.shape[0]}; "
            "give back Mask.low_res_logits of the same image, or a bool mask of the image's size"
        )
    return np.asarray(mask, dtype=np.float32)
