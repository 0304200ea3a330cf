"""Blind rating of masks by people, from 1 to 10: lay out the pictures, then read what the raters wrote.

What the scale means is told to raters in `rate.html`: 1, the mask is no object at all; 2 to 4, an object can be
guessed but large parts are wrong; 5 and 6, the object is plain and so are the faults; 7 to 9, small faults only; 10,
none to be seen. Any object that lies under the prompt counts, not only the one a rater would have chosen.

Source: Kirillov et al., "Segment Anything", 2023, section 7.1 and appendix E.

A study is a folder::

    STUDY/for_raters/rate.html      opens in any browser, needs no network
    STUDY/for_raters/images/0001.png ...
    STUDY/for_raters/ratings.csv    for those who would rather fill in a table
    STUDY/key.json                  which picture shows which method; raters must not see it

Nothing in ``for_raters`` tells the method: the pictures are numbered in random order, are of one size, carry no
metadata, and all files have the same times.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anymask.atomic import write_atomically
from anymask.errors import InputError, MaskError, OutputError
from anymask.evaluation.metrics import BoolArray
from anymask.evaluation.pictures.views import (
    ASPECT,
    BACKDROP,
    Box,
    Colour,
    Pixels,
    View,
    encode,
    outline,
    view_of,
)
from anymask.evaluation.rating.result import (
    COLUMNS,
    KEY_FILE,
    KEY_FORMAT,
    RATERS_FOLDER,
    RATINGS_FILE,
    MethodDifference,
    MethodRating,
    RatingResult,
    analyse_rating,
)
from anymask.image import read_image
from anymask.masks.boxes import mask_to_box

__all__ = [
    "MethodDifference",
    "MethodRating",
    "RatedObject",
    "RatingResult",
    "analyse_rating",
    "export_rating",
]

ZOOM_WIDTH: Final = 800
"""Pixels across the view of the object; the picture's other two views are half as large."""
OUTLINE: Final[Colour] = (255, 221, 0)
"""The mask's edge: yellow on black, seen on nearly any photograph and by the colour-blind."""

_GAP: Final = 6
_ZOOM_CONTEXT: Final = 1.4
_FILE_TIME: Final = 946_728_000  # noon of 2000-01-01 UTC, for all files
_NOTE: Final = "Keep this file from the raters: it tells which picture shows which method."


@dataclass(frozen=True, eq=False)
class RatedObject:
    """One object and what each method made of it.

    Attributes:
        object_id: names it in the key; no two objects share one.
        image: the photograph, (H, W, 3) uint8 pixels or an encoded file's bytes.
        masks: method -> (H, W) bool mask; an empty mask is a rating's matter, not an error.
        points: clicks (x, y) in image pixels, drawn for the raters.
        labels: 1 or 0 for each click.
        box: the box given as a prompt, or None.
        set_name: sets are compared one by one and count the same in the mean.
        image_id: objects of one image are drawn together in the bootstrap; the object's own id when None.

    Raises:
        MaskError: masks that are not bool (H, W) of one size.
        InputError: no masks, no id, or points and labels of unequal number.
    """

    object_id: str
    image: NDArray[np.uint8] | bytes
    masks: Mapping[str, BoolArray]
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    box: Box | None = None
    set_name: str = "all"
    image_id: Hashable | None = None

    def __post_init__(self) -> None:
        if not self.object_id or not self.masks:
            raise InputError(
                f"a rated object needs an id and a mask of at least one method, got {self.object_id!r} "
                f"and {len(self.masks)} masks"
            )
        shapes = {mask.shape for mask in self.masks.values()}
        if len(shapes) > 1 or any(mask.dtype != np.bool_ or mask.ndim != 2 for mask in self.masks.values()):
            raise MaskError(f"the masks of {self.object_id!r} must be bool (H, W) of one size, got {shapes}")
        if len(self.points) != len(self.labels):
            raise InputError(
                f"every click needs a label, got {len(self.points)} points and {len(self.labels)} labels"
            )


