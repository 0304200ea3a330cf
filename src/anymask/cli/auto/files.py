"""From the masks of one picture to its files in every format asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from anymask.cli.auto.folder import STATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anymask.data.writers.outlines import Outline
    from anymask.data.writers.picture import Picture
    from anymask.types import Image, Mask

__all__ = ["FORMATS", "Formats", "Made"]

FORMATS: Final = ("sa1b", "coco", "png", "yolo", "labelmap")
OVERLAY_SIDE: Final = 2560
"""Overlays of larger pictures are scaled down to this: they are for looking at, masks keep every pixel."""
_OVERLAY_QUALITY: Final = 90


@dataclass
class Made:
    """The files of one picture, by their names below the run's folder.

    Attributes:
        files: their bytes.
        folders: folders that belong to the picture alone.
        notes: what a format could not hold.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Formats:
    """What to write.

    Attributes:
        names: some of `FORMATS`, in their order.
        overlay: draw a picture for people.
        copy_images: put the pictures themselves beside the masks of sa1b, coco and yolo.
        polygons: COCO annotations as polygons where they hold the mask.
        tolerance: pixels that outlines may be thinned by.
        label_policy: what lies on top in label pictures.
        shard_bytes: size of tar shards; None for none.
    """

    names: tuple[str, ...]
    overlay: bool = False
    copy_images: bool = False
    polygons: bool = False
    tolerance: float = 0.0
    label_policy: str = "smaller_on_top"
    shard_bytes: int | None = None

    @property
    def outputs(self) -> list[str]:
        """Names at the top of the run's folder that come to be."""
        extra = [("overlays", self.overlay), ("shards", self.shard_bytes is not None)]
        return [*self.names, *(name for name, wanted in extra if wanted), "images.csv", "failures.jsonl"]

    def record_name(self, name: str) -> str | None:
        """The SA-1B record that COCO's file and shards are made from, or None when nothing needs it."""
        if "sa1b" in self.names:
            return f"sa1b/{name}.json"
        return (
            f"{STATE}/records/{name}.json" if "coco" in self.names or self.shard_bytes is not None else None
        )

    def expected(self, name: str) -> list[str]:
        """One file in each format that is there when a picture is done."""
        record = self.record_name(name)
        by_format = {
            "png": f"png/{name}/metadata.csv",
            "yolo": f"yolo/labels/{name}.txt",
            "labelmap": f"labelmap/{name}.png",
        }
        wanted = [by_format[each] for each in self.names if each in by_format]
        wanted += [f"overlays/{name}.jpg"] if self.overlay else []
        return wanted if record is None else [record, *wanted]

    def make(self, picture: Picture, path: str, image: Image, masks: Sequence[Mask]) -> Made:
        """All files of one picture; `assembly` makes the rest when all pictures are done.

        Raises:
            LimitError: more masks than a label picture holds.
            DatasetError: the picture is to be copied and is gone.
        """
        made = Made()
        own = self._copy(made, picture, path)
        record = self.record_name(picture.name)
        if record is not None:
            from anymask.data.writers.sa1b import sa1b_file

            made.files[record] = sa1b_file(picture, masks, own if "sa1b" in self.names else None)
        if "png" in self.names:
            from anymask.data.writers.png_folder import png_folder_files

            made.folders.append(f"png/{picture.name}")
            made.files.update((f"png/{picture.name}/{file}", data) for file, data in png_folder_files(masks))
        if "yolo" in self.names:
            self._yolo(made, picture, masks)
        if "labelmap" in self.names or self.overlay:
            self._labels(made, picture, image, masks)
        return made

    def _copy(self, made: Made, picture: Picture, path: str) -> str | None:
        """The copies of the picture; returns what they are called."""
        if not self.copy_images:
            return None
        from anymask.data.writers.picture import picture_file

        own, data = picture_file(path, picture.name)
        places = {"sa1b": f"sa1b/{own}", "coco": f"coco/images/{own}", "yolo": f"yolo/images/{own}"}
        made.files.update((places[name], data) for name in self.names if name in places)
        made.notes["file"] = own
        return own

    def _yolo(self, made: Made, picture: Picture, masks: Sequence[Mask]) -> None:
        from anymask.data.writers.yolo import yolo_labels

        labels = yolo_labels(masks, tolerance=self.tolerance)
        made.files[f"yolo/labels/{picture.name}.txt"] = labels.text.encode("ascii")
        for what, outlines in (("simplified", labels.simplified), ("left_out", labels.left_out)):
            if outlines:
                made.notes.setdefault("yolo", {})[what] = [_told(*each) for each in outlines]

    def _labels(self, made: Made, picture: Picture, image: Image, masks: Sequence[Mask]) -> None:
        from anymask.automatic.select import label_map

        labels = label_map(masks, self.label_policy, image.size)
        if "labelmap" in self.names:
            from anymask.data.writers.label_map import label_map_files

            png, record = label_map_files(picture, labels, masks, self.label_policy)
            made.files[f"labelmap/{picture.name}.png"] = png
            made.files[f"labelmap/{picture.name}.json"] = record
        if self.overlay:
            made.files[f"overlays/{picture.name}.jpg"] = _overlay(image, labels)


def _told(number: int, outline: Outline) -> list[Any]:
    """Mask, IoU, parts and holes."""
    return [number, round(outline.iou, 6), outline.parts, outline.holes]


def _overlay(image: Image, labels: NDArray[np.int32]) -> bytes:
    import numpy as np
    from PIL import Image as PillowImage

    from anymask.frame import Frame
    from anymask.masks.label_overlay import draw_labels

    frame = Frame(image.size, long_side=min(OVERLAY_SIDE, max(image.size)), pad=1)
    pixels = frame.resize_image(image.pixels)
    rows, columns = (
        (np.arange(small) * 2 + 1) * large // (2 * small)
        for small, large in zip(pixels.shape[:2], image.size, strict=True)
    )
    buffer = io.BytesIO()
    drawn = draw_labels(pixels, labels[np.ix_(rows, columns)])
    PillowImage.fromarray(drawn).save(buffer, format="JPEG", quality=_OVERLAY_QUALITY, subsampling=0)
    return buffer.getvalue()
