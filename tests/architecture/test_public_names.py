"""What `import anymask` promises, name by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import anymask

NAMES = {
    "AnymaskError",
    "CloserLook",
    "Embedding",
    "Image",
    "Mask",
    "MaskSet",
    "Prompt",
    "Segmenter",
    "Settings",
    "__version__",
    "generate",
    "load",
    "read_image",
}


def test_the_public_names_are_these() -> None:
    assert set(anymask.__all__) == NAMES
    assert sorted(anymask.__all__) == list(anymask.__all__)
    assert set(dir(anymask)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(anymask, name)
    assert name == "__version__" or len(value.__doc__) > 20
    assert getattr(anymask, name) is value


def test_a_star_import_brings_them() -> None:
    space: dict[str, object] = {}
    exec("from anymask import *", space)
    assert set(space) >= NAMES


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="segmentor"):
        anymask.segmentor  # noqa: B018
    assert not hasattr(anymask, "torch")


def test_type_checkers_see_every_name_where_it_is() -> None:
    """The imports under TYPE_CHECKING and the table of homes say the same."""
    source = Path(anymask.__file__).read_text()
    block = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == anymask._HOMES
    assert set(seen) == NAMES - {"__version__"}


def test_the_version_is_the_package_s() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{anymask.__version__}"' in project
