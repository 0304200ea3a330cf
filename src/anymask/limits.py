"""Every limit as a named constant; ``docs/limits.md`` is printed from here by ``python -m anymask.limits``.

The limits exist so that hostile or mistaken input ends in one clear sentence, not in a killed process. They
are checked before memory is spent.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIN_IMAGE_SIDE: Final = 1
MAX_IMAGE_SIDE: Final = 65_535
MAX_IMAGE_PIXELS: Final = 120_000_000
MAX_IMAGE_BYTES: Final = 512 * 1024 * 1024
MAX_POINTS_PER_OBJECT: Final = 1_024
MAX_OBJECTS_PER_CALL: Final = 4_096
MAX_LOW_RES_SIDE: Final = 2_048
MAX_NETWORK_SIDE: Final = 8_192
MAX_CROP_LAYERS: Final = 6
MAX_POINTS_PER_SIDE: Final = 256
MAX_AUTOMATIC_POINTS: Final = 333_333
MAX_RLE_COUNTS: Final = 8_000_000
MAX_RLE_CHARACTERS: Final = 24 * 1024 * 1024
MAX_POLYGON_VERTICES: Final = 2_000_000
MAX_NMS_BOXES: Final = 1_000_000
MAX_EMBEDDING_BYTES: Final = 256 * 1024 * 1024
MAX_EMBEDDING_ARRAYS: Final = 32
MAX_EMBEDDING_TEXT: Final = 512
MAX_MANIFEST_BYTES: Final = 256 * 1024
MAX_GRAPH_BYTES: Final = 2**31 - 1
MAX_OUTSIDE_WEIGHTS_BYTES: Final = 8 * 1024**3
MAX_CHECKPOINT_BYTES: Final = 16 * 1024**3
MAX_CHECKPOINT_MEMBERS: Final = 20_000
MAX_PICKLE_BYTES: Final = 16 * 1024 * 1024
MAX_CHECKPOINT_SHARDS: Final = 256
MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
MAX_NETWORK_SIZE: Final = 4_096
MAX_REDIRECTS: Final = 5
MAX_SETTINGS_BYTES: Final = 64 * 1024
MAX_THREADS: Final = 1_024
MAX_CALIBRATION_PICTURES: Final = 512


class Limit(NamedTuple):
    """One row of the table: the constant's name, its value, the unit and what it bounds."""

    name: str
    value: int
    unit: str
    meaning: str


_ROWS: Final = (
    ("MIN_IMAGE_SIDE", "pixels", "smallest width or height of an image"),
    ("MAX_IMAGE_SIDE", "pixels", "largest width or height of an image"),
    ("MAX_IMAGE_PIXELS", "pixels", "largest width times height of an image or mask"),
    ("MAX_IMAGE_BYTES", "bytes", "largest image file"),
    ("MAX_POINTS_PER_OBJECT", "points", "clicks in one prompt"),
    ("MAX_OBJECTS_PER_CALL", "prompts", "prompts in one call"),
    ("MAX_LOW_RES_SIDE", "cells", "largest side of low-resolution logits given back as a prompt"),
    ("MAX_NETWORK_SIDE", "pixels", "largest side of the padded network frame"),
    ("MAX_CROP_LAYERS", "layers", "crop layers of automatic masks (layer n has 4^n crops)"),
    ("MAX_POINTS_PER_SIDE", "points", "clicks along a side of the grid of automatic masks"),
    ("MAX_AUTOMATIC_POINTS", "points", "clicks of one run of automatic masks, crops included"),
    ("MAX_RLE_COUNTS", "runs", "runs in one run-length encoding"),
    ("MAX_RLE_CHARACTERS", "characters", "length of one compressed run-length string"),
    ("MAX_POLYGON_VERTICES", "vertices", "vertices of all polygons of one mask together"),
    ("MAX_NMS_BOXES", "boxes", "boxes in one non-maximum suppression"),
    ("MAX_EMBEDDING_BYTES", "bytes", "largest embedding file"),
    ("MAX_EMBEDDING_ARRAYS", "arrays", "arrays in one embedding"),
    ("MAX_EMBEDDING_TEXT", "characters", "length of each text in an embedding"),
    ("MAX_MANIFEST_BYTES", "bytes", "largest manifest of a model"),
    ("MAX_GRAPH_BYTES", "bytes", "largest ONNX graph, which is the format's own limit"),
    ("MAX_OUTSIDE_WEIGHTS_BYTES", "bytes", "largest file of weights beside an exported graph"),
    (
        "MAX_CHECKPOINT_BYTES",
        "bytes",
        "largest checkpoint that is downloaded or read, all its parts together",
    ),
    ("MAX_CHECKPOINT_MEMBERS", "members", "members of one checkpoint's archive"),
    ("MAX_PICKLE_BYTES", "bytes", "largest description of the tensors inside a checkpoint's archive"),
    ("MAX_CHECKPOINT_SHARDS", "files", "files that one checkpoint is split into"),
    ("MAX_INDEX_BYTES", "bytes", "largest JSON file beside a checkpoint: its index or its config"),
    (
        "MAX_NETWORK_SIZE",
        "units",
        "largest single number (channels, layers, pixels) among the sizes of a network",
    ),
    ("MAX_REDIRECTS", "redirects", "times that a download may be sent elsewhere"),
    ("MAX_SETTINGS_BYTES", "bytes", "largest settings file"),
    ("MAX_THREADS", "threads", "largest thread count that may be asked for"),
    ("MAX_CALIBRATION_PICTURES", "pictures", "pictures that the scales of an int8 export are taken from"),
)


def table() -> tuple[Limit, ...]:
    """Every limit, in the order of this file."""
    return tuple(Limit(name, int(globals()[name]), unit, meaning) for name, unit, meaning in _ROWS)


def as_markdown() -> str:
    """The text of ``docs/limits.md``."""
    lines = [
        "# Limits",
        "",
        "Printed from `src/anymask/limits.py` by `python -m anymask.limits`; a test fails when they differ.",
        "Input beyond a limit is refused with a sentence that names the value seen and the limit.",
        "",
        "| constant | value | unit | what it bounds |",
        "|---|---:|---|---|",
    ]
    lines += [f"| `{row.name}` | {row.value:,} | {row.unit} | {row.meaning} |" for row in table()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
