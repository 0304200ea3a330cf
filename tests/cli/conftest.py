"""Pictures and models for the command line's tests.

``run`` calls the program's own ``main`` in this process over a backend that draws discs, so that every value is
known; ``model_folder`` is a real model on disk for the tests that start a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.cli.main import main
from anymask.runtime.fake_backend import FakeBackend

EMBEDDED = Path(__file__).parents[2] / "src" / "anymask" / "assets" / "nano"


@dataclass(frozen=True)
class Outcome:
    """What a command line left behind."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory, monkeypatch):
    """No user's settings leak in, and none of ours out."""
    for name in [name for name in os.environ if name.startswith("ANYMASK_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(home / "cache"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Callable[..., Outcome]:
    """``run("segment", ...)`` in ``tmp_path`` over the fake backend."""
    monkeypatch.setattr("anymask.predict.loading.load_backend", lambda *_: FakeBackend())
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def make_photo() -> Callable[..., Path]:
    """``make_photo(path, width=160, height=120)``: a gradient, saved there."""
    return _make_photo


@pytest.fixture
def photo(tmp_path) -> Path:
    """A PNG of 160 x 120 with some colour in it."""
    return _make_photo(tmp_path / "photo.png")


def _make_photo(path: Path, width: int = 160, height: int = 120) -> Path:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns % 256, rows % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def model_folder(request) -> Path:
    """The embedded nano, or a small one with random weights while there is none."""
    return EMBEDDED if (EMBEDDED / "manifest.json").is_file() else request.getfixturevalue("nano_folder")


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """``program(..., cwd=, stdin=)``: the real program in its own process."""
    return _program


def _program(*arguments: object, cwd: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "anymask.cli.main", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
