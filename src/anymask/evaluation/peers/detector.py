"""Detectors that segment (MaskFormer, Mask2Former, EoMT and their like) as answers to prompts.

The detector runs once per image, without any prompt; its masks and scores are the embedding. A prompt is then
answered with detections as they are:

* a box with those of the highest box IoU with it, which is also the answer's score;
* points with the highest scored that hold every foreground point and no background point;
* both with those that agree with the points, in the order of box IoU.

Where nothing agrees the answer is an empty mask of score 0. Masks fed back are passed over. This is how a
detector stands beside promptable models in Kirillov et al., "Segment Anything", 2023, sections 7.3 and 7.4, where
ViTDet is the detector; `Detector.detections` gives its masks without prompts, for proposals and instances.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.errors import InputError, ModelFormatError
from anymask.evaluation.peers.hf_folder import HfFolder, quiet_transformers, require_transformers
from anymask.evaluation.peers.hf_network import HfNetwork
from anymask.evaluation.peers.peer import FloatArray, require_place
from anymask.masks.boxes import box_iou
from anymask.types import Embedding, Image, Mask, MaskSet, Prompt

__all__ = ["Detector", "pack_detections", "unpack_detections"]

THRESHOLD: Final = 0.05
"""Score from which a detection is kept, as in ViTDet's evaluation (``test_score_thresh`` of detectron2)."""
CANDIDATES: Final = 3
AUTO_CLASSES: Final = ("AutoModelForUniversalSegmentation", "AutoModelForInstanceSegmentation")
UNKNOWN: Final = ("oneformer", "videomt")
"""In transformers' list too, but OneFormer's processor fetches a file from the hub, and VidEoMT takes videos."""
NO_NETWORK: Final = (1, 1)
"""The network's size in the embedding: detections are in image pixels, so there is none to state."""
LOW: Final = 2**12
"""Run lengths are kept as two numbers below this, since float32 is exact only up to 2**24."""


class Detector(HfNetwork):
    """An instance-segmentation model of transformers; three of its detections at most answer a prompt, or one."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        threshold: float = THRESHOLD,
    ) -> None:
        """The model in a local folder.

        Args:
            path: the folder, with ``config.json``, ``preprocessor_config.json`` and safetensors.
            device: ``cpu``, or another name that torch knows.
            threads: for torch in this whole process; None or 0 leaves them as they are.
            threshold: score from 0 to 1 below which detections are dropped.

        Raises:
            InputError: the threshold is none.
            NotFoundError, MissingExtraError, ModelFormatError, WeightsError, ModelError: see `HfFolder`.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"a detector's threshold must be from 0 to 1, got {threshold}")
        folder = HfFolder.open(path)
        super().__init__(folder, _auto_class(folder), device, threads)
        self.threshold = threshold
        self._processor = _processor(folder)
        told = f"detector v1\n{folder.digest}\n{threshold:g}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()
        self.preprocessing = f"detections/{folder.model_type}/threshold-{threshold:g}/v1"
        self.network_size = NO_NETWORK

    def detections(self, embedding: Embedding) -> MaskSet:
        """All masks that were detected, in the order of their scores; may be empty.

        Raises:
            EmbeddingMismatchError: the embedding is of another model.
        """
        self.check(embedding)
        return MaskSet(unpack_detections(embedding.features, embedding.image_size), embedding.image_size)

    def detect(self, picture: Image) -> Sequence[Mask]:
        """The detector's masks of the whole image with their scores, in any order.

        Raises:
            ModelError: the network could not be run.
        """
        process = self._processor.post_process_instance_segmentation
        options = {"threshold": self.threshold, "target_sizes": [picture.size]}
        if "return_binary_maps" in inspect.signature(process).parameters:
            options["return_binary_maps"] = True  # else a later mask would cover an earlier one

        def answer() -> Mapping[str, Any]:
            inputs = self._processor(images=[picture.pixels], return_tensors="pt").to(self.device)
            found: Mapping[str, Any] = process(self._model(**inputs), **options)[0]
            return found

        return _masks(self._run(answer))

    def _features(self, picture: Image) -> Mapping[str, FloatArray]:
        return pack_detections(_distinct(self.detect(picture)))

    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool) -> MaskSet:
        require_place(prompt, "a detector")
        agreeing = [mask for mask in self.detections(embedding) if _agrees(mask, prompt)]
        if prompt.box is not None:
            agreeing = _by_box(agreeing, prompt.box)
        if not agreeing:
            return MaskSet([Mask(np.zeros(embedding.image_size, dtype=np.bool_), 0.0)])
        return MaskSet(agreeing[: CANDIDATES if multimask else 1])


