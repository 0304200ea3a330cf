"""nano v3: nano v2 trained on at pictures about as large as they are kept, for a frame of 512.

Command:  torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_v3 --data FOLDER
Hours:    2.2 on 2 cores of an AMD EPYC (AVX-512), which stood still for a quarter of it; 3,400 steps of 4 images, from
          nano v2's weights
Score:    362 masks of 153 pictures held back: box .727, one click .473 (best of three .591), 3 clicks .679, 5 clicks
          .764; nano v2 at 448: .718, .473 (.587), .675, .759, at 512: .726, .463 (.598), .679, .764.
          Mean of nine held-out sets: box .691, one click .473 (best of three .580), 3 clicks .676, 5 clicks .746;
          embedded
"""

from __future__ import annotations

from dataclasses import replace

from anymask.training.recipes.nano_v1 import LARGE
from anymask.training.recipes.nano_v2 import RECIPE as SECOND
from anymask.training.recipes.run import main

WHOLE = ((448, 448), (384, 512), (512, 384))

RECIPE = replace(
    SECOND,
    name="nano_v3",
    steps=3400,
    init="weights/nano_v2.safetensors",
    lr=6e-4,
    hold=0.5,
    seed=3,
    model=replace(SECOND.model, long_side=512),
    sampling=replace(SECOND.sampling, images=4, phases=((0, LARGE), (1400, WHOLE))),
)

if __name__ == "__main__":
    main(RECIPE)
