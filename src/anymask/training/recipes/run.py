"""Command line that every recipe shares: where the data lies, which device, how long."""

from __future__ import annotations

import argparse
import dataclasses

from anymask.training.loop import TrainConfig, train


def main(recipe: TrainConfig) -> None:
    """Parse the command line and train the recipe."""
    parser = argparse.ArgumentParser(description=f"Train {recipe.name}.")
    parser.add_argument("--data", required=True, help="folder of SA-1B style tar shards")
    parser.add_argument("--out", default="runs", help="folder for runs (default: runs)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=None, help="stop after this long; the run can be resumed"
    )
    parser.add_argument(
        "--steps", type=int, default=recipe.steps, help=f"steps of the run (default: {recipe.steps})"
    )
    parser.add_argument("--workers", type=int, default=recipe.workers, help="processes that prepare batches")
    options = parser.parse_args()
    recipe = dataclasses.replace(recipe, steps=options.steps, workers=options.workers)
    train(recipe, options.data, options.out, options.device, options.seconds)
