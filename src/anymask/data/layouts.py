"""What lies at a path? Labelled datasets recognised by their folders and file names.

Nothing is opened to find out: only names are looked at, in a fixed order, and the first layout that fits is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anymask.errors import DatasetError

from .coco import CocoDataset
from .dataset import Dataset
from .mask_folders import Ade20kDataset, DavisDataset, MaskFolder
from .sa1b import TarShard
from .sa1b_folder import IMAGE_SUFFIXES, Sa1bFolder

KNOWN_LAYOUTS: Final = (
    "a .tar shard of SA-1B pairs or a folder of them, a folder of .jpg and .json pairs (SA-1B), annotations/*.json "
    "beside images/ (COCO, LVIS), JPEGImages/ beside Annotations/ (DAVIS), images/ of ADE20K, images/ beside masks/"
)

_COCO_OTHERS: Final = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_COCO_SPLITS: Final = ("train2017", "val2017")
_DAVIS_RESOLUTIONS: Final = ("480p", "1080p", "Full-Resolution")
_DAVIS_YEARS: Final = ("2017", "2016")
_ADE_SPLITS: Final = ("validation", "training")


@dataclass(frozen=True)
class NamedDataset:
    """A dataset with its name, unique among those opened together, and its layout.

    Attributes:
        name: of the file or folder it lies in.
        layout: "sa1b", "coco", "davis", "ade20k" or "masks".
        dataset: opened.
    """

    name: str
    layout: str
    dataset: Dataset


def open_labelled(path: str | Path, images: str | Path | None = None) -> list[NamedDataset]:
    """Open what lies at a path, sorted by name.

    * ``.tar``: one shard; a folder of shards: each, those ending in ``_raw.tar`` passed over.
    * ``.json``: COCO or LVIS, the pictures in ``images``, or beside it as in a COCO folder.
    * A COCO folder: each ``annotations/instances_*.json`` or ``annotations/lvis_*.json`` (where there is none, each
      other JSON file of that folder that is not of captions, key points, panoptic or stuff labels) for which there is a
      folder of pictures: ``images``, or below the root that of the split (``val2017/``, ``images/val2017/``),
      ``images/``, or the root itself.
    * DAVIS: the videos of ``ImageSets/2017/val.txt`` or ``2016/val.txt`` where there is one, else all.
    * ADE20K: validation, else training.
    * ``images/`` with ``masks/``, or any folder of masks with ``images`` given.
    * A folder of ``.jpg`` and ``.json`` pairs.

    Raises:
        DatasetError: no layout fits, or the one that fits is damaged.
    """
    path = Path(path)
    pictures = None if images is None else Path(images)
    if pictures is not None and not pictures.is_dir():
        raise DatasetError(f"There is no folder of pictures at {pictures}.")
    if path.is_file() and path.suffix == ".tar":
        return [_shard(path)]
    if path.is_file() and path.suffix == ".json":
        return [_coco_file(path, pictures)]
    if not path.exists():
        raise DatasetError(f"There is no dataset at {path}.")
    if path.is_dir():
        openers: tuple[Callable[[Path, Path | None], list[NamedDataset]], ...] = (
            _shards, _davis, _coco, _ade20k, _masks, _sa1b_folder,
        )  # fmt: skip
        for opener in openers:
            found = opener(path, pictures)
            if found:
                return found
    raise DatasetError(f"{path} has none of the known layouts: {KNOWN_LAYOUTS}.")


def _shard(path: Path) -> NamedDataset:
    shard = TarShard(path)
    if not len(shard):
        raise DatasetError(f"{path} holds no image with a record.")
    return NamedDataset(path.stem, "sa1b", shard)


def _shards(root: Path, images: Path | None) -> list[NamedDataset]:
    paths = sorted(path for path in root.glob("*.tar") if not path.stem.endswith("_raw"))
    return [_shard(path) for path in paths]


def _davis(root: Path, images: Path | None) -> list[NamedDataset]:
    if not ((root / "JPEGImages").is_dir() and (root / "Annotations").is_dir()):
        return []
    there = [name for name in _DAVIS_RESOLUTIONS if (root / "Annotations" / name).is_dir()]
    years = [year for year in _DAVIS_YEARS if (root / "ImageSets" / year / "val.txt").is_file()]
    year = years[0] if years else None
    name = root.name if year is None else f"{root.name}_{year}_val"
    dataset = DavisDataset(root, there[0] if there else _DAVIS_RESOLUTIONS[0], year, source=name)
    return [NamedDataset(name, "davis", dataset)]


def _coco(root: Path, images: Path | None) -> list[NamedDataset]:
    files = _instance_files(root / "annotations")
    if not files:
        return []
    with_pictures = [path for path in files if _coco_pictures(path, images)]
    if not with_pictures:
        raise DatasetError(
            f"{root} holds the annotations {files[0].name!r}, but no folder of pictures such as images/ or val2017/; "
            "give it as images=."
        )
    return [_coco_file(path, images) for path in with_pictures]


def _instance_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith((".", *_COCO_OTHERS))]
    named = [path for path in files if path.name.startswith(("instances", "lvis"))]
    return named or files


def _coco_file(path: Path, images: Path | None) -> NamedDataset:
    candidates = _coco_pictures(path, images)
    if not candidates:
        raise DatasetError(f"There is no folder of pictures beside {path}; give it as images=.")
    dataset = CocoDataset(path, candidates[0])
    if len(dataset):
        moved = (dataset.with_images(folder) for folder in candidates)
        dataset = next((each for each in moved if each.has_picture(0)), dataset)
    return NamedDataset(path.stem, "coco", dataset)


def _coco_pictures(path: Path, images: Path | None) -> list[Path]:
    """Folders where the pictures of an annotation file may lie, the likeliest first."""
    if images is not None:
        return [images]
    root, split = (
        path.parent.parent if path.parent.name == "annotations" else path.parent,
        path.stem.split("_")[-1],
    )
    candidates = [root / split, root / "images" / split]
    for folder in (root / "images", root):
        has_splits = any((folder / name).is_dir() for name in _COCO_SPLITS)
        if has_splits and split in _COCO_SPLITS:
            continue  # the pictures of another split
        if has_splits or folder != root:
            candidates.append(folder)
    return [folder for folder in candidates if folder.is_dir()]


def _ade20k(root: Path, images: Path | None) -> list[NamedDataset]:
    for split in _ADE_SPLITS:
        is_full = (root / "images" / "ADE" / split).is_dir()
        is_flat = (root / "images" / split).is_dir() and not (root / "masks").is_dir()
        if is_full or is_flat:
            name = f"{root.name}_{split}"
            return [NamedDataset(name, "ade20k", Ade20kDataset(root, split, name))]
    return []


def _masks(root: Path, images: Path | None) -> list[NamedDataset]:
    if images is not None:
        return [NamedDataset(root.name, "masks", MaskFolder(images, root, root.name))]
    if not ((root / "images").is_dir() and (root / "masks").is_dir()):
        return []
    return [NamedDataset(root.name, "masks", MaskFolder(root / "images", root / "masks", root.name))]


def _sa1b_folder(root: Path, images: Path | None) -> list[NamedDataset]:
    """Whether there is one picture with its record: names are looked at until the first."""
    pairs = (path for path in sorted(root.glob("*.json")) if _has_picture(path))
    return [NamedDataset(root.name, "sa1b", Sa1bFolder(root))] if next(pairs, None) is not None else []


def _has_picture(record: Path) -> bool:
    return any(record.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)
