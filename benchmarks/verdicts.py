"""Does `anymask eval --against` tell a worse model from another seed? A planted regression and two seeds, for real.

    python benchmarks/verdicts.py --train ../shared/data/train --eval ../shared/data/eval \\
        --json benchmarks/results/verdicts.json

Three models are made from the embedded model's training weights: one whose mask decoder's weights are disturbed by
noise (the planted regression), and two that were trained on for the same few steps with different seeds. The first is
held against the embedded model, the two seeds against each other, by box and by one click, on a draw of images.
Expected: worse, and undecided.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from anymask.evaluation.plan import Plan
from anymask.evaluation.study import Study, run_study
from anymask.evaluation.summary import compare_results, metrics
from anymask.model.export.nano import export_nano
from anymask.model.nano.network import Nano
from anymask.model.weights import load_weights
from anymask.training.loop import train
from anymask.training.recipes.nano_v1 import RECIPE
from anymask.training.ship import ship

WEIGHTS = Path(__file__).parents[1] / "weights" / "nano_v1.safetensors"


def disturbed(folder: Path, noise: float) -> Path:
    """The embedded model with each decoder weight moved by ``noise`` times its tensor's spread."""
    model = Nano(RECIPE.model)
    load_weights(model, WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.mask_decoder.parameters():
            if parameter.numel() > 1:
                parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    export_nano(model.eval(), folder, "disturbed", {})
    return folder


def seeded(folder: Path, data: Path, seed: int, steps: int) -> Path:
    """The embedded model trained on for a few steps at a low rate."""
    recipe = dataclasses.replace(
        RECIPE,
        name=f"seed_{seed}",
        seed=seed,
        steps=steps,
        init=str(WEIGHTS),
        lr=1e-4,
        warmup=min(20, steps),
        average=0.9,
        sampling=dataclasses.replace(RECIPE.sampling, phases=((0, ((192, 192),)),)),
    )
    train(recipe, data, folder)
    ship(folder / recipe.name, folder / f"model_{seed}", recipe.name)
    return folder / f"model_{seed}"


def verdicts(candidate: str, reference: str, data: Path, images: int, results: Path) -> dict[str, dict]:
    """Figure -> overall difference of two models."""
    plan = Plan(("box", "point"), masks=2)
    study = Study(
        (candidate, reference),
        "pack",
        data,
        plan=plan,
        images=images,
        workers=2,
        results=results,
        speed=False,
    )
    first, second = run_study(study).models
    table = {metric.key: metric for metric in metrics(plan.max_clicks)}
    return {
        key: dataclasses.asdict(compare_results(first.sets, second.sets, table[key]).overall)
        for key in ("box", "point")
    }


def main() -> None:
    """Run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, default=None, help="training shards for the two seeds")
    parser.add_argument("--eval", type=Path, default=None, help="the evaluation sets of the data pack")
    parser.add_argument("--images", type=int, default=20, help="images of each set (default: 20)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each seed (default: 60)")
    parser.add_argument("--noise", type=float, default=0.2, help="of the planted regression (default: 0.2)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    if options.train is None or options.eval is None:
        print("left out: it needs data, give --train FOLDER and --eval FOLDER")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        worse = disturbed(root / "disturbed", options.noise)
        seeds = [seeded(root, options.train, seed, options.steps) for seed in (1, 2)]
        found = {
            "disturbed decoder against nano": verdicts(
                str(worse), "nano", options.eval, options.images, root / "r"
            ),
            "seed 1 against seed 2": verdicts(
                str(seeds[0]), str(seeds[1]), options.eval, options.images, root / "r"
            ),
        }
    table = Table(title="verdicts of the paired bootstrap at 95 %")
    for name in ("pair", "figure", "first", "second", "difference", "interval", "verdict"):
        table.add_column(name)
    for pair, figures in found.items():
        for key, row in figures.items():
            table.add_row(
                pair,
                key,
                f"{row['candidate']:.3f}",
                f"{row['reference']:.3f}",
                f"{row['difference']:+.3f}",
                f"{row['low']:+.3f} to {row['high']:+.3f}",
                row["verdict"],
            )
    Console(width=120).print(table)
    if options.json:
        document = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "images_per_set": options.images,
            "steps": options.steps,
            "noise": options.noise,
            "verdicts": found,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
