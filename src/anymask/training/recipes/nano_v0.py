"""nano v0: the first embedded model, from nothing, on the data pack's training shards.

Command:  python -m anymask.training.recipes.nano_v0 --data ../shared/data/train
"""

from __future__ import annotations

from anymask.training.loop import TrainConfig
from anymask.training.losses import LossWeights
from anymask.training.recipes.run import main
from anymask.training.samples import SamplingConfig

SMALL = ((192, 192), (160, 224), (224, 160))
LARGE = ((256, 256), (224, 320), (320, 224))

RECIPE = TrainConfig(
    name="nano_v0",
    steps=3700,
    average=0.998,
    loss=LossWeights(quality=5.0),
    sampling=SamplingConfig(images=8, masks=5, phases=((0, SMALL), (1600, LARGE))),
)

if __name__ == "__main__":
    main(RECIPE)
