"""The files that tell of all pictures together, made from the journal and the records when every picture is done."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from anymask.cli.auto.files import Formats
from anymask.cli.auto.folder import Entry, RunFolder
from anymask.cli.auto.inputs import Source
from anymask.errors import OutputError

if TYPE_CHECKING:
    from anymask.data.writers.picture import Picture

__all__ = ["COCO_FILE", "assemble"]

COCO_FILE: Final = "coco/annotations/instances.json"
_DROPPED: Final = "yolo/dropped.csv"
_FAILURES: Final = "failures.jsonl"


def assemble(folder: RunFolder, formats: Formats, sources: Sequence[Source]) -> dict[str, Any]:
    """Write what is missing and return what the formats hold, for the summary.

    Raises:
        OutputError: it could not be written, or a record is gone.
        DatasetError, ImageError: shards are wanted and a picture is gone.
    """
    entries = [folder.entries[source.id] for source in sources]
    done = [entry for entry in entries if entry.error is None]
    failed = [entry for entry in entries if entry.error is not None]
    told: dict[str, Any] = {}
    folder.write("images.csv", _images_csv(done))
    if "yolo" in formats.names:
        told["yolo"] = _finish_yolo(folder, done)
    if "coco" in formats.names:
        told["coco"] = _write_coco(folder, formats, done)
    if formats.shard_bytes is not None:
        told["shards"] = _write_shards(folder, formats, sources, formats.shard_bytes)
    if failed:
        folder.write(_FAILURES, b"".join(_failure(entry) for entry in failed))
    else:
        folder.remove(_FAILURES)
    return told


def _picture(entry: Entry) -> Picture:
    from anymask.data.writers.picture import Picture

    return Picture(entry.id, entry.name, entry.file, entry.width, entry.height)


def _images_csv(done: Sequence[Entry]) -> bytes:
    rows = [(each.id, each.name, each.file, each.width, each.height, each.masks) for each in done]
    return _csv([("id", "name", "file", "width", "height", "masks"), *rows])


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _failure(entry: Entry) -> bytes:
    return (json.dumps({"id": entry.id, "file": entry.file, **(entry.error or {})}) + "\n").encode("ascii")


def _finish_yolo(folder: RunFolder, done: Sequence[Entry]) -> dict[str, int]:
    from anymask.data.writers.yolo import data_yaml

    folder.write("yolo/data.yaml", data_yaml().encode())
    rows: list[Sequence[Any]] = []
    counts = {"simplified": 0, "left_out": 0}
    for entry in done:
        notes: Mapping[str, Any] = entry.notes.get("yolo", {})
        for what in counts:
            found = notes.get(what, [])
            counts[what] += len(found)
            rows += [(entry.name, what, *each) for each in found]
    if rows:
        folder.write(_DROPPED, _csv([("name", "what", "mask", "iou", "parts", "holes"), *rows]))
    else:
        folder.remove(_DROPPED)
    return counts


def _write_coco(folder: RunFolder, formats: Formats, done: Sequence[Entry]) -> dict[str, Any]:
    from anymask.data.writers.coco import write_coco

    entries = {entry.id: entry for entry in done}
    with folder.writing(COCO_FILE) as file:
        tally = write_coco(
            file,
            [_picture(entry) for entry in done],
            lambda picture: _record(folder, formats, picture.name)["annotations"],
            formats.polygons,
            formats.tolerance,
            lambda picture: str(entries[picture.id].notes.get("file", picture.file)),
        )
    return asdict(tally)


def _write_shards(folder: RunFolder, formats: Formats, sources: Sequence[Source], limit: int) -> list[str]:
    from anymask.data.writers.shards import write_shards

    folder.remove("shards")
    pairs = _pairs(folder, formats, sources)
    return write_shards(pairs, lambda name: folder.writing(f"shards/{name}"), limit)


def _pairs(
    folder: RunFolder, formats: Formats, sources: Sequence[Source]
) -> Iterator[tuple[str, bytes, str, bytes]]:
    from anymask.data.writers.picture import picture_file
    from anymask.data.writers.sa1b import json_bytes

    for source in sources:
        if folder.entries[source.id].error is None:
            own, data = picture_file(source.path, source.name)
            record = _record(folder, formats, source.name)
            record["image"]["file_name"] = own
            yield own, data, f"{source.name}.json", json_bytes(record)


def _record(folder: RunFolder, formats: Formats, name: str) -> dict[str, Any]:
    path = folder.root / (formats.record_name(name) or "")
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record["annotations"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(
            f"the record {str(path)!r} is gone or damaged; delete it and run again to make it anew"
        ) from None
    return dict(record)
