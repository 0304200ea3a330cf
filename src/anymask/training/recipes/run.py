"""Command line that every recipe shares: where the data lies, which device, how long, and which variant."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from anymask.errors import AnymaskError
from anymask.training.loop import TrainConfig, train


def main(recipe: TrainConfig, variants: Mapping[str, TrainConfig] | None = None) -> None:
    """Parse the command line and train the recipe, or the one of its ``variants`` that ``--variant`` names."""
    chosen, options = parse(recipe, variants)
    with one_sentence():
        train(chosen, options.data, options.out, options.device, options.seconds)


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the program with an error's sentence and exit status instead of a traceback."""
    try:
        yield
    except AnymaskError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_status) from error


def parse(
    recipe: TrainConfig,
    variants: Mapping[str, TrainConfig] | None = None,
    arguments: Sequence[str] | None = None,
) -> tuple[TrainConfig, argparse.Namespace]:
    """The run that a command line asks for, and its other options.

    Args:
        recipe: what is trained when no variant is named.
        variants: name -> another recipe; with any, ``--variant`` chooses one of them.
        arguments: the command line's words; those of this process when not given.
    """
    options = _parser(recipe, variants or {}).parse_args(arguments)
    chosen = variants[options.variant] if variants and options.variant else recipe
    changes: dict[str, Any] = {
        name: value for name in ("steps", "workers", "seed") if (value := getattr(options, name)) is not None
    }
    if options.seed is not None and options.seed != chosen.seed:  # a run of its own
        changes["name"] = f"{chosen.name}_seed{options.seed}"
    return dataclasses.replace(chosen, **changes), options


def _parser(recipe: TrainConfig, variants: Mapping[str, TrainConfig]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Train {recipe.name}.")
    parser.add_argument("--data", required=True, help="folder of SA-1B style tar shards")
    parser.add_argument("--out", default="runs", help="folder for runs (default: runs)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=None, help="stop after this long; the run can be resumed"
    )
    parser.add_argument("--steps", type=int, default=None, help="steps of the run (default: the recipe's)")
    parser.add_argument("--workers", type=int, default=None, help="processes that prepare batches")
    parser.add_argument("--seed", type=int, default=None, help="another seed, in a run of its own")
    if variants:
        parser.add_argument("--variant", choices=list(variants), help="what differs from the recipe")
    return parser
