"""Ten thousand odd prompts and images: a mask or one sentence, never another exception, never a warning."""

from __future__ import annotations

import math
import random
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anymask.errors import AnymaskError, ImageError, PromptError
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.types import Embedding, MaskSet

SIZES = [(1, 1), (1, 5000), (5000, 1), (2, 3), (37, 61), (64, 64), (300, 20), (1, 65_535), (65_535, 1)]
ODD_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    5e-324,
    -0.0,
    0,
    -1,
    1e-9,
    2**63,
    10**400,
    65_535.5,
]
SHAPES = [
    (5, 7, 3), (5, 7), (5, 7, 4), (5, 7, 1), (5, 7, 2), (0, 7, 3), (5, 0, 3), (5,), (), (1, 5, 7, 3), (3, 5, 7),
    (1, 65_535, 3), (65_536, 1, 3), (1, 1, 3), (4, 4, 0),
]  # fmt: skip
DTYPES = ["u1"] * 5 + ["u2", "i1", "i4", "u8", "f2", "f4", "f8", "?", "c8", "O", "S3", "U2", "M8[s]"]
ODD_THINGS: list[Any] = [
    None, "", "12", b"12", [], [[]], [[1]], [[1, 2], [3]], {}, {"x": 1}, {1, 2}, object(), 3, 1 + 2j, [[1 + 2j, 0]],
    [["a", "b"]], [[None, None]], [[True, False]], [[Fraction(1, 2), 1]], np.float32(3), np.array(None),
    np.array(["2020-01-01"] * 2, dtype="datetime64[D]").reshape(1, 2), np.zeros((1, 2), dtype=[("a", "f4")]),
    np.ma.masked_array([[1.0, 2.0]], mask=[[True, False]]), np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((1, 2, 2)),
    np.zeros((1, 2), dtype=np.float16), np.zeros((1, 2), dtype=object), np.array([[10**400, 1]], dtype=object),
    "x" * 100_000, [[[[[[]]]]]], range(4), iter([(1, 2)]), Ellipsis, int, float("nan"), [(1, 2), None],
]  # fmt: skip


class Generator:
    """Prompts and images from a seed; says when what it made must be accepted."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.noise = np.random.default_rng(seed)

    def number(self, limit: int, odd: float) -> Any:
        if self.chance.random() < odd:
            return self.chance.choice(ODD_NUMBERS)
        return self.chance.choice(
            [0, limit, limit / 2, self.chance.uniform(0, limit), self.chance.randint(0, limit)]
        )

    def points(self, size: tuple[int, int], odd: float) -> Any:
        height, width = size
        count = self.chance.choice([1, 1, 1, 2, 3, 10])
        points = [(self.number(width, odd), self.number(height, odd)) for _ in range(count)]
        form = self.chance.randrange(4)
        if form == 0 or any(abs(value) > 1e300 for point in points for value in point):
            return points
        if form == 1:
            return np.array(points, dtype=np.float64)
        return [list(point) for point in points] if form == 2 else tuple(points)

    def box(self, size: tuple[int, int], odd: float) -> Any:
        height, width = size
        xs, ys = ([self.number(side, odd) for _ in range(2)] for side in (width, height))
        if odd == 0:
            xs, ys = sorted(xs), sorted(ys)
            if not (xs[0] < xs[1] and ys[0] < ys[1]):
                xs, ys = [0, width], [0, height]
        return (xs[0], ys[0], xs[1], ys[1])

    def mask(self, size: tuple[int, int], low_res: tuple[int, int], odd: float) -> Any:
        if self.chance.random() < 0.5:
            shape = size if self.chance.random() >= odd else (size[0] + 1, size[1])
            return np.full(shape, self.chance.random() < 0.5)
        logits = self.noise.normal(0, 10, low_res).astype(np.float32)
        if self.chance.random() < odd:
            logits[0, 0] = self.chance.choice([math.nan, math.inf, 1e38, 0])
        if self.chance.random() < odd:
            return self.chance.choice(
                [logits.T, logits[:1], logits.astype(np.float64) * 1e200, logits > 0, logits * 0 + 1j]
            )
        return logits[None] if self.chance.random() < 0.3 else logits

    def valid(self, size: tuple[int, int], low_res: tuple[int, int]) -> dict[str, Any]:
        return self._prompt(size, low_res, 0.0)

    def odd(self, size: tuple[int, int], low_res: tuple[int, int]) -> dict[str, Any]:
        prompt = self._prompt(size, low_res, 0.3)
        while self.chance.random() < 0.4:
            prompt[self.chance.choice(["points", "labels", "box", "mask"])] = self.chance.choice(ODD_THINGS)
        if self.chance.random() < 0.1 and "points" in prompt:
            prompt["labels"] = self.chance.choice(
                [[1] * 99, [2], [-1], [0.5], [math.nan], [1e308], ["1"], [True], 1]
            )
        if self.chance.random() < 0.01:
            prompt["points"] = np.zeros((self.chance.choice([1024, 1025, 1_000_000]), 2))
        return prompt

    def _prompt(self, size: tuple[int, int], low_res: tuple[int, int], odd: float) -> dict[str, Any]:
        kinds = self.chance.sample(["points", "box", "mask"], self.chance.choice([1, 1, 2, 3]))
        prompt: dict[str, Any] = {}
        if "points" in kinds:
            prompt["points"] = self.points(size, odd)
            if self.chance.random() < 0.7:
                prompt["labels"] = [self.chance.randint(0, 1) for _ in range(len(prompt["points"]))]
        if "box" in kinds:
            prompt["box"] = self.box(size, odd)
        if "mask" in kinds:
            prompt["mask"] = self.mask(size, low_res, odd)
        return prompt

    def image(self) -> Any:
        """Arrays of every shape and dtype; a few are images."""
        shape = self.chance.choice(SHAPES)
        dtype = self.chance.choice(DTYPES)
        array = np.zeros(shape, dtype=dtype)
        if dtype in ("f4", "f8") and array.size:
            array.flat[0] = self.chance.choice([math.nan, math.inf, 1e30])
        if dtype == "u1":
            array[...] = self.noise.integers(0, 256, shape)
        return array[::-1] if array.ndim and self.chance.random() < 0.3 else array


def outcome(
    segmenter: Segmenter, image: Any, prompt: dict[str, Any], multimask: bool
) -> MaskSet | AnymaskError:
    """The masks or the refusal, both checked; anything else escapes and fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            masks = segmenter.segment(image, **prompt, multimask=multimask)
    except AnymaskError as error:
        text = str(error)
        assert 0 < len(text) < 600, text[:2000]
        assert "\n" not in text, text
        return error
    assert len(masks) == (3 if multimask else 1)
    for mask in masks:
        assert mask.array.shape == mask.size == masks.image_size
        assert math.isfinite(mask.score)
        assert mask.stability_score is not None
        assert 0 <= mask.stability_score <= 1
    return masks


