"""A backend without weights: discs and boxes around the prompts, so that every layer above can be tested."""

from __future__ import annotations

import hashlib

import numpy as np

from anymask.runtime import checks
from anymask.runtime.backend import NUM_MASKS, Features, FloatArray, ModelSpec, PromptArrays

RADII = (24.0, 12.0, 24.0, 40.0)
"""Network pixels around a foreground point, for each of the four masks; a background point takes 10 away."""


class FakeBackend:
    """Deterministic and cheap; keeps the whole contract of `Backend`, masks fed back included.

    A logit is the depth in network pixels inside the nearest disc or box, cut by the background's discs, plus
    one and a half times the mask fed back. The score falls with the mask's number and grows with the prompts given.
    """

    def __init__(self, long_side: int = 128) -> None:
        digest = hashlib.sha256(f"fake {long_side}".encode()).hexdigest()
        self.spec = ModelSpec(name="fake", digest=digest, long_side=long_side, pad=32)

    def encode(self, pixels: FloatArray) -> Features:
        """A small colour image, one cell per embedding stride."""
        checks.check_pixels(self.spec, pixels)
        rows, columns = (side // checks.EMBEDDING_STRIDE for side in pixels.shape[2:])
        return {"embedding": pixels.reshape(1, 3, rows, checks.EMBEDDING_STRIDE, columns, -1).mean((3, 5))}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        checks.check_features(features, ("embedding",))
        height, width = checks.low_res_size(self.spec, features)
        checks.check_prompts(prompts, (height, width))
        grid = np.mgrid[:height, :width][::-1].reshape(2, 1, height, width) * self.spec.low_res_stride
        logits = np.full((len(prompts), NUM_MASKS, height, width), -8.0, dtype=np.float32)
        for index, (points, labels) in enumerate(zip(prompts.points, prompts.labels, strict=True)):
            for mask, radius in enumerate(RADII):
                plane = logits[index, mask]
                for point in points[labels == 1]:
                    np.maximum(plane, radius - _distance(grid, point), out=plane)
                if (labels == 2).any():
                    low, high = points[labels == 2][0], points[labels == 3][0]
                    depth = np.minimum(grid - low.reshape(2, 1, 1, 1), high.reshape(2, 1, 1, 1) - grid)
                    np.maximum(plane, depth.min(axis=(0, 1)), out=plane)
                for point in points[labels == 0]:
                    np.minimum(plane, _distance(grid, point) - 10.0, out=plane)
        logits += 1.5 * prompts.mask_input * prompts.has_mask[:, None, None, None]
        given = (prompts.labels >= 0).sum(axis=1, keepdims=True) + prompts.has_mask[:, None]
        scores = 1.0 - 0.1 * np.arange(1, NUM_MASKS + 1) - 0.4 / (1.0 + given)
        return logits, scores.astype(np.float32)


def _distance(grid: np.ndarray[tuple[int, ...], np.dtype[np.int64]], point: FloatArray) -> FloatArray:
    return np.asarray(np.hypot(grid[0, 0] - point[0], grid[1, 0] - point[1]), dtype=np.float32)
