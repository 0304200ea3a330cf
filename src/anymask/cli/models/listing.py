"""``anymask models``: the table of what is here and what can be fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anymask.cli import console


def show(as_json: bool) -> None:
    """Print every known and every published model, those that are here first."""
    from anymask.runtime.catalogue import CATALOGUE, find
    from anymask.runtime.registry import known_models

    entries: list[dict[str, Any]] = [
        {"name": entry.name, "engine": entry.engine, "origin": entry.origin, "location": str(entry.location)}
        for entry in known_models()
    ]
    here = {entry["name"] for entry in entries}
    published: list[dict[str, Any]] = [
        {
            "name": checkpoint.name,
            "family": checkpoint.family,
            "parameters": checkpoint.parameters,
            "megabytes": round(checkpoint.megabytes, 1),
            "licence": checkpoint.licence,
            "origin": checkpoint.origin,
            "url": checkpoint.url,
            "sha256": checkpoint.sha256,
            "aliases": list(checkpoint.aliases),
            "here": checkpoint.name in here,
        }
        for checkpoint in CATALOGUE
    ]
    if as_json:
        console.print_json({"models": entries, "published": published})
        return
    rows = [("name", "parameters", "MB", "here", "licence", "origin")]
    rows += [
        (
            entry["name"],
            _parameters_of(entry["location"]),
            _megabytes_in(entry["location"]),
            entry["origin"],
            "Apache-2.0" if entry["origin"] == "embedded" else "",
            entry["location"],
        )
        for entry in entries
        if find(entry["name"]) is None
    ]
    for item in sorted(published, key=lambda item: not item["here"]):
        state = "installed" if item["here"] else ("no" if item["sha256"] else "no (*)")
        count = _millions(item["parameters"])
        rows.append((item["name"], count, f"{item['megabytes']:.1f}", state, item["licence"], item["origin"]))
    _print_table(rows)
    console.say()
    console.say("Get one with: anymask models pull NAME")
    console.say("(*) its SHA-256 could not be verified in public sources: give yours with --sha256")


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def _parameters_of(location: str) -> str:
    """What the manifest of a model's folder says, or nothing: a list does not fail on one of its rows."""
    from anymask.errors import AnymaskError
    from anymask.runtime.manifest import read_manifest

    try:
        training = read_manifest(Path(location)).facts.get("training")
    except (AnymaskError, OSError):
        return ""
    parameters = training.get("parameters") if isinstance(training, dict) else None
    return _millions(parameters) if isinstance(parameters, int) else ""


def _megabytes_in(location: str) -> str:
    """The size of a model's files, in MB."""
    path = Path(location)
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        console.say("  ".join(cells).rstrip())
