"""``anymask models``: what can be loaded by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anymask.cli import console


def models(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List the models known by name, and where they lie."""
    from anymask.runtime.registry import known_models

    entries: list[dict[str, Any]] = [
        {"name": entry.name, "engine": entry.engine, "origin": entry.origin, "location": str(entry.location)}
        for entry in known_models()
    ]
    if as_json:
        console.print_json({"models": entries})
        return
    for entry in entries:
        console.say(f"{entry['name']:<12}  {entry['engine']:<6}  {entry['origin']:<9}  {entry['location']}")
    if not entries:
        console.say("no model is known by name; give the path of one with --model")
