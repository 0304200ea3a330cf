"""Labels that a model gives to photographs on its own, for the next model to train on: the first turn of a data engine.

    python -m anymask.training.pseudo_labels PHOTOGRAPHS --out pseudo/caltech.tar --limit 2000

Everything is segmented fully automatically, as in `anymask auto`, and three filters keep the best: predicted IoU,
stability, and *consistency*: the picture is shown a second time, mirrored, smaller and in other light, and a mask stays
only when its own click finds it again there. The result is a shard as any other source of training.

A run that was stopped goes on where it was: pictures are labelled in parts, each part a whole file beside the shard,
and the parts become the shard at the end. The same photographs, model and filters give the same bytes.

Source: Kirillov et al., "Segment Anything", 2023, section 4, the fully automatic stage, for two of the filters.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from rich.console import Console
from rich.progress import track

from anymask.atomic import write_atomically
from anymask.automatic.generator import Generator
from anymask.automatic.settings import AutomaticSettings
from anymask.data.photographs import Photographs
from anymask.data.writers.picture import Picture
from anymask.data.writers.sa1b import sa1b_file
from anymask.data.writers.shards import Pair, write_shards
from anymask.errors import AnymaskError, InputError
from anymask.image import read_image
from anymask.predict.loading import load
from anymask.predict.segmenter import Segmenter
from anymask.types import Image, Mask, Prompt

__all__ = ["Filters", "Labeller", "Pseudo", "View", "second_view", "write_pseudo_labels"]

LONGEST_SIDE: Final = 512
"""Pixels that a photograph is reduced to, as the labelled sources are."""
PICTURES_PER_PART: Final = 100
JPEG_QUALITY: Final = 90
_UNBOUNDED: Final = 2**62

Pixels = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Filters:
    """What a mask must be to become a label.

    Attributes:
        points_per_side: clicks in a row of the grid.
        pred_iou: predicted IoU is above it.
        stability: stability is not below it.
        consistency: IoU with what the second view answers to its click is not below it.
        area: least and greatest share of the picture.
        masks: at most so many a picture, the best predicted ones.

    Raises:
        InputError: a value is out of range.
    """

    points_per_side: int = 16
    pred_iou: float = 0.55
    stability: float = 0.75
    consistency: float = 0.85
    area: tuple[float, float] = (0.002, 0.6)
    masks: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.consistency <= 1:
            raise InputError(f"consistency is an IoU from 0 to 1, got {self.consistency}")
        if not 0 <= self.area[0] < self.area[1] <= 1:
            raise InputError(f"area needs 0 <= least < greatest <= 1, got {self.area}")
        if self.masks < 1:
            raise InputError(f"at least one mask a picture must be allowed, got {self.masks}")


@dataclass(frozen=True)
class Pseudo:
    """One mask and how well the second view agrees, an IoU from 0 to 1."""

    mask: Mask
    consistency: float


@dataclass(frozen=True)
class View:
    """A picture as it is shown the second time: mirrored left to right, smaller, in other light.

    Attributes:
        pixels: (h, w, 3) uint8.
        size: (height, width) of the picture it was made of.
    """

    pixels: Pixels
    size: tuple[int, int]

    def point(self, point: tuple[float, float]) -> tuple[float, float]:
        """Where a point (x, y) of the picture is in the view."""
        (height, width), (view_height, view_width) = self.size, self.pixels.shape[:2]
        return (width - point[0]) * view_width / width, point[1] * view_height / height

    def back(self, mask: BoolArray) -> BoolArray:
        """A mask (h, w) over the view -> (H, W) over the picture."""
        height, width = self.size
        plane = mask[:, ::-1].astype(np.float32)
        return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5)


def second_view(image: Image) -> View:
    """The second view of a picture; how it is changed is drawn from the picture's own digest."""
    rng = np.random.default_rng(int(image.digest[:16], 16))
    scale, gamma = rng.uniform(0.65, 0.85), float(np.exp(rng.uniform(-0.4, 0.4)))
    tint = rng.uniform(0.9, 1.1, size=3)
    height, width = (max(1, round(side * scale)) for side in image.size)
    small = cv2.resize(image.pixels[:, ::-1], (width, height), interpolation=cv2.INTER_AREA)
    light = 255 * np.clip((small / 255.0) ** gamma * tint, 0, 1)
    return View(np.asarray(np.round(light), dtype=np.uint8), image.size)


class Labeller:
    """Labels pictures with one model; holds no state of any picture."""

    def __init__(self, segmenter: Segmenter, filters: Filters | None = None) -> None:
        self.segmenter, self.filters = segmenter, filters or Filters()
        settings = AutomaticSettings.for_effort(
            model=segmenter.spec.name,
            points_per_side=self.filters.points_per_side,
            pred_iou_thresh=self.filters.pred_iou,
            stability_score_thresh=self.filters.stability,
        )
        self._generator = Generator(segmenter, settings)

    def job(self) -> dict[str, Any]:
        """Everything that decides the labels of a picture, as plain data."""
        return {"model": self.segmenter.spec.digest, "filters": asdict(self.filters)}

    def label(self, image: Image) -> list[Mask]:
        """The masks of a picture that pass all filters, best predicted IoU first."""
        kept = [
            found.mask for found in self.candidates(image) if found.consistency >= self.filters.consistency
        ]
        return kept[: self.filters.masks]

    def candidates(self, image: Image) -> list[Pseudo]:
        """All masks of allowed areas that pass predicted IoU and stability, best predicted IoU first."""
        pixels = image.size[0] * image.size[1]
        least, greatest = self.filters.area
        masks = [m for m in self._generator.generate(image) if least <= m.area / pixels <= greatest]
        if not masks:
            return []
        view = second_view(image)
        prompts = []
        for mask in masks:
            assert mask.point is not None  # everything mode notes the click
            prompts.append(Prompt(points=[view.point(mask.point)], labels=[1]))
        answers = self.segmenter.segment_many(view.pixels, prompts, multimask=True)
        return [
            Pseudo(mask, max(_iou(mask.array, view.back(answer.array)) for answer in answered))
            for mask, answered in zip(masks, answers, strict=True)
        ]


