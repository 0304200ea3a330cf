"""Texts of the command line -> checked values: prompts, lists of images, names of results."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anymask.errors import AnymaskError, InputError, OutputError, PromptError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anymask.types import Prompt

__all__ = ["check_output_folder", "image_paths", "parse_numbers", "parse_prompt", "result_names"]

_LONGEST_NAME: Final = 180  # bytes; what results append must still fit the 255 of common file systems


def parse_numbers(text: str, option: str, form: str) -> tuple[float, ...]:
    """Numbers such as ``12.5,40`` for an option whose ``form`` is ``x,y``; raises ``PromptError``."""
    parts = text.split(",")
    count = form.count(",") + 1
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise PromptError(f"{option} must be {count} numbers written {form} without spaces, got {text!r:.80}")
    if not all(math.isfinite(number) for number in numbers):
        raise PromptError(f"{option} must be finite numbers, got {text!r:.80}")
    return numbers


def parse_prompt(
    foreground: Sequence[str], background: Sequence[str], box: str | None, mask: Path | None
) -> Prompt:
    """One object's prompt from the options; raises ``PromptError`` or, for the mask's file, an image error."""
    from anymask.types import Prompt

    if not (foreground or background or box is not None or mask is not None):
        raise PromptError(
            "say what to segment: give --point x,y, --background x,y, --box x1,y1,x2,y2 or --mask FILE"
        )
    points = [parse_numbers(text, "--point", "x,y") for text in foreground]
    points += [parse_numbers(text, "--background", "x,y") for text in background]
    return Prompt(
        points=points or None,
        labels=[1] * len(foreground) + [0] * len(background) if points else None,
        box=None if box is None else parse_numbers(box, "--box", "x1,y1,x2,y2"),
        mask=None if mask is None else _read_mask(mask),
    )


def _read_mask(path: Path) -> NDArray[np.bool_]:
    """The bool mask (H, W) of a picture that holds 0 and 255 only."""
    from anymask.image import read_image

    try:
        pixels = read_image(path).pixels
    except AnymaskError as error:
        raise type(error)(f"--mask {str(path)!r}: {error}") from error
    grey = pixels[..., 0]
    odd = (pixels != grey[..., None]).any(axis=2) | ((grey != 0) & (grey != 255))
    if odd.any():
        value = tuple(int(channel) for channel in pixels[odd][0])
        raise PromptError(
            f"--mask {str(path)!r} must hold only black (0) and white (255), got the RGB value {value}"
        )
    if not grey.any():
        raise PromptError(f"--mask {str(path)!r} is all black; paint the object white")
    mask: NDArray[np.bool_] = grey == 255
    return mask


def image_paths(arguments: Sequence[str]) -> list[str]:
    """The images named on the command line; ``-`` stands for a list on standard input, one path a line."""
    paths: list[str] = []
    for argument in arguments:
        if argument == "-":
            lines = sys.stdin.buffer.read().split(b"\n")
            paths += [os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip()]
        else:
            paths.append(argument)
    if not paths:
        raise InputError("standard input named no image; give one path a line")
    return paths


def result_names(paths: Sequence[str]) -> list[str]:
    """A name for each image's results: the file's own without its ending, numbered where two would be the same.

    Names that differ only in case count as the same, since some file systems think so.
    """
    stems = [_shorten(Path(path).stem or "image") for path in paths]
    taken = {stem.casefold() for stem in stems}
    used: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in used or (number > 1 and name.casefold() in taken):
            number += 1
            name = f"{stem}_{number}"
        used.add(name.casefold())
        names.append(name)
    return names


def check_output_folder(folder: Path) -> None:
    """Raise ``OutputError`` when results could not be written to ``folder``; make nothing yet."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"the output folder {str(folder)!r} cannot be used: {str(nearest)!r} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(
            f"the output folder {str(folder)!r} cannot be written: no permission for {str(nearest)!r}"
        )


def _shorten(stem: str) -> str:
    while len(os.fsencode(stem)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem
