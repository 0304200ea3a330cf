"""What to make of many masks: one label for each pixel, which is part of which, and no duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import InputError, MaskError
from anymask.masks import rle
from anymask.types import Mask

__all__ = ["DUPLICATE_POLICIES", "LABEL_POLICIES", "Nesting", "label_map", "merge_duplicates", "nest"]

LABEL_POLICIES: Final = ("smaller_on_top", "better_on_top")
DUPLICATE_POLICIES: Final = ("best", "majority", "union")


def label_map(
    masks: Sequence[Mask], policy: str = "smaller_on_top", image_size: tuple[int, int] | None = None
) -> NDArray[np.int32]:
    """Non-overlapping labels (H, W): 0 where no mask is, i + 1 where ``masks[i]`` lies on top.

    With ``smaller_on_top`` a part shows on its whole; with ``better_on_top`` the higher score does. Of equals the
    earlier lies on top. A mask that is covered altogether has no pixel. ``image_size`` (height, width) is needed only
    when there is no mask.

    Raises:
        InputError: another policy.
        MaskError: masks of several sizes, or neither mask nor size.
    """
    if policy not in LABEL_POLICIES:
        raise InputError(f"the policy is one of {', '.join(LABEL_POLICIES)}, not {policy!r:.40}")
    size = _common_size(masks, image_size)
    ranks = [mask.area if policy == "smaller_on_top" else -mask.score for mask in masks]
    labels = np.zeros((size[1], size[0]), dtype=np.int32)  # transposed, as run lengths go down the columns
    flat = labels.reshape(-1)
    for index in sorted(range(len(masks)), key=lambda index: (ranks[index], index), reverse=True):
        ends = np.cumsum(masks[index].counts)
        for start, end in zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=True):
            flat[start:end] = index + 1
    return np.ascontiguousarray(labels.T)


@dataclass(frozen=True)
class Nesting:
    """Which mask is part of which; made by `nest`.

    Attributes:
        parents: for each mask the index of the smallest mask that holds it, or None.
    """

    parents: tuple[int | None, ...]

    @property
    def roots(self) -> tuple[int, ...]:
        """Masks that are part of no other."""
        return tuple(index for index, parent in enumerate(self.parents) if parent is None)

    def children(self, index: int) -> tuple[int, ...]:
        """The direct parts of a mask."""
        return tuple(part for part, parent in enumerate(self.parents) if parent == index)

    def depth(self, index: int) -> int:
        """How many masks hold it, one in the other; 0 for a root."""
        parent = self.parents[index]
        return 0 if parent is None else 1 + self.depth(parent)

    def walk(self) -> Iterator[tuple[int, int]]:
        """(index, depth) of every mask, each before its parts."""
        waiting = [(index, 0) for index in reversed(self.roots)]
        while waiting:
            index, depth = waiting.pop()
            yield index, depth
            waiting += [(part, depth + 1) for part in reversed(self.children(index))]


def nest(masks: Sequence[Mask], containment: float = 0.9) -> Nesting:
    """The tree of parts: a mask belongs to the smallest larger one that holds at least ``containment`` of its pixels.

    Of masks of equal area the later is part of the earlier. Masks without a pixel are roots.

    Raises:
        InputError: a containment that is not above 0.5 and at most 1.
        MaskError: masks of several sizes.
    """
    if not 0.5 < containment <= 1:
        raise InputError(f"the containment must be above 0.5 and at most 1, got {containment!r:.40}")
    if masks:
        _common_size(masks, None)
    areas = [mask.area for mask in masks]
    boxes = [mask.box_xyxy for mask in masks]
    order = sorted(range(len(masks)), key=lambda index: (areas[index], -index))
    parents: list[int | None] = [None] * len(masks)
    for place, part in enumerate(order):
        needed = containment * areas[part]
        for whole in order[place + 1 :]:
            if not areas[part] or _box_overlap(boxes[part], boxes[whole]) < needed:
                continue
            if rle.intersection(masks[part].counts, masks[whole].counts) >= needed:
                parents[part] = whole
                break
    return Nesting(tuple(parents))


def merge_duplicates(masks: Sequence[Mask], iou_threshold: float = 0.9, policy: str = "best") -> list[Mask]:
    """One mask for each group of near-equal ones, best first; groups are of pixels, not of boxes.

    The best mask not yet in a group gathers all others that overlap it by ``iou_threshold`` or more. ``best`` keeps it
    as it is; ``majority`` gives it the pixels that more than half of the group have, ``union`` those that any has.
    Score, click and crop are the best one's; a mask whose pixels changed has no stability score and no logits.

    Raises:
        InputError: another policy, or a threshold that is not above 0 and at most 1.
        MaskError: masks of several sizes.
    """
    if policy not in DUPLICATE_POLICIES:
        raise InputError(f"the policy is one of {', '.join(DUPLICATE_POLICIES)}, not {policy!r:.40}")
    if not 0 < iou_threshold <= 1:
        raise InputError(
            f"the overlap of duplicates must be above 0 and at most 1, got {iou_threshold!r:.40}"
        )
    if masks:
        _common_size(masks, None)
    waiting = sorted(range(len(masks)), key=lambda index: (-masks[index].score, index))
    areas, boxes = [mask.area for mask in masks], [mask.box_xyxy for mask in masks]
    merged = []
    while waiting:
        best, rest = waiting[0], waiting[1:]
        group, waiting = [best], []
        for other in rest:
            most = min(areas[best], areas[other], _box_overlap(boxes[best], boxes[other]))
            possible = most >= iou_threshold * max(areas[best], areas[other])
            if possible and rle.iou(masks[best].counts, masks[other].counts) >= iou_threshold:
                group.append(other)
            else:
                waiting.append(other)
        merged.append(_merged([masks[index] for index in group], policy))
    return merged


def _merged(group: list[Mask], policy: str) -> Mask:
    best = group[0]
    if policy == "best" or len(group) == 1:
        return best
    votes = np.zeros(best.size, dtype=np.int32)
    for mask in group:
        votes += mask.array
    array = votes > (0 if policy == "union" else len(group) / 2)
    if np.array_equal(array, best.array):
        return best
    return Mask.from_rle(rle.encode(array), best.score, point=best.point, crop_box=best.crop_box)


def _common_size(masks: Sequence[Mask], image_size: tuple[int, int] | None) -> tuple[int, int]:
    sizes = {mask.size for mask in masks}
    if image_size is not None:
        sizes.add((int(image_size[0]), int(image_size[1])))
    if len(sizes) != 1:
        raise MaskError(
            f"masks must be of one size, got {sorted(sizes)}"
            if sizes
            else "without masks give image_size=(height, width)"
        )
    return sizes.pop()


def _box_overlap(one: tuple[int, int, int, int], two: tuple[int, int, int, int]) -> int:
    """Pixels that two half-open boxes have in common: a bound for what their masks have."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0) * max(height, 0)
