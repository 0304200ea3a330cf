"""nano v5: nano v3 with a quality head that is told more and learns from answers that stand still.

Command:  OMP_NUM_THREADS=1 python -m anymask.training.recipes.nano_v5 --data FOLDER --out weights/nano_v5.safetensors
Hours:    not measured yet
Score:    not measured yet
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from anymask.training.quality_head import HeadConfig, teach
from anymask.training.recipes.run import one_sentence

RECIPE = HeadConfig(name="nano_v5", weights="weights/nano_v3.safetensors", long_side=576, pictures=3000)


def main() -> None:
    """Parse the command line, teach the head, and print what the file tells of it."""
    parser = argparse.ArgumentParser(description="Teach nano a new quality head, all else frozen.")
    parser.add_argument("--data", required=True, help="folder of SA-1B style tar shards")
    parser.add_argument("--out", type=Path, required=True, help="file for the weights, .safetensors")
    parser.add_argument("--weights", default=RECIPE.weights, help=f"a nano's (default: {RECIPE.weights})")
    parser.add_argument("--pictures", type=int, default=RECIPE.pictures, help=f"default: {RECIPE.pictures}")
    parser.add_argument("--seed", type=int, default=RECIPE.seed)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    recipe = replace(RECIPE, weights=options.weights, pictures=options.pictures, seed=options.seed)
    with one_sentence():
        print(json.dumps(teach(recipe, options.data, options.out, options.device), indent=1))


if __name__ == "__main__":
    main()
