"""nano short: a whole run of about half an hour on two cores, to hold one change against another from one start.

Command:  torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_short --data FOLDER --variant full
          OMP_NUM_THREADS=1 python -m anymask.training.recipes.nano_short --data FOLDER --variant no-scenes
Hours:    .5 of one thread of an AMD EPYC (AVX-512): 3,200 steps of 6 images at .51 s of processor time (160 px) and,
          from step 2,300, .72 s (192 px), without reading; .85 on one with AVX2 alone
Score:    362 masks of 153 pictures held back: box .626, one click .369 (best of three .493), 3 clicks .569, 5 clicks
          .659; with --seed 1: .624, .383 (.494), .569, .654. Against it (`benchmarks/results/nano_short_levers.json`):
          no-scenes box -.007; no-paste undecided; mae box +.015; distil box +.016, one click +.018; deep, in four
          fifths of the steps, box -.029, one click -.054; `full` with pseudo-labels (below) undecided in all

Every variant starts from the same random weights, draws from the same seed, holds the same pictures back and ends the
same schedule. Compare runs that were started in the same way: two processes draw other batches than one.
`benchmarks/ablation.py` sets runs side by side on the pictures held back.

full         nano v1's recipe at small pictures
no-scenes    photographs only, no drawn scenes
no-paste     no objects pasted onto photographs
no-affinity  the affinity maps stay, but learn from the masks' losses alone
mae          from `nano_pretrain`'s encoder, which has to be run first; for the same time in all, both phases are cut by
             the share that the pre-training takes (24 %)
distil       nano v2's answers beside the masks; fewer steps, since each takes longer
deep         nano v2's encoder, ten blocks more in its later stages; fewer steps likewise

Pseudo-labels are `full` on a folder with one shard more, of `anymask.training.pseudo_labels`, which nano v3 labelled:
of 500 photographs of imagenet-sample-images, 402 got 1,112 masks.
"""

from __future__ import annotations

from dataclasses import replace

from anymask.model.nano.network import NanoConfig
from anymask.training.loop import TrainConfig
from anymask.training.recipes.nano_pretrain import RECIPE as PRETRAINING
from anymask.training.recipes.nano_v1 import RECIPE as FIRST
from anymask.training.recipes.nano_v2 import RECIPE as SECOND
from anymask.training.recipes.run import main

SMALL = ((160, 160), (128, 192), (192, 128))
MEDIUM = ((192, 192), (160, 224), (224, 160))

SMALL_STEPS, MEDIUM_STEPS = 2300, 900
MEDIUM_COST = (
    1.35  # a step at MEDIUM, in the processor time of one at SMALL: medians .88 and 1.17 s, in turn, 12 each
)
PRETRAINING_COST = 0.83  # a step of nano_pretrain, likewise: .72 s
DISTIL_COST, DEEP_COST = 1.37, 1.23  # a step of each variant, likewise, 8 each in turn, at both sizes

RECIPE = replace(
    FIRST,
    name="nano_short_full",
    steps=SMALL_STEPS + MEDIUM_STEPS,
    init=None,
    lr=1.5e-3,
    warmup=200,
    workers=0,
    model=NanoConfig(long_side=320),
    sampling=replace(FIRST.sampling, images=6, masks=4, phases=((0, SMALL), (SMALL_STEPS, MEDIUM))),
)


WHOLE = SMALL_STEPS + MEDIUM_STEPS * MEDIUM_COST


def shortened(config: TrainConfig, share: float) -> TrainConfig:
    """The same schedule in this share of the recipe's steps."""
    phases = ((0, SMALL), (round(SMALL_STEPS * share), MEDIUM))
    return replace(
        config, steps=round(RECIPE.steps * share), sampling=replace(config.sampling, phases=phases)
    )


MAE = replace(RECIPE, name="nano_short_mae", encoder_init=f"runs/{PRETRAINING.name}/encoder.safetensors")
DISTIL = replace(RECIPE, name="nano_short_distil", teacher="weights/nano_v2.safetensors")
DEEP = replace(RECIPE, name="nano_short_deep", model=replace(RECIPE.model, encoder=SECOND.model.encoder))

VARIANTS: dict[str, TrainConfig] = {
    "full": RECIPE,
    "no-scenes": replace(RECIPE, name="nano_short_no-scenes", sampling=replace(RECIPE.sampling, scenes=0.0)),
    "no-paste": replace(RECIPE, name="nano_short_no-paste", sampling=replace(RECIPE.sampling, paste=0.0)),
    "no-affinity": replace(RECIPE, name="nano_short_no-affinity", loss=replace(RECIPE.loss, affinity=0.0)),
    "mae": shortened(MAE, 1.0 - PRETRAINING.steps * PRETRAINING_COST / WHOLE),
    "distil": shortened(DISTIL, 1.0 / DISTIL_COST),
    "deep": shortened(DEEP, 1.0 / DEEP_COST),
}

if __name__ == "__main__":
    main(RECIPE, VARIANTS)
