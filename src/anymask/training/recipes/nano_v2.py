"""nano v2: a deeper encoder grown from nano v1, trained on at larger pictures.

Command:  torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_v2 --data FOLDER
Hours:    1.2 on 2 cores of an AMD EPYC (AVX-512); 3,600 steps of 8 images, from nano v1's weights
Score:    mean of nine held-out sets: box .684, one click .450 (best of three .574), 5 clicks .735; not embedded yet
"""

from __future__ import annotations

from dataclasses import replace

from anymask.model.nano.encoder import NanoEncoderConfig
from anymask.model.nano.network import NanoConfig
from anymask.training.recipes.nano_v1 import LARGE, MEDIUM
from anymask.training.recipes.nano_v1 import RECIPE as FIRST
from anymask.training.recipes.run import main

RECIPE = replace(
    FIRST,
    name="nano_v2",
    steps=3600,
    init="weights/nano_v1.safetensors",
    lr=8e-4,
    hold=0.55,
    seed=2,
    average=0.999,
    model=NanoConfig(long_side=448, encoder=NanoEncoderConfig(blocks=(1, 3, 10, 6))),
    sampling=replace(FIRST.sampling, phases=((0, MEDIUM), (3000, LARGE))),
)

if __name__ == "__main__":
    main(RECIPE)