def export_rating(
    objects: Sequence[RatedObject],
    folder: str | os.PathLike[str],
    seed: int = 0,
    title: str = "Mask quality",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Lay out a study in a new folder and return its path; see the module's text for what is in it.

    Args:
        objects: each with a mask of every method.
        folder: must not exist; its parent must.
        seed: of the pictures' order.
        title: stands above the pictures; say nothing in it that tells the methods.
        progress: called with the pictures made and the pictures in all.

    Raises:
        InputError: no objects, two of one id, or objects with masks of different methods.
        ImageError, MaskError: an image cannot be read or is of another size than its masks.
        OutputError: the folder exists or cannot be written; nothing is left behind.
    """
    methods = _check(objects)
    target = Path(folder)
    if target.exists() or target.is_symlink():
        raise OutputError(f"{str(target)!r} exists; a study is laid out in a new folder, choose another name")
    shown = [(thing, method) for thing in objects for method in methods]
    order = np.random.default_rng(seed).permutation(len(shown)).tolist()
    digits = max(4, len(str(len(shown))))
    study = {f"{number:0{digits}d}": shown[place] for number, place in enumerate(order, 1)}
    draft = target.parent / f".{target.name[:64]}.{secrets.token_hex(6)}.part"
    try:
        draft.mkdir()
        (draft / RATERS_FOLDER / "images").mkdir(parents=True)
        _write_study(draft, study, seed, title, progress)
        for path in draft.rglob("*"):
            os.utime(path, (_FILE_TIME, _FILE_TIME))
        draft.rename(target)
    except OSError as error:
        raise OutputError(
            f"the study {str(target)!r} could not be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _check(objects: Sequence[RatedObject]) -> list[str]:
    """The methods, the same for all objects."""
    if not objects:
        raise InputError("a rating study needs at least one object, got none")
    ids = [thing.object_id for thing in objects]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"every object needs an id of its own, got {twice[0]!r} more than once")
    methods = list(objects[0].masks)
    for thing in objects:
        if set(thing.masks) != set(methods):
            raise InputError(
                f"every object needs a mask of each of {methods}, got {list(thing.masks)} for {thing.object_id!r}"
            )
    return methods


def _write_study(
    draft: Path,
    study: Mapping[str, tuple[RatedObject, str]],
    seed: int,
    title: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    raters = draft / RATERS_FOLDER
    digest = hashlib.sha256()
    for done, (number, (thing, method)) in enumerate(study.items(), 1):
        data = encode(_picture(thing, thing.masks[method]), "png")
        digest.update(data)
        write_atomically(raters / "images" / f"{number}.png", data)
        if progress is not None:
            progress(done, len(study))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *([number, "", ""] for number in study)])
    write_atomically(raters / RATINGS_FILE, table.getvalue().encode())
    page = _page(title, {"study": digest.hexdigest()[:16], "ids": list(study)})
    write_atomically(raters / "rate.html", page.encode())
    pictures = {
        number: {
            "object": thing.object_id,
            "method": method,
            "set": thing.set_name,
            "image": thing.object_id if thing.image_id is None else str(thing.image_id),
        }
        for number, (thing, method) in study.items()
    }
    key = {"format": KEY_FORMAT, "note": _NOTE, "seed": seed, "pictures": pictures}
    write_atomically(draft / KEY_FILE, (json.dumps(key, indent=1) + "\n").encode())


def _page(title: str, data: Mapping[str, Any]) -> str:
    """The raters' page; the title is escaped for text, the data for a script element."""
    page = resources.files(__package__).joinpath("rate.html").read_text(encoding="utf-8")
    script = json.dumps(data).replace("<", "\\u003c")
    return page.replace("{{data}}", script).replace("{{title}}", html.escape(title))


def _picture(thing: RatedObject, mask: BoolArray) -> Pixels:
    """The object close up with the mask's outline; beside it the whole image, and the close-up without the mask."""
    pixels = read_image(thing.image).pixels
    if pixels.shape[:2] != mask.shape:
        raise MaskError(
            f"the masks of {thing.object_id!r} are {mask.shape} but the image {pixels.shape[:2]}; they must agree"
        )
    height, width = mask.shape
    small = ZOOM_WIDTH // 2 - _GAP // 2
    focus = _focus(thing, mask)
    close = view_of(focus, (), (height, width), ZOOM_WIDTH, _ZOOM_CONTEXT)
    views = (
        (close, True, False),
        (view_of((0, 0, width, height), (), (height, width), small), True, True),
        (view_of(focus, (), (height, width), small, _ZOOM_CONTEXT), False, True),
    )
    sheet = np.full((round(ZOOM_WIDTH / ASPECT), ZOOM_WIDTH + _GAP + small, 3), BACKDROP, dtype=np.uint8)
    places = ((0, 0), (0, ZOOM_WIDTH + _GAP), (len(sheet) - views[2][0].height, ZOOM_WIDTH + _GAP))
    for (view, outlined, prompted), (top, left) in zip(views, places, strict=True):
        drawn = _draw(view, pixels, mask if outlined else None, thing if prompted else None)
        sheet[top : top + view.height, left : left + view.width] = drawn
    return sheet


def _draw(view: View, pixels: Pixels, mask: BoolArray | None, prompt: RatedObject | None) -> Pixels:
    part = view.cut(pixels)
    if mask is not None:
        outline(part, view.cut_mask(mask), OUTLINE, view.width / 400)
    if prompt is not None:
        view.draw_prompt(part, prompt.points, prompt.labels, prompt.box)
    return view.mount(part)


def _focus(thing: RatedObject, mask: BoolArray) -> Box:
    """The box of the mask and the prompt together; of the whole image when there is neither."""
    boxes = [tuple(float(side) for side in mask_to_box(mask))] if mask.any() else []
    boxes += [(x, y, x + 1.0, y + 1.0) for x, y in thing.points]
    boxes += [tuple(float(side) for side in thing.box)] if thing.box is not None else []
    if not boxes:
        return 0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])
    array = np.array(boxes)
    x0, y0 = array[:, :2].min(axis=0).tolist()
    x1, y1 = array[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1
