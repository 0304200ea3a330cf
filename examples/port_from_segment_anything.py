"""A program for segment_anything of which only the import line was changed; nano stands in for SAM.

With a checkpoint: python port_from_segment_anything.py vit_b sam_vit_b.pth (needs the torch extra).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from anymask.compat import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

model_type, checkpoint = sys.argv[1:3] if len(sys.argv) > 2 else ("nano", None)
image = np.array(Image.open(Path(__file__).parent / "photo.jpg").convert("RGB"))

sam = sam_model_registry[model_type](checkpoint=checkpoint)
sam.to(device="cpu")

predictor = SamPredictor(sam)
predictor.set_image(image)
point_coords, point_labels = np.array([[300, 170]]), np.array([1])
masks, scores, logits = predictor.predict(point_coords, point_labels, multimask_output=True)
print(f"three masks {masks.shape}, scores {', '.join(f'{score:.3f}' for score in scores)}")

best = logits[np.argmax(scores)]
masks, scores, _ = predictor.predict(
    point_coords, point_labels, mask_input=best[None], multimask_output=False
)
Image.fromarray(masks[0].astype(np.uint8) * 255).save("port_mask.png")
print("wrote port_mask.png")

generator = SamAutomaticMaskGenerator(sam, points_per_side=8, pred_iou_thresh=0.5, stability_score_thresh=0.8)
records = generator.generate(image)
print(f"{len(records)} masks of everything, their areas {[record['area'] for record in records]}")
