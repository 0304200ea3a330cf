"""The table of all families: real comparisons, that see a fault in a weight, and docs/models.md shows them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("skimage")

ROOT = Path(__file__).parents[2]
MODULES = ("families", "family_checks", "family_docs", "family_rows", "family_shapes", "sam_parity")
QUICK = ["--quick", "--only", "EfficientSAM-Ti", "--only", "HQ-SAM ViT"]


@pytest.fixture(scope="module")
def families() -> Iterator[ModuleType]:
    """benchmarks/families.py; other tests load some of its modules under the same names, so all are put back."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose by more
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import families

        yield families
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        torch.set_num_threads(threads)
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def kept(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def test_two_families_hold_every_bound(families: ModuleType, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "some.json"
    assert families.main([*QUICK, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "BROKEN" not in printed
    rows = kept(path)
    assert f"{len(rows)} comparisons, 0 with a broken bound" in printed
    assert {row["family"] for row in rows} == {"EfficientSAM-Ti", "HQ-SAM ViT"}
    kinds = {"embedding", "points", "boxes", "masks", "mixes", "many objects", "picture"}
    assert {row["kind"] for row in rows} == kinds
    assert {row["case"] for row in rows if row["kind"] == "picture"} >= {
        "7 x 5",
        "500 x 1",
        "1 x 500",
        "5000 x 1",
    }
    for row in rows:
        if row["kind"] != "embedding" and row.get("note") != "refused":
            assert row["reach"] > 1, "the comparison would not see a fault in masks this flat"
            assert 0 < row["logits"] < 1e-3, "different code does not agree to the last bit"
    assert [row["family"] for row in rows if row.get("note") == "refused"] == ["EfficientSAM-Ti"]


@pytest.mark.parametrize(
    ("weight", "broken"),
    [("mask_decoder.mask_tokens.weight=1", "logits"), ("image_encoder.neck.0.weight=1", "embedding")],
)
def test_one_number_moved_is_seen(
    families: ModuleType, tmp_path: Path, capsys: Any, weight: str, broken: str
) -> None:
    """In every row that the weight has a part in, and in no other."""
    path = tmp_path / "some.json"
    assert families.main([*QUICK, "--disturb", weight, "--json", str(path)]) == 1
    assert "BROKEN" in capsys.readouterr().out
    rows = [families.Row(**row) for row in kept(path)]
    for family in ("EfficientSAM-Ti", "HQ-SAM ViT"):
        own = [row for row in rows if row.family == family and getattr(row, broken) is not None]
        assert own
        assert all(broken in row.broken() for row in own)
    if weight.startswith("mask_decoder."):
        assert not any("embedding" in row.broken() for row in rows)


def test_part_of_a_run_writes_nothing(
    families: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(families, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(families, "DOCUMENT", tmp_path / "models.md")
    assert families.main(["--quick", "--only", "HQ-SAM ViT"]) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        families.main(["--quick", "--write-docs"])
    with pytest.raises(SystemExit):
        families.main(["--quick", "--only", "nobody"])


def test_bounds_and_their_sides(families: ModuleType) -> None:
    """The ladder's numbers; a NaN never passes, and no measure that is missing fails."""
    facts = {"family": "f", "against": "a", "network": "n", "case": "c", "kind": "points"}
    at = {"embedding": 1e-4, "cosine": 0.999999, "logits": 1e-3, "scores": 1e-4, "iou": 0.999, "flip": 1e-2}
    assert families.Row(**facts, **at).broken() == []
    assert families.Row(**facts).broken() == []
    for name, value in at.items():
        worse = value * (0.9999 if name in ("cosine", "iou") else 1.0001)
        assert families.Row(**facts, **{**at, name: worse}).broken() == [name]
        assert families.Row(**facts, **{**at, name: math.nan}).broken() == [name]


def test_masks_are_measured(families: ModuleType) -> None:
    """By hand: three pixels in both, five in one of them, and the two apart are 1 and .25 from the threshold."""
    rows = sys.modules["family_rows"]
    theirs = torch.tensor([[[3.0, 2.0, 1.0], [0.5, -0.25, -1.0]]])
    ours = torch.tensor([[[3.0, 2.0, -1.0], [0.5, 0.1, -1.0]]])
    found = rows.mask_errors(ours > 0, theirs > 0, theirs)
    assert found == {"iou": pytest.approx(3 / 5), "flip": 1.0}
    empty = torch.zeros(1, 2, 3, dtype=torch.bool)
    assert rows.mask_errors(empty, empty, theirs) == {"iou": 1.0, "flip": 0.0}
    assert math.isnan(rows.worst([{"iou": 1.0}, {"iou": math.nan}, {"iou": 0.5}])["iou"])
    assert rows.worst([{"iou": 1.0, "flip": 0.1}, {"iou": 0.5, "flip": 0.2}]) == {"iou": 0.5, "flip": 0.2}


def test_the_document_shows_the_results_and_the_catalogue(families: ModuleType) -> None:
    facts = json.loads(families.RESULTS.read_text())
    document = families.DOCUMENT.read_text()
    assert sys.modules["family_docs"].fill(document, facts) == document
    assert "<!-- parity -->\n\n" in document
    for name in families.plan():
        assert f"| {name} |" in document, "a whole run has every family"
    assert facts["command"] in ("python benchmarks/families.py", "python benchmarks/families.py --large")
    for name, golden in families.GOLDEN.items():
        assert facts["origins"][name] == sys.modules["family_checks"].provenance(golden)


def test_broken_bounds_are_shown_as_such(families: ModuleType) -> None:
    docs = sys.modules["family_docs"]
    facts = json.loads(families.RESULTS.read_text())
    facts["rows"] = [{**row, "iou": 0.99} if row["family"] == "EdgeSAM" else row for row in facts["rows"]]
    text = docs.parity(facts)
    assert "Broken bounds:" in text
    assert "**0.99000**" in text
    assert docs.shown("iou", 0.9999999) == "0.99999", "never nicer than it is"
