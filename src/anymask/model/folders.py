"""A model's folder as it is written: staged, described, sealed, and only then put in its place. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anymask.atomic import write_atomically
from anymask.errors import OutputError


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Seal a manifest and put it into its folder, whole."""
    write_atomically(folder / "manifest.json", (json.dumps(sealed(manifest), indent=1) + "\n").encode())


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 of itself, over JSON with sorted keys and no spaces, under ``sha256``."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(manifest)))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder``; what it holds in the end is moved there, the manifest last.

    When the block raises, nothing of it stays. A full or unwritable disk raises `OutputError`.
    """
    stage = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name[:64]}.", dir=folder.parent))
        yield stage
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        files = sorted(stage.iterdir(), key=lambda file: file.name == "manifest.json")
        for file in files:
            file.replace(folder / file.name)
    except OSError as error:
        raise OutputError(
            f"could not write to {str(folder)!r}: {error.strerror or error}; choose another place or free space"
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder, for its manifest."""
    facts = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            facts[file.name] = {
                "bytes": file.stat().st_size,
                "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            }
    return facts
