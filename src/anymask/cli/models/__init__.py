"""``anymask models``: what can be loaded by name, and how to get more."""

from __future__ import annotations

from typing import Annotated

import typer

from anymask.cli.models.check import check
from anymask.cli.models.convert import convert
from anymask.cli.models.listing import show
from anymask.cli.models.pull import pull
from anymask.cli.models.remove import remove

__all__ = ["models"]

models = typer.Typer(
    name="models",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models.command()(pull)
models.command()(convert)
models.command()(check)
models.command()(remove)


@models.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models known by name, here or to be fetched; the commands fetch, convert, check and remove them."""
    if context.invoked_subcommand is None:
        show(as_json)
