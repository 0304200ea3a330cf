"""nano v0: the first embedded model, from nothing, on the data pack's training shards.

Command:  torchrun --nproc-per-node 2 -m anymask.training.recipes.nano_v0 --data FOLDER
Hours:    1.8 on 2 cores of an AMD EPYC (AVX2) that did other work beside; 4,700 steps of 8 images
Score:    mean of nine held-out sets: box .643, one click .368 (best of three .496), 5 clicks .673

The phases and the weights of sources were changed while it ran, and the affinity maps joined at step 2,621 (see
notes/LOG.md); a run from the start has all of them from the start.
"""

from __future__ import annotations

from anymask.model.nano.network import NanoConfig
from anymask.training.loop import TrainConfig
from anymask.training.losses import LossWeights
from anymask.training.recipes.run import main
from anymask.training.sampling_config import SamplingConfig

SMALL = ((192, 192), (160, 224), (224, 160))
LARGE = ((256, 256), (224, 320), (320, 224))

WEIGHTS = {  # more of what is general or rare, less of what repeats itself
    "bsds500": 1.8,
    "em_membrane": 2.0,
    "komahomu": 1.3,
    "humanseg": 1.5,
    "tiles": 1.3,
    "camvid": 1.3,
    "carparts": 0.6,
    "fasseg": 0.5,
    "class5": 0.6,
    "crackforest": 0.5,
}

RECIPE = TrainConfig(
    name="nano_v0",
    steps=4700,
    box_share=0.3,
    average=0.998,
    loss=LossWeights(quality=5.0),
    model=NanoConfig(long_side=448),
    sampling=SamplingConfig(
        images=8,
        masks=5,
        phases=((0, SMALL), (1600, LARGE), (1900, SMALL), (4350, LARGE)),
        weights=WEIGHTS,
    ),
)

if __name__ == "__main__":
    main(RECIPE)
