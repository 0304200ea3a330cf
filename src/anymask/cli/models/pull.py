"""``anymask models pull``: fetch a published checkpoint, check it, keep it as safetensors."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from anymask.cli import console
from anymask.cli.models.faults import one_line_each
from anymask.cli.models.waiting import byte_bar, spinner


def pull(
    name: Annotated[str, typer.Argument(help="A name from the list, such as vit_b.")],
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="The SHA-256 that the file must have.", metavar="DIGEST")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Fetch the file here instead.", metavar="URL")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the published file beside the converted one.")
    ] = False,
) -> None:
    """Fetch a published checkpoint, check its SHA-256 and every key, and keep it for --model NAME.

    A cut download goes on where it stopped when the command is given again. Converting needs torch.
    """
    from anymask.errors import MissingExtraError
    from anymask.runtime import install
    from anymask.settings import load_settings

    settings = load_settings()
    checkpoint = install.published(name)
    target = install.installed_path(checkpoint.name, settings)
    if target.is_file():
        console.say(f"{checkpoint.name} is here already: {target}")
        return
    console.explain(f"fetching {url or checkpoint.url}; licence: {checkpoint.licence}")
    with byte_bar(checkpoint.name) as progress:
        file = install.download(checkpoint, settings, url=url, sha256=sha256, progress=progress)
    try:
        with one_line_each(), spinner(f"checking {checkpoint.name}"):
            digest = install.convert(file, target, checkpoint.config)
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{checkpoint.name} was fetched and its SHA-256 is right; it is kept as {str(file)!r}, but {error}; "
            f"then give this command again"
        ) from error
    if not keep:
        with contextlib.suppress(OSError):
            file.unlink()
    console.say(f"{checkpoint.name}: {target} (SHA-256 {digest})")
    console.say(f"licence: {checkpoint.licence}, {checkpoint.origin}")
    console.say(f"use it with: --model {checkpoint.name}")
