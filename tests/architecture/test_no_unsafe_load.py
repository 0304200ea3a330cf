"""A weights file must never be a program: nothing that unpickles, except the one guarded door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "src/anymask/model/checkpoints/convert.py"
FOLDERS = ("src", "benchmarks", "examples", "docs")

FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "pickletools",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "copyreg",
}
FORBIDDEN_NAMES = {
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.package.PackageImporter",
    "torch.serialization.load",
    "torch.serialization.add_safe_globals",
    "torch.serialization.safe_globals",
    "torch.utils.model_zoo.load_url",
    "numpy.lib.format.read_array",
    "pandas.read_pickle",
}


def unsafe_uses(source: str, is_the_door: bool = False) -> list[str]:
    """What in `source` could run code from a data file, with line numbers."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    guarded = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_guarded(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {m}" for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Attribute | ast.Name):
            name = _dotted(node, names)
            door_is_open = is_the_door and name == "torch.load" and id(node) in guarded
            if name in FORBIDDEN_NAMES and not door_is_open:
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Call):
            pickles = next((k.value for k in node.keywords if k.arg == "allow_pickle"), None)
            if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
                found.append(f"{node.lineno}: allow_pickle")
            if _dotted(node.func, names) in {"__import__", "importlib.import_module"} and node.args:
                text = node.args[0]
                if isinstance(text, ast.Constant) and str(text.value).split(".")[0] in FORBIDDEN_MODULES:
                    found.append(f"{node.lineno}: import {text.value}")
    return found


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for, so that `import torch as t` and `from torch import load` are seen."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def _is_guarded(call: ast.Call) -> bool:
    return any(
        keyword.arg == "weights_only"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is True
        for keyword in call.keywords
    )


def _files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_unpickles_but_the_door():
    files = _files()
    assert DOOR in files
    found = {
        str(path.relative_to(ROOT)): uses
        for path in files
        if (uses := unsafe_uses(path.read_text(encoding="utf-8"), path == DOOR))
    }
    assert not found


def test_the_door_opens_once_and_guarded():
    source = DOOR.read_text(encoding="utf-8")
    assert source.count("torch.load(") == 1
    assert unsafe_uses(source), "outside the door the same line is refused"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p, weights_only=True)",
        "import torch as t\nt.load(p)",
        "from torch import load\nload(p)",
        "from torch import load as fetch\nf = fetch",
        "import torch.jit\ntorch.jit.load(p)",
        "from torch.serialization import add_safe_globals\nadd_safe_globals([x])",
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('dill')",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import numpy as np\nnp.load(p, allow_pickle=flag)",
    ],
)
def test_the_check_sees(source):
    assert unsafe_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "import torch\nload = torch.load",
        "import pickle\nimport torch\ntorch.load(p, weights_only=True)",
    ],
)
def test_the_check_sees_a_wider_door(source):
    assert unsafe_uses(source, is_the_door=True)


def test_the_check_lets_safe_code_pass():
    assert not unsafe_uses(
        "import numpy as np\nimport json\njson.load(f)\nnp.load(p, allow_pickle=False)\nself.load(p)"
    )
    assert not unsafe_uses("import torch\ntorch.load(p, weights_only=True)", is_the_door=True)