def pack_detections(masks: Sequence[Mask]) -> dict[str, FloatArray]:
    """Masks as named float32 arrays: scores, numbers of runs, and all run lengths in two parts each.

    Every array starts with a 0 that stands for nothing, so that none is empty where nothing was detected.
    """
    counts = [mask.counts for mask in masks]
    runs = np.concatenate([np.zeros(1, dtype=np.int64), *counts])
    return {
        "scores": np.array([0.0, *(mask.score for mask in masks)], dtype=np.float32),
        "lengths": np.array([0, *(len(runs_of_mask) for runs_of_mask in counts)], dtype=np.float32),
        "runs_high": (runs // LOW).astype(np.float32),
        "runs_low": (runs % LOW).astype(np.float32),
    }


def unpack_detections(features: Mapping[str, FloatArray], image_size: tuple[int, int]) -> list[Mask]:
    """The masks that `pack_detections` packed, scores rounded to float32.

    Raises:
        RleError: the runs do not make masks of the image's size.
    """
    runs = features["runs_high"].astype(np.int64) * LOW + features["runs_low"].astype(np.int64)
    ends = np.cumsum(features["lengths"].astype(np.int64)) + 1
    return [
        Mask.from_rle({"size": list(image_size), "counts": runs[start:end]}, float(score))  # type: ignore[typeddict-item]
        for start, end, score in zip(ends[:-1], ends[1:], features["scores"][1:], strict=True)
    ]


def _distinct(masks: Sequence[Mask]) -> list[Mask]:
    """Masks in the order of their scores; one found under several classes once, with its highest score."""
    seen: dict[bytes, Mask] = {}
    for mask in sorted(masks, key=lambda mask: -mask.score):
        if mask.area:
            seen.setdefault(mask.counts.tobytes(), mask)
    return list(seen.values())


def _agrees(mask: Mask, prompt: Prompt) -> bool:
    """Whether a mask holds every foreground point and no background point."""
    if prompt.points is None or prompt.labels is None:
        return True
    height, width = mask.size
    columns = np.minimum(prompt.points[:, 0].astype(np.int64), width - 1)
    rows = np.minimum(prompt.points[:, 1].astype(np.int64), height - 1)
    # Runs go down the columns, every second one is the mask's.
    run = np.searchsorted(np.cumsum(mask.counts), columns * height + rows, side="right")
    return bool(np.array_equal(run % 2, prompt.labels))


def _by_box(masks: Sequence[Mask], box: NDArray[np.float64]) -> list[Mask]:
    """The masks that meet a box, in the order of box IoU, which becomes their score."""
    if not masks:
        return []
    overlaps = box_iou([mask.box_xyxy for mask in masks], box[None])[:, 0]
    order = np.argsort(-overlaps, kind="stable")
    return [Mask.from_rle(masks[i].rle, float(overlaps[i])) for i in order if overlaps[i] > 0]


def _masks(answer: Mapping[str, Any]) -> list[Mask]:
    """transformers' answer: a map of segment numbers (H, W), or one plane (N, H, W) for each segment."""
    segments = answer["segments_info"]
    if not segments or answer["segmentation"] is None:
        return []
    planes = np.asarray(answer["segmentation"].cpu())
    if planes.ndim == 2:
        return [Mask(planes == segment["id"], float(segment["score"])) for segment in segments]
    return [Mask(planes[i] > 0.5, float(segment["score"])) for i, segment in enumerate(segments)]


def _auto_class(folder: HfFolder) -> str:
    """The Auto class that knows the model's type; the transformers installed decides."""
    auto = require_transformers(folder).models.auto.modeling_auto
    lists = {
        AUTO_CLASSES[0]: auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
        AUTO_CLASSES[1]: auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
    }
    for name, known in lists.items():
        if folder.model_type in known and folder.model_type not in UNKNOWN:
            return name
    types = ", ".join(sorted({kind for known in lists.values() for kind in known} - set(UNKNOWN)))
    raise ModelFormatError(
        f"{str(folder.path)!r:.200} is a {folder.model_type!r:.40}, not a detector that segments: {types}"
    )


def _processor(folder: HfFolder) -> Any:
    """The model's own image processor."""
    auto_class: Any = require_transformers(folder).AutoImageProcessor
    try:
        with quiet_transformers():
            processor = auto_class.from_pretrained(
                str(folder.path), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises whatever a configuration makes it stumble over
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(
            f"the image processor of {str(folder.path)!r:.200} cannot be used: {reason:.200}"
        ) from error
    if not hasattr(processor, "post_process_instance_segmentation"):
        raise ModelFormatError(f"the image processor of {str(folder.path)!r:.200} gives no instances")
    return processor