def embeddings(segmenter: Segmenter) -> list[tuple[Embedding, tuple[int, int]]]:
    """One per size, with the shape of its low-resolution logits."""
    made = []
    for index, size in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        height, width = segmenter.frame(size).network_size
        made.append((segmenter.embed(pixels), (height // 4, width // 4)))
    return made


def run(segmenter: Segmenter, cases: int, seed: int) -> dict[str, int]:
    """How many cases ended how; that it returns at all is the promise."""
    generator, ready = Generator(seed), embeddings(segmenter)
    counts = {"valid": 0, "odd answered": 0, "prompt refused": 0, "image refused": 0, "image answered": 0}
    for _ in range(cases):
        embedding, low_res = generator.chance.choice(ready)
        size, multimask = embedding.image_size, generator.chance.random() < 0.5
        kind = generator.chance.random()
        if kind < 0.3:
            prompt = generator.valid(size, low_res)
            result = outcome(segmenter, embedding, prompt, multimask)
            assert isinstance(result, MaskSet), (result, prompt, size)
            counts["valid"] += 1
        elif kind < 0.85:
            result = outcome(segmenter, embedding, generator.odd(size, low_res), multimask)
            assert isinstance(result, (MaskSet, PromptError)), result
            counts["odd answered" if isinstance(result, MaskSet) else "prompt refused"] += 1
        else:
            result = outcome(segmenter, generator.image(), {"points": [(0, 0)]}, multimask)
            assert isinstance(result, (MaskSet, ImageError)), result
            counts["image answered" if isinstance(result, MaskSet) else "image refused"] += 1
    return counts


def test_ten_thousand_prompts_and_images() -> None:
    counts = run(Segmenter(FakeBackend()), 10_000, seed=0)
    assert sum(counts.values()) == 10_000
    assert min(counts.values()) >= 100, counts  # every kind of ending was met often


@pytest.mark.parametrize("seed", [1, 2])
def test_some_hundred_through_the_real_network(nano_folder: Path, seed: int) -> None:
    counts = run(Segmenter(OnnxBackend(nano_folder, threads=1)), 300, seed)
    assert counts["valid"] >= 60
    assert counts["odd answered"] >= 10
