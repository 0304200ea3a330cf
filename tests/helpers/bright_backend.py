"""A backend that sees: bright cells near the prompt are the object; notes what it encoded and what it was asked."""

from __future__ import annotations

import numpy as np

from anymask.runtime import checks
from anymask.runtime.backend import NUM_MASKS, Features, FloatArray, PromptArrays
from anymask.runtime.fake_backend import FakeBackend

REACH = 90.0
"""Network pixels around a foreground point within which bright cells count."""


class BrightBackend(FakeBackend):
    """A logit is the cell's mean grey over 128, divided by 16, where a foreground point or the box reaches, else -8.

    All four masks are the same; their scores are .9, .8, .7 and .6. Masks fed back do not count.
    """

    def __init__(self, long_side: int = 128) -> None:
        super().__init__(long_side)
        self.encoded: list[FloatArray] = []
        self.asked: list[PromptArrays] = []

    def encode(self, pixels: FloatArray) -> Features:
        """See `Backend.encode`."""
        self.encoded.append(pixels)
        stride = self.spec.low_res_stride
        rows, columns = (side // stride for side in pixels.shape[2:])
        grey = pixels[:, :1] * self.spec.pixel_std[0] + self.spec.pixel_mean[0]
        cells = grey.reshape(1, 1, rows, stride, columns, stride).mean((3, 5))
        return {**super().encode(pixels), "grey": cells.astype(np.float32)}

    def decode(self, features: Features, prompts: PromptArrays) -> tuple[FloatArray, FloatArray]:
        """See `Backend.decode`."""
        self.asked.append(prompts)
        height, width = checks.low_res_size(self.spec, features)
        rows, columns = (np.mgrid[:height, :width] + 0.5) * self.spec.low_res_stride
        logits = np.empty((len(prompts), NUM_MASKS, height, width), dtype=np.float32)
        for index, (points, labels) in enumerate(zip(prompts.points, prompts.labels, strict=True)):
            near = np.zeros((height, width), dtype=bool)
            for x, y in points[labels == 1]:
                near |= np.hypot(columns - x, rows - y) < REACH
            for (x0, y0), (x1, y1) in zip(points[labels == 2], points[labels == 3], strict=True):
                near |= (x0 < columns) & (columns < x1) & (y0 < rows) & (rows < y1)
            logits[index] = np.where(near, (features["grey"][0, 0] - 128) / 16, -8.0)
        scores = np.tile(np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32), (len(prompts), 1))
        return logits, scores