def _iou(first: BoolArray, second: BoolArray) -> float:
    either = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / either if either else 0.0


def write_pseudo_labels(
    photographs: Photographs,
    out: Path,
    labeller: Labeller,
    chosen: Sequence[int] | None = None,
    per_part: int = PICTURES_PER_PART,
) -> tuple[int, int]:
    """Label photographs into the shard ``out``; returns the numbers of pictures and masks in it.

    Pictures without a mask, and files that are no pictures, are left out; the latter are named on standard error.

    Args:
        photographs: a folder or tar file of them.
        out: ``NAME.tar``; its pictures are called ``NAME_000000`` and so on, by their place in ``photographs``.
        labeller: model and filters.
        chosen: places of those to label; all when not given.
        per_part: photographs per part.

    Raises:
        InputError: ``out`` is not called ``*.tar``, or an unfinished run of other photographs, model or filters lies
            beside it.
        OutputError: a file could not be written; parts that are done stay.
    """
    if out.suffix != ".tar":
        raise InputError(f"pseudo-labels are written as NAME.tar, got {out.name!r:.100}")
    parts = out.with_name(f"{out.stem}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    places = range(len(photographs)) if chosen is None else chosen
    keys = photographs.keys()
    _same_job(parts, labeller.job() | {"per_part": per_part, "photographs": [[i, keys[i]] for i in places]})
    paths = []
    starts = range(0, len(places), per_part)
    for start in track(starts, description=out.stem, console=Console(stderr=True), transient=True):
        path = parts / f"{start:06d}.tar"
        paths.append(path)
        if not path.exists():
            part = places[start : start + per_part]
            write_atomically(path, _tar(_labelled(photographs, part, out.stem, labeller)))
    pairs = [pair for path in paths for pair in _pairs_of(path)]
    write_atomically(out, _tar(pairs))
    shutil.rmtree(parts)
    return len(pairs), sum(record.count(b'"segmentation"') for _, _, _, record in pairs)


def _same_job(parts: Path, job: dict[str, Any]) -> None:
    text = json.dumps(job, sort_keys=True).encode()
    path = parts / "job.json"
    if not path.exists():
        write_atomically(path, text)
    elif path.read_bytes() != text:
        raise InputError(
            f"{str(parts)!r} holds an unfinished run of other photographs, model or filters; remove it to start anew"
        )


def _labelled(
    photographs: Photographs, places: Iterable[int], name: str, labeller: Labeller
) -> Iterator[Pair]:
    for place in places:
        try:
            jpeg = _reduced(read_image(photographs[place]))
            image = read_image(jpeg)
            masks = labeller.label(image)
        except AnymaskError as error:
            text = f"{photographs.keys()[place]} is left out: {error}"
            Console(stderr=True).print(text, markup=False, soft_wrap=True)
            continue
        if masks:
            key = f"{name}_{place:06d}"
            picture = Picture(place + 1, key, f"{key}.jpg", image.width, image.height)
            yield f"{key}.jpg", jpeg, f"{key}.json", sa1b_file(picture, masks)


def _reduced(image: Image) -> bytes:
    """The picture as JPEG, at most `LONGEST_SIDE` pixels long."""
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    height, width = (max(1, round(side * scale)) for side in image.size)
    pixels = cv2.resize(image.pixels, (width, height), interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    PillowImage.fromarray(np.asarray(pixels, dtype=np.uint8)).save(
        file, "JPEG", quality=JPEG_QUALITY, subsampling=0
    )
    return file.getvalue()


def _tar(pairs: Iterable[Pair]) -> bytes:
    file = io.BytesIO()

    @contextmanager
    def opened(name: str) -> Iterator[BinaryIO]:
        yield file

    write_shards(pairs, opened, _UNBOUNDED)
    if not file.tell():  # nothing was found in any picture
        tarfile.open(fileobj=file, mode="w").close()
    return file.getvalue()


def _pairs_of(path: Path) -> Iterator[Pair]:
    with tarfile.open(path, "r:") as archive:
        members = [(info.name, _bytes(archive, info)) for info in archive]
    for (picture, pixels), (record, document) in zip(members[::2], members[1::2], strict=True):
        yield picture, pixels, record, document


def _bytes(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None
    return file.read()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, label, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, help="a folder, searched through, or a tar file")
    parser.add_argument("--out", type=Path, required=True, help="the shard, NAME.tar")
    parser.add_argument("--model", default=None, help="model name or path (default: the embedded nano)")
    parser.add_argument("--limit", type=int, default=None, help="photographs, evenly spread over the folder")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    try:
        photographs = Photographs(options.photographs)
        number = min(options.limit or len(photographs), len(photographs))
        chosen = np.linspace(0, len(photographs) - 1, number).round().astype(int).tolist()
        segmenter = load(options.model, threads=options.threads)
        pictures, masks = write_pseudo_labels(photographs, options.out, Labeller(segmenter), chosen)
    except AnymaskError as error:
        parser.error(str(error))
    print(f"{options.out}: {pictures} of {number} photographs, {masks} masks")


if __name__ == "__main__":
    main()
