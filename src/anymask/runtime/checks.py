"""What every backend checks of what it is given and of what it answers.

A frame's embedding has one cell per `EMBEDDING_STRIDE` network pixels in every model of the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anymask.errors import ModelError
from anymask.runtime.backend import NUM_MASKS, Features, FloatArray, ModelSpec, Promising, PromptArrays

EMBEDDING_STRIDE = 16


def check_pixels(spec: ModelSpec, pixels: FloatArray) -> None:
    """Raise `ModelError` unless ``pixels`` are (1, 3, H, W) float32 of a padded frame of this model."""
    _check_float32("pixels", pixels, 4)
    height, width = pixels.shape[2:]
    if pixels.shape[:2] != (1, 3):
        raise ModelError(f"pixels must be (1, 3, H, W), got {pixels.shape}")
    if spec.pad == "square":
        fits = height == width == spec.long_side
    else:
        longest = -(-spec.long_side // spec.pad) * spec.pad
        fits = height % spec.pad == 0 and width % spec.pad == 0 and 0 < max(height, width) <= longest
    if not fits:
        raise ModelError(
            f"the network frame of {spec.name!r} has long side {spec.long_side} and padding {spec.pad}, "
            f"got pixels of {height} x {width}"
        )


def check_features(features: Features, names: tuple[str, ...]) -> None:
    """Raise `ModelError` unless these are float32 arrays (1, C, h, w) under exactly these names."""
    if sorted(features) != sorted(names):
        raise ModelError(f"this model's features are {sorted(names)}, got {sorted(features)}")
    for name, array in features.items():
        _check_float32(f"the feature {name!r}", array, 4)
        if array.shape[0] != 1:
            raise ModelError(f"the feature {name!r} must be of one image, got shape {array.shape}")


def low_res_size(spec: ModelSpec, features: Features) -> tuple[int, int]:
    """(height, width) of the logits that these features lead to."""
    rows, columns = features["embedding"].shape[-2:]
    return (
        rows * EMBEDDING_STRIDE // spec.low_res_stride,
        columns * EMBEDDING_STRIDE // spec.low_res_stride,
    )


def check_prompts(prompts: PromptArrays, mask_size: tuple[int, int]) -> None:
    """Raise `ModelError` unless the arrays keep the contract of `PromptArrays`, values included."""
    _check_float32("points", prompts.points, 3)
    count, slots = prompts.points.shape[:2]
    if count < 1 or slots < 1 or prompts.points.shape[2] != 2:
        raise ModelError(f"points must be (B, N, 2) with B and N 1 or more, got {prompts.points.shape}")
    wanted = {
        "labels": (prompts.labels, (count, slots)),
        "mask_input": (prompts.mask_input, (count, 1, *mask_size)),
        "has_mask": (prompts.has_mask, (count,)),
    }
    for name, (array, shape) in wanted.items():
        _check_float32(name, array, len(shape))
        if array.shape != shape:
            raise ModelError(f"{name} must be {shape}, got {array.shape}")
    if not np.isin(prompts.labels, (-1, 0, 1, 2, 3)).all():
        raise ModelError("point labels must be -1, 0, 1, 2 or 3")
    if not (np.isfinite(prompts.points).all() and np.isfinite(prompts.mask_input).all()):
        raise ModelError("points and mask logits must be finite")
    if not np.isin(prompts.has_mask, (0, 1)).all():
        raise ModelError("has_mask must be 0 or 1")


def check_answer(
    logits: FloatArray, scores: FloatArray, count: int, mask_size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """The decoder's answer, if it has the promised shape; raises `ModelError`."""
    _check_float32("the decoder's logits", logits, 4)
    _check_float32("the decoder's scores", scores, 2)
    if logits.shape != (count, NUM_MASKS, *mask_size) or scores.shape != (count, NUM_MASKS):
        raise ModelError(
            f"the decoder must give logits {(count, NUM_MASKS, *mask_size)} and {NUM_MASKS} scores each, "
            f"got {logits.shape} and {scores.shape}: the model's files do not belong together"
        )
    return logits, scores


def cells_of(picture: tuple[int, int] | None, spec: ModelSpec, features: Features) -> tuple[int, int]:
    """Rows and columns of the embedding that logits of a picture (height, width) in network pixels lie over.

    A pixel is made of the logits around it, hence one more of them than the picture covers.
    """
    grid = features["embedding"].shape[-2:]
    if picture is None:
        return grid[0], grid[1]
    stride, together = spec.low_res_stride, EMBEDDING_STRIDE // spec.low_res_stride
    rows, columns = (
        min(cells, -(-(-(-side // stride) + 1) // together))
        for side, cells in zip(picture, grid, strict=True)
    )
    return rows, columns


def check_promising(
    spec: ModelSpec,
    features: Features,
    logits: FloatArray,
    scores: FloatArray,
    drawn: NDArray[Any],
    count: int,
    picture: tuple[int, int] | None,
) -> Promising:
    """A decoder's answer that has masks of some prompts, if it has the promised shape; raises `ModelError`.

    ``drawn`` may have any type that holds small whole numbers. Logits lie over `cells_of` the picture; see `joined`.
    """
    together = EMBEDDING_STRIDE // spec.low_res_stride
    rows, columns = cells_of(picture, spec, features)
    _check_float32("the decoder's scores", scores, 2)
    chosen = drawn.astype(np.int64)
    in_order = chosen.ndim == 1 and (np.diff(chosen, prepend=-1, append=count) > 0).all()
    if scores.shape != (count, NUM_MASKS) or not in_order:
        raise ModelError(
            f"the decoder must give {NUM_MASKS} scores for each of {count} prompts and the numbers of those that it "
            f"draws, got scores {scores.shape} and {drawn.tolist()!r:.80}: the model's files do not belong together"
        )
    check_answer(logits, scores[chosen], len(chosen), (rows * together, columns * together))
    return Promising(logits, scores, chosen)


def joined(shares: Sequence[Promising], mask_size: tuple[int, int]) -> Promising:
    """Answers to prompts that were decoded in shares, as one.

    Logits that do not lie over all of ``mask_size`` are filled up with those at the edge, so that nothing seems to
    begin or end there.
    """
    starts = np.cumsum([0, *(len(share.scores) for share in shares)])
    drawn = np.concatenate([share.drawn + start for share, start in zip(shares, starts, strict=False)])
    scores = np.concatenate([share.scores for share in shares])
    height, width = shares[0].logits.shape[2:]
    if len(shares) == 1 and (height, width) == mask_size:
        return Promising(shares[0].logits, scores, drawn)
    logits = np.empty((len(drawn), NUM_MASKS, *mask_size), dtype=np.float32)
    np.concatenate([share.logits for share in shares], out=logits[..., :height, :width])
    logits[..., height:, :width] = logits[..., height - 1 : height, :width]
    logits[..., width:] = logits[..., width - 1 : width]
    return Promising(logits, scores, drawn)


def _check_float32(name: str, array: object, ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != ndim:
        seen = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ModelError(f"{name} must be a float32 array of {ndim} axes, got {seen}")
