"""One image's answer as files: masks, overlay and record, all of them or none."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image as PillowImage

from anymask.atomic import write_atomically
from anymask.errors import OutputError
from anymask.frame import Frame
from anymask.masks.overlay import COLOURS, Pixels, contact_sheet, draw_overlay, draw_prompts
from anymask.types import Image, Mask, MaskSet, Prompt

__all__ = ["Answer", "overlay", "record", "write_answer"]

OVERLAY_SIDE: Final = 2560
"""Overlays of larger images are scaled down to this: they are for looking at, masks keep every pixel."""


@dataclass(frozen=True)
class Answer:
    """What was asked of one image, what came out and how long it took."""

    path: str
    image: Image
    prompt: Prompt
    masks: MaskSet
    encode_ms: float
    decode_ms: float


def write_answer(
    answer: Answer, folder: Path, name: str, image_id: int, *, numbered: bool
) -> dict[str, Path]:
    """Write the files of one image into ``folder``, which is made when missing.

    Args:
        name: what every file's name begins with.
        image_id: for the record.
        numbered: name the masks ``_mask_1.png``, ``_mask_2.png`` ... and draw them all; else there is one mask.

    Returns the paths by kind: ``mask`` (or ``mask_1`` ...), ``overlay``, ``record``. Raises `OutputError`; then
    no file of this image was written or changed.
    """
    kinds = [f"mask_{number}" for number in range(1, len(answer.masks) + 1)] if numbered else ["mask"]
    files = {f"{name}_{kind}.png": _mask_png(mask) for kind, mask in zip(kinds, answer.masks, strict=True)}
    files[f"{name}_overlay.png"] = _png(overlay(answer), compress_level=3)
    files[f"{name}.json"] = (json.dumps(record(answer, image_id)) + "\n").encode()
    written = _write_together(folder, files)
    return dict(zip([*kinds, "overlay", "record"], written, strict=True))


def record(answer: Answer, image_id: int) -> dict[str, Any]:
    """The SA-1B document of one image: ``image`` and ``annotations``, keys as published, best mask first."""
    return {
        "image": {
            "image_id": image_id,
            "width": answer.image.width,
            "height": answer.image.height,
            "file_name": os.fsencode(Path(answer.path).name).decode("utf-8", "replace"),
        },
        "annotations": answer.masks.to_records(),
    }


def overlay(answer: Answer) -> Pixels:
    """The picture for people: the mask and the prompt, or one panel for each of several candidates."""
    image, prompt = answer.image, answer.prompt
    frame = Frame(image.size, long_side=min(OVERLAY_SIDE, max(image.size)), pad=1)
    pixels = frame.resize_image(image.pixels)
    points = None if prompt.points is None else frame.points_to_network(prompt.points)
    box = None if prompt.box is None else frame.boxes_to_network(prompt.box)
    panels, captions = [], []
    for index, mask in enumerate(answer.masks):
        shown = frame.resize_image(mask.array.view(np.uint8) * np.uint8(255)) > 127
        panel = draw_overlay(pixels, shown, COLOURS[index % len(COLOURS)])
        draw_prompts(panel, points, prompt.labels, box)
        panels.append(panel)
        captions.append(f"{index + 1}    score {mask.score:.2f}    area {_share(mask):.1f} %")
    return panels[0] if len(panels) == 1 else contact_sheet(panels, captions)


def _share(mask: Mask) -> float:
    """How much of the image a mask covers, in percent."""
    return 100.0 * mask.area / (mask.size[0] * mask.size[1])


def _mask_png(mask: Mask) -> bytes:
    return _png(mask.array.view(np.uint8) * np.uint8(255), compress_level=6)


def _png(pixels: Pixels, compress_level: int) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def _write_together(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write all files into a hidden folder beside their places, then rename each: a full disk changes nothing."""
    made = _first_missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".anymask-", dir=folder))
    except OSError as error:
        raise OutputError(
            f"could not use the output folder {str(folder)!r}: {error.strerror}; choose another with --out"
        ) from error
    try:
        for name, data in files.items():
            write_atomically(stage / name, data)
        for name in files:
            os.replace(stage / name, folder / name)
    except (OSError, OutputError) as error:
        shutil.rmtree(stage, ignore_errors=True)
        if made is not None:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"could not write to {str(folder)!r}: {error.strerror}") from error
    stage.rmdir()
    return [folder / name for name in files]


def _first_missing(folder: Path) -> Path | None:
    """``folder`` when it does not exist yet, so that it can be taken away again."""
    return None if folder.exists() else folder
