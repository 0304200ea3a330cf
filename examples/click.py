"""One click, three nested answers: the part, the object, the whole."""

from pathlib import Path

import anymask

HERE = Path(__file__).parent

segmenter = anymask.load()
embedding = segmenter.embed(HERE / "photo.jpg")  # the slow half, once per image
masks = segmenter.segment(embedding, points=[(300, 170)])

for number, mask in enumerate(masks, start=1):
    share = mask.area / (embedding.image_size[0] * embedding.image_size[1])
    print(f"candidate {number}: score {mask.score:.3f}, {share:.1%} of the photo, box {mask.box_xyxy}")

print("wrote", masks[0].save("click_mask.png"))
