"""The model card says of masks of everything what was measured on the embedded model, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anymask.evaluation.suites import find_suite
from anymask.runtime.onnx_backend import OnnxBackend

ROOT = Path(__file__).parents[1]
NANO = ROOT / "src" / "anymask" / "assets" / "nano"
RESULTS = ROOT / "benchmarks" / "results" / "automatic_quality.json"
LISTS = {
    "shipped": "as shipped",
    "unfiltered": "no thresholds",
    "proposals": "no thresholds, suppression at 0.9",
}


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/automatic_quality.py, which runs, and automatic_figures.py, which writes the section."""
    sys.path.append(str(ROOT / "benchmarks"))
    import automatic_figures
    import automatic_quality

    yield automatic_quality, automatic_figures
    sys.path.remove(str(ROOT / "benchmarks"))


def invented(digest: str) -> dict[str, Any]:
    """A document of results whose every figure is different."""
    number = iter(range(1, 10_000))
    small = ["recall_50", "recall_75", "recall_90", "ar_1000", "duplicates_per_object"]
    small += [f"ar_1000_{size}" for size in ("small", "medium", "large")]

    def lists() -> dict[str, dict[str, float]]:
        return {which: figures() for which in LISTS}

    def figures() -> dict[str, float]:
        whole = {name: float(next(number)) for name in ("masks_per_image", "repeats_per_image")}
        return {**{name: next(number) / 100 for name in small}, **whole}

    sets = {facts.name: {"images": 10, "objects": 20, **lists()} for facts in find_suite("pack").sets}
    settings = {"points_per_side": 32, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4}
    return {
        "date": "2026-01-01",
        "machine": "a machine",
        "command": "a command",
        "model_digest": digest,
        "protocol": {"images": 10, "seed": 0, "effort": "normal", "settings": settings},
        "sets": sets,
        "mean_of_sets": lists(),
    }


def check(section: str, measured: dict[str, Any]) -> None:
    """Every figure of the results stands in its row and column of the section's tables."""
    rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table_lines(section)]
    by_name = {row[0]: row[1:] for row in rows}
    for name, figures in measured["sets"].items():
        assert by_name[name][:2] == [str(figures["images"]), str(figures["objects"])]
        assert by_name[name][2:] == cells(figures["shipped"])
    assert by_name["mean over sets"] == ["", "", *cells(measured["mean_of_sets"]["shipped"])]
    for which, title in LISTS.items():
        figures = measured["mean_of_sets"][which]
        by_size = [number(figures[f"ar_1000_{size}"], 3) for size in ("small", "medium", "large")]
        assert by_name[title] == [*cells(figures), *by_size]
    assert "LVIS v1, SAM ViT-H, mask AR@1000" in by_name
    settings = measured["protocol"]["settings"]
    pair = f"{settings['pred_iou_thresh']:g} and {settings['stability_score_thresh']:g}"
    assert f"({pair} of predicted IoU and stability)" in " ".join(section.split())


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def cells(figures: dict[str, Any]) -> list[str]:
    decimals = {
        "recall_50": 3,
        "recall_75": 3,
        "recall_90": 3,
        "ar_1000": 3,
        "masks_per_image": 1,
        "duplicates_per_object": 2,
        "repeats_per_image": 1,
    }
    return [number(figures[name], places) for name, places in decimals.items()]


def number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def test_the_section_is_the_measured_one(modules: tuple[ModuleType, ModuleType]) -> None:
    _, figures = modules
    card = (NANO / "MODEL_CARD.md").read_text()
    if not RESULTS.exists():
        assert figures.BEGIN not in card, "the card has figures that no kept results stand behind"
        return
    measured = json.loads(RESULTS.read_text())
    assert measured["model_digest"] == OnnxBackend(NANO).spec.digest
    assert card.count(figures.BEGIN) == card.count(figures.END) == 1
    check(card.partition(figures.BEGIN)[2].partition(figures.END)[0], measured)


def test_the_writer_puts_every_figure_in_its_place(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    quality, figures = modules
    card, results = tmp_path / "card.md", tmp_path / "results.json"
    before, _, rest = (NANO / "MODEL_CARD.md").read_text().partition(figures.BEGIN)
    original = before.rstrip() + "\n\n" + rest.partition(figures.END)[2].lstrip()  # as if never written
    card.write_text(original)
    first = invented(OnnxBackend(NANO).spec.digest)
    results.write_text(json.dumps(first))
    quality.write_card(results, card)
    written = card.read_text()
    check(written.partition(figures.BEGIN)[2].partition(figures.END)[0], first)
    quality.write_card(results, card)
    assert card.read_text() == written
    second = invented(first["model_digest"])
    second["mean_of_sets"]["shipped"]["duplicates_per_object"] = None
    second["mean_of_sets"]["proposals"]["ar_1000"] = 0.987
    results.write_text(json.dumps(second))
    quality.write_card(results, card)
    rewritten = card.read_text()
    check(rewritten.partition(figures.BEGIN)[2].partition(figures.END)[0], second)
    before, after = rewritten.partition(figures.BEGIN)[0], rewritten.partition(figures.END)[2]
    assert original.startswith(before.rstrip())
    assert original.endswith(after.lstrip())
    names = [{line.split("|")[1].strip(" *") for line in table_lines(text)} for text in (original, written)]
    assert names[0] < names[1]
    assert len(names[1]) - len(names[0]) == len(first["sets"]) + 1 + len(LISTS) + 4 + 2, (
        "two rows share a name"
    )
    with pytest.raises(AssertionError):
        check(written.partition(figures.BEGIN)[2], second)


@pytest.mark.parametrize("fault", ["model", "sets", "grid"])
def test_the_writer_takes_whole_results_of_the_embedded_model(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, fault: str
) -> None:
    quality, _ = modules
    document = invented(OnnxBackend(NANO).spec.digest)
    if fault == "model":
        document["model_digest"] = "0" * 64
    elif fault == "sets":
        del document["sets"]["cvppp"]
    else:
        document["protocol"]["settings"]["points_per_side"] = 8
    card, results = tmp_path / "card.md", tmp_path / "results.json"
    card.write_text("## Quality\n\n## Speed\n")
    results.write_text(json.dumps(document))
    words = {"model": "another model", "sets": "cvppp", "grid": "grid"}
    with pytest.raises(ValueError, match=words[fault]):
        quality.write_card(results, card)
    assert card.read_text() == "## Quality\n\n## Speed\n"


@pytest.mark.parametrize("marks", [(True, False), (False, True), (False, False)])
def test_a_card_without_a_place_stays_as_it_is(
    modules: tuple[ModuleType, ModuleType], marks: tuple[bool, bool]
) -> None:
    _, figures = modules
    text = (figures.BEGIN if marks[0] else "") + "\n" + (figures.END if marks[1] else "")
    card = f"{text}\n\n## Speed\n" if any(marks) else "## Quality\n"
    with pytest.raises(ValueError, match="no place"):
        figures.with_section(card, "new")
