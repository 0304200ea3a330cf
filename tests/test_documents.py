"""The documents tell the truth: links lead somewhere, code runs, folders exist, promises name real tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "src" / "anymask" / "assets" / "nano"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("examples/*.md")),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COME_WITH_THE_MODEL = ("docs/images/cup_overlay.png", "src/anymask/assets/nano/MODEL_CARD.md")


@pytest.fixture
def environment(request) -> dict[str, str]:
    """The embedded model, or a small one with random weights while there is none."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ANYMASK_")}
    if not (EMBEDDED / "manifest.json").is_file():
        settings["ANYMASK_MODEL"] = str(request.getfixturevalue("nano_folder"))
    return settings | {"ANYMASK_THREADS": "1"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path = (document.parent / target.split("#")[0]).resolve()
        inside = str(path.relative_to(ROOT))  # fails for a link that leaves the project
        if inside in COME_WITH_THE_MODEL and not (EMBEDDED / "manifest.json").is_file():
            continue
        assert path.exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_the_python_of_the_readme_runs(environment, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mask.png").is_file()
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs(example, environment, tmp_path):
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = re.findall(r"wrote (\S+)", done.stdout)
    assert written
    assert sorted(written) == sorted(path.name for path in tmp_path.iterdir())


def test_the_tree_of_the_readme_is_the_tree():
    (tree,) = re.findall(
        r"## The tree\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    parent, named = "", set()
    for line in tree.splitlines():
        folder = line.split()[0]
        parent = parent if line.startswith(" ") else folder
        path = ROOT / parent / folder if line.startswith(" ") else ROOT / folder
        if folder != "assets/" or (EMBEDDED / "manifest.json").is_file():
            assert path.is_dir(), f"the README names {folder}"
        named.add(path.resolve())
    packages = {path.parent.resolve() for path in (ROOT / "src" / "anymask").glob("*/__init__.py")}
    assert packages <= named, "the README leaves a folder out"


def test_promises_name_tests_that_exist():
    text = (ROOT / "docs" / "promises.md").read_text()
    promises = re.split(r"(?m)^\d+\. ", text)[1:]
    assert len(promises) == 10
    file = ""
    for promise in promises:
        linked = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)\)", promise)
        file = linked[0] if linked else file
        source = (ROOT / file).read_text()
        names = re.findall(r"`(test_\w+)`", promise)
        assert linked or names
        assert all(f"def {name}(" in source for name in names), f"{file} lacks one of {names}"


def test_every_photograph_has_a_source():
    sources = (ROOT / "examples" / "SOURCES.md").read_text()
    photos = [path for path in (ROOT / "examples").iterdir() if path.suffix in (".jpg", ".png")]
    assert photos
    assert all(f"`{photo.name}`" in sources and photo.stat().st_size <= 200_000 for photo in photos)
