"""``anymask models check``: is a model what it says, byte by byte and key by key?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anymask.cli import console
from anymask.cli.models.faults import one_line_each
from anymask.cli.models.waiting import spinner


def check(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of a model or checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a model's digests and that its network takes every key; say which published file it is."""
    with one_line_each(), spinner(f"checking {name}"):
        findings = _findings(name)
    if as_json:
        console.print_json(findings)
        return
    for what, found in findings.items():
        if found is not None:
            console.say(f"{what + ':':<12}{found}")


def _findings(name: str) -> dict[str, Any]:
    from anymask.runtime.registry import resolve
    from anymask.settings import load_settings

    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return _weights(path)
    entry = resolve(name, load_settings())
    return _graphs(entry.location) if entry.engine == "onnx" else _weights(Path(str(entry.location)))


def _graphs(folder: Any) -> dict[str, Any]:
    """A folder with a manifest: each graph has the size and SHA-256 it vouches for, and loads."""
    from anymask.runtime.onnx_backend import OnnxBackend

    backend = OnnxBackend(folder)
    return {
        "location": str(folder),
        "sha256": None,
        "published": None,
        "network": f"{backend.spec.name}, digest {backend.spec.digest}",
        "keys": "both graphs are those of the manifest",
    }


def _weights(path: Path) -> dict[str, Any]:
    """A file or folder of weights: its SHA-256, whether that is a published one, and the strict load."""
    from anymask.errors import MissingExtraError
    from anymask.runtime.catalogue import CATALOGUE

    try:
        from anymask.model.checkpoints.convert import read_network
        from anymask.model.checkpoints.files import checkpoint_sha256
    except ImportError as error:
        raise MissingExtraError(
            f"checking {str(path)!r} needs torch; install it with: pip install 'anymask[torch]'"
        ) from error
    digest = checkpoint_sha256(path)
    _, config = read_network(path)
    known = next((checkpoint.name for checkpoint in CATALOGUE if checkpoint.sha256 == digest), None)
    return {
        "location": str(path),
        "sha256": digest,
        "published": known,
        "network": f"{config.family}, {config.name}",
        "keys": "all there, none over, all of the right shape",
    }
