"""Many objects of one photo in one call: the image is encoded once, the prompts are decoded together."""

from pathlib import Path

import anymask

HERE = Path(__file__).parent

segmenter = anymask.load()
embedding = segmenter.embed(HERE / "cat.jpg")

prompts = {
    "left eye": anymask.Prompt(points=[(178, 115)]),
    "right eye": anymask.Prompt(points=[(280, 112)]),
    "nose": anymask.Prompt(box=(215, 150, 265, 195)),
    "cat": anymask.Prompt(points=[(220, 200), (120, 60), (20, 20)], labels=[1, 1, 0]),
}
for name, found in zip(prompts, segmenter.segment_many(embedding, list(prompts.values())), strict=True):
    best = found[0]
    path = best.save(name.replace(" ", "_") + ".png")
    print(f"{name:<10} score {best.score:.3f}   area {best.area:>6}   wrote {path}")
