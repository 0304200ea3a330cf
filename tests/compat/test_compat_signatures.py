"""Names, order and defaults of all arguments are the published ones; the table holds these facts and no code."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import anymask.compat

PUBLISHED = json.loads((Path(__file__).parent / "published_signatures.json").read_text())


def _found(home: str) -> Any:
    module, _, path = home.partition(":")
    value: Any = import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _facts(function: Any) -> list[dict[str, Any]]:
    facts = []
    for parameter in inspect.signature(function).parameters.values():
        fact: dict[str, Any] = {"name": parameter.name, "kind": parameter.kind.name.lower()}
        if parameter.default is not parameter.empty:
            default = parameter.default
            fact["default"] = default.__name__ if isinstance(default, type) else default
        facts.append(fact)
    plain: list[dict[str, Any]] = json.loads(
        json.dumps(facts)
    )  # a default tuple counts as the published list
    return plain


@pytest.mark.parametrize("home", sorted(PUBLISHED["callables"]))
def test_the_signature_is_the_published_one(home):
    assert _facts(_found(home)) == PUBLISHED["callables"][home]


def test_the_registry_has_the_published_names_first():
    names = list(anymask.compat.sam_model_registry)
    assert names[: len(PUBLISHED["registry"])] == PUBLISHED["registry"]
    assert names[len(PUBLISHED["registry"]) :] == ["vit_t", "edge_sam", "nano"]
    assert anymask.compat.sam_model_registry["default"] is anymask.compat.build_sam_vit_h
    assert anymask.compat.build_sam is anymask.compat.build_sam_vit_h


def test_modules_are_called_as_published():
    """So that replacing the package's name in an import is enough."""
    from anymask.compat.automatic_mask_generator import SamAutomaticMaskGenerator
    from anymask.compat.build_sam import sam_model_registry
    from anymask.compat.modeling import MaskDecoder, PromptEncoder, Sam
    from anymask.compat.predictor import SamPredictor
    from anymask.compat.utils.onnx import SamOnnxModel
    from anymask.compat.utils.transforms import ResizeLongestSide

    here = (SamAutomaticMaskGenerator, sam_model_registry, Sam, SamPredictor, SamOnnxModel, ResizeLongestSide)
    names = ("SamAutomaticMaskGenerator", "sam_model_registry", "Sam", "SamPredictor", "SamOnnxModel")
    for value, name in zip(here, (*names, "ResizeLongestSide"), strict=True):
        assert getattr(anymask.compat, name) is value
    assert MaskDecoder.__module__ == PromptEncoder.__module__ == "anymask.compat.modeling"


def test_every_public_name_is_there():
    assert sorted(anymask.compat.__all__) == list(anymask.compat.__all__)
    for name in anymask.compat.__all__:
        assert name == "sam_model_registry" or len(getattr(anymask.compat, name).__doc__) > 20
    with pytest.raises(AttributeError, match="SamPredictr"):
        anymask.compat.SamPredictr  # noqa: B018
