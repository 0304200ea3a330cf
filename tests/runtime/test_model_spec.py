"""The name of a preprocessing: old embeddings stay good, other ways get other names."""

from __future__ import annotations

import dataclasses
import itertools

from anymask.runtime.backend import ModelSpec

SAM = ModelSpec("sam", "", 1024, "square")


def test_names_that_embeddings_on_disk_carry_stay() -> None:
    means = "mean-123.675,116.28,103.53/std-58.395,57.12,57.375"
    assert SAM.preprocessing == f"longest-side-1024/pad-square/{means}/v1"
    nano = ModelSpec("nano", "", 512, 32, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    assert nano.preprocessing == "longest-side-512/pad-32/mean-0,0,0/std-255,255,255/v1"


def test_every_way_has_a_name_of_its_own() -> None:
    ways = [
        dataclasses.replace(SAM, resize=resize, normalisation=normalisation)
        for resize, normalisation in itertools.product(("longest_side", "stretch"), ("mean_std", "min_max"))
    ]
    assert len({spec.preprocessing for spec in ways}) == 4
    assert ways[3].preprocessing == "stretch-1024/min-max/v1"
