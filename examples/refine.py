"""Draw a box, look at the answer, then correct it with a click on what should not be in it."""

from pathlib import Path

import anymask

HERE = Path(__file__).parent

segmenter = anymask.load()
embedding = segmenter.embed(HERE / "photo.jpg")

box = (75, 20, 480, 385)  # cup, saucer and spoon
first = segmenter.segment(embedding, box=box, multimask=False)[0]
print(f"box alone:               {first.area} pixels, score {first.score:.3f}")

# The first answer goes back in as a starting point, so that the click corrects it.
second = segmenter.segment(
    embedding, points=[(450, 330)], labels=[0], box=box, mask=first.low_res_logits, multimask=False
)[0]
print(f"with a background click: {second.area} pixels, score {second.score:.3f}")

print("wrote", second.save("refine_mask.png"))
