"""Exported folders of a small random SAM, for tests of engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anymask.model.folders import sealed


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest as someone would who knows the format: with a new seal."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest.pop("sha256", None)
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
