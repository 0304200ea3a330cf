"""nano's encoder before any mask: hidden patches of the training pictures, predicted from the rest.

Command:  torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_pretrain --data FOLDER [--photographs FOLDER]
Hours:    .2 of one thread: 1,000 steps of 12 images at .73 s, measured over a dozen steps as processor time of an AMD
          EPYC (AVX2) that did other work beside
Score:    `nano_short --variant mae`, which starts from it and is shortened by what it took: box +.015, else undecided

The pictures held back from training (`hold_back` of the recipe it serves) are left out here too. Photographs given
beside must not hold pictures of an evaluation set.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from anymask.training.pretraining import PretrainConfig, pretrain
from anymask.training.recipes.nano_v1 import RECIPE as LABELLED
from anymask.training.recipes.run import one_sentence
from anymask.training.sampling_config import SamplingConfig

RECIPE = PretrainConfig(
    name="nano_pretrain",
    steps=1000,
    encoder=LABELLED.model.encoder,
    sampling=SamplingConfig(
        images=12,
        phases=((0, ((160, 160), (128, 192), (192, 128))),),
        hold_back=LABELLED.sampling.hold_back,
    ),
)


def main() -> None:
    """Parse the command line and pre-train."""
    parser = argparse.ArgumentParser(description="Pre-train nano's image encoder on pictures without masks.")
    parser.add_argument("--data", required=True, help="folder of SA-1B style tar shards; masks are not read")
    parser.add_argument(
        "--photographs", default=None, help="folder or tar file of more pictures (default: none)"
    )
    parser.add_argument("--out", default="runs", help="folder for runs (default: runs)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=None, help="stop after this long; the run can be resumed"
    )
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help=f"default: {RECIPE.steps}")
    parser.add_argument("--workers", type=int, default=RECIPE.workers, help="processes that prepare batches")
    options = parser.parse_args()
    recipe = replace(RECIPE, steps=options.steps, workers=options.workers)
    with one_sentence():
        pretrain(recipe, options.data, options.out, options.device, options.photographs, options.seconds)


if __name__ == "__main__":
    main()
