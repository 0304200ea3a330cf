"""``anymask models remove``: delete what was fetched or converted under a name."""

from __future__ import annotations

from typing import Annotated

import typer

from anymask.cli import console


def remove(name: Annotated[str, typer.Argument(help="The name of a fetched or converted model.")]) -> None:
    """Delete a fetched model, its published file and parts of it from the cache."""
    from anymask.runtime import install
    from anymask.settings import load_settings

    for path in install.remove(name, load_settings()):
        console.say(f"removed {path}")
