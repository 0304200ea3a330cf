"""``anymask models convert``: a foreign checkpoint, checked key by key, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.cli import console
from anymask.cli.models.faults import one_line_each
from anymask.cli.models.waiting import spinner


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .pth, .pt, .bin or .safetensors file, or a folder with config.json and safetensors."
        ),
    ],
    network: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Which published network it is, such as medsam; otherwise its keys say.",
            metavar="NAME",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write; otherwise one that --model knows by the name of FILE."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Convert a checkpoint to safetensors, strictly: every missing, unused or misshapen key is named and ends it.

    Pickles are read by torch's restricted unpickler; nothing in a file is run.
    """
    from anymask.runtime import install
    from anymask.settings import load_settings

    target = _target(file, out, force)
    checkpoint = install.find(network) if network else None
    config = checkpoint.config if checkpoint else network
    with one_line_each(), spinner(f"checking {file.name}"):
        digest = install.convert(file, target, config)
    console.say(f"{target} (SHA-256 {digest})")
    installed = target.parent == load_settings().cache_dir / "models"
    console.say(f"use it with: --model {target.stem if installed else target}")


def _target(file: Path, out: Path | None, force: bool) -> Path:
    """Where the result goes; raises when something is there already or the name is taken by an embedded model."""
    from anymask.errors import InputError, NotFoundError
    from anymask.runtime import install
    from anymask.runtime.registry import known_models
    from anymask.settings import load_settings

    if not file.exists():
        raise NotFoundError(f"there is no file {str(file)!r:.200}")
    settings = load_settings()
    if out is None:
        name = file.resolve().name if file.is_dir() else file.stem
        out = install.installed_path(name, settings)
        if any(entry.name == name and entry.origin == "embedded" for entry in known_models(settings)):
            raise InputError(
                f"{name!r} is the name of the embedded model; choose another file name with --out"
            )
    if out.suffix != ".safetensors":
        raise InputError(f"--out must end in .safetensors, got {str(out)!r:.200}")
    if out.exists() and not force:
        raise InputError(
            f"{str(out)!r:.200} is there already; --force writes over it, --out chooses another name"
        )
    return out
