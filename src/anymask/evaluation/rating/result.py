"""What raters wrote, read back and undone of its blindness: means, paired differences, agreement.

Ratings of one picture by several raters are averaged. Methods are compared on the objects that both have a rating of,
by the paired bootstrap of `anymask.evaluation.comparison`, in which objects of one image are drawn together.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from anymask.errors import InputError, NotFoundError
from anymask.evaluation.comparison import Comparison, PairedScores, compare
from anymask.evaluation.rating.agreement import krippendorff_alpha

__all__ = [
    "COLUMNS",
    "KEY_FILE",
    "KEY_FORMAT",
    "RATERS_FOLDER",
    "RATINGS_FILE",
    "MethodDifference",
    "MethodRating",
    "RatingResult",
    "analyse_rating",
]

COLUMNS: Final = ("id", "rating", "rater")
"""Columns of a file of ratings, in any order."""
LOWEST, HIGHEST = 1, 10
KEY_FILE: Final = "key.json"
KEY_FORMAT: Final = "anymask rating key 1"
RATERS_FOLDER: Final = "for_raters"
RATINGS_FILE: Final = "ratings.csv"

_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class MethodRating:
    """How one method was rated.

    Attributes:
        mean: over objects (over sets when there are several), 1 to 10.
        low, high: its 95 % interval.
        objects: objects with at least one rating.
        missing: share of the ratings of this method that nobody gave.
    """

    mean: float
    low: float
    high: float
    objects: int
    missing: float


@dataclass(frozen=True)
class MethodDifference:
    """Candidate minus reference in rating points, over the objects rated for both, by set and overall."""

    candidate: str
    reference: str
    comparison: Comparison


@dataclass(frozen=True)
class RatingResult:
    """What a study found.

    Attributes:
        methods: by name, in alphabetical order.
        differences: of every two methods.
        raters: their names, in alphabetical order.
        pictures: in the study.
        missing: share of ratings not given, of every rater on every picture.
        agreement: Krippendorff's alpha for interval data; None with one rater, NaN where it is undefined.
    """

    methods: Mapping[str, MethodRating]
    differences: tuple[MethodDifference, ...]
    raters: tuple[str, ...]
    pictures: int
    missing: float
    agreement: float | None


@dataclass(frozen=True)
class _Picture:
    """A line of the key."""

    object_id: str
    method: str
    set_name: str
    image_id: str


def analyse_rating(
    folder: str | os.PathLike[str], *ratings: str | os.PathLike[str], seed: int = 0
) -> RatingResult:
    """Read the key of a study and the raters' files.

    Args:
        folder: of `export_rating`.
        ratings: CSV files with the columns id, rating (1 to 10, or empty) and rater; where no rater is named the
            file's name stands in. Without any, the study's own ``for_raters/ratings.csv`` is read.
        seed: of the bootstrap.

    Raises:
        NotFoundError: a file does not exist.
        InputError: a damaged key, a file without the columns, an unknown id, a rating that is not a whole number
            from 1 to 10, two ratings of one picture by one rater, or a method that nobody rated.
    """
    root = Path(folder)
    key = _read_key(root / KEY_FILE)
    given: dict[tuple[str, str], int | None] = {}
    for path in [Path(name) for name in ratings] or [root / RATERS_FOLDER / RATINGS_FILE]:
        _read_ratings(path, key, given)
    raters = sorted({rater for _, rater in given})
    table = np.full((len(key), len(raters)), np.nan)
    rows = {number: row for row, number in enumerate(key)}
    for (number, rater), value in given.items():
        if value is not None:
            table[rows[number], raters.index(rater)] = value
    scores: dict[str, dict[str, float]] = {picture.method: {} for picture in key.values()}
    for picture, row in zip(key.values(), table, strict=True):
        if not np.isnan(row).all():
            scores[picture.method][picture.object_id] = float(np.nanmean(row))
    unrated = sorted(method for method, found in scores.items() if not found)
    if unrated:
        raise InputError(f"no picture of {unrated[0]!r} has a rating; there is nothing to report on yet")
    things = {picture.object_id: picture for picture in key.values()}
    methods = sorted(scores)
    return RatingResult(
        {name: _method(name, scores[name], key, table, things, seed) for name in methods},
        tuple(
            MethodDifference(a, b, comparison)
            for a, b in itertools.combinations(methods, 2)
            if (comparison := _compare(scores[a], scores[b].get, things, seed)) is not None
        ),
        tuple(raters),
        len(key),
        float(np.isnan(table).mean()),
        krippendorff_alpha(table) if len(raters) > 1 else None,
    )


def _method(
    name: str,
    scores: Mapping[str, float],
    key: Mapping[str, _Picture],
    table: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    things: Mapping[str, _Picture],
    seed: int,
) -> MethodRating:
    comparison = _compare(
        scores, lambda _: 0.0, things, seed
    )  # against nothing, for the interval of the mean
    assert comparison is not None
    own = [picture.method == name for picture in key.values()]
    overall = comparison.overall
    return MethodRating(
        overall.candidate, overall.low, overall.high, len(scores), float(np.isnan(table[own]).mean())
    )


def _compare(
    candidate: Mapping[str, float],
    reference: Callable[[str], float | None],
    things: Mapping[str, _Picture],
    seed: int,
) -> Comparison | None:
    """Set by set over the objects that both have a score of; None when there is none."""
    sets: dict[str, list[tuple[str, float, float]]] = {}
    for object_id, picture in things.items():
        first, second = candidate.get(object_id), reference(object_id)
        if first is not None and second is not None:
            sets.setdefault(picture.set_name, []).append((picture.image_id, first, second))
    if not sets:
        return None
    return compare(
        {
            name: PairedScores([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
            for name, rows in sets.items()
        },
        seed=seed,
    )


def _read_key(path: Path) -> dict[str, _Picture]:
    text = _read_text(path)
    try:
        document = json.loads(text)
        if document["format"] != KEY_FORMAT or not document["pictures"]:
            raise ValueError("its format is unknown or it names no picture")
        return {
            str(number): _Picture(*(str(entry[name]) for name in ("object", "method", "set", "image")))
            for number, entry in document["pictures"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not the key of a rating study: {error}") from error


def _read_ratings(path: Path, key: Mapping[str, _Picture], given: dict[tuple[str, str], int | None]) -> None:
    """Add one file's ratings to ``given``, (id, rater) -> rating or None."""
    text = _read_text(path)
    separator = ";" if ";" in text.split("\n", 1)[0] else ","  # as some spreadsheets save
    digits = len(next(iter(key)))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        lines = list(reader)
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is not a CSV file: {error}") from error
    if not set(COLUMNS) <= set(columns):
        raise InputError(
            f"{str(path)!r} needs the columns {', '.join(COLUMNS)}, got {', '.join(columns) or 'none'}"
        )
    for line in lines:
        cells = [str(line[name] or "").strip() for name in COLUMNS]
        if not any(cells):
            continue
        number, rating, rater = cells[0].zfill(digits), cells[1], cells[2] or path.stem
        where = f"{str(path)!r}, id {cells[0]!r}"
        if number not in key:
            raise InputError(f"{where}: the study has no such picture; ids go from {min(key)} to {max(key)}")
        if (number, rater) in given:
            raise InputError(
                f"{where}: rater {rater!r} rated it twice; leave one line, or name the raters apart"
            )
        given[number, rater] = _rating(rating, where) if rating else None


def _rating(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and LOWEST <= int(text[:6]) <= HIGHEST):
        raise InputError(f"{where}: a rating is a whole number from {LOWEST} to {HIGHEST}, got {text[:40]!r}")
    return int(text)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{str(path)!r} is over {_MAX_BYTES} bytes; it is no file of this kind")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {str(path)!r}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text; save it as CSV in UTF-8") from error
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
