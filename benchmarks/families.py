"""Do all families compute what their origins do? Embeddings, logits, scores and masks, beside the ladder's bounds.

    python benchmarks/families.py --write-docs    # some minutes on two cores; results/families.json, docs/models.md
    python benchmarks/families.py --quick         # about a minute: SAM small, what needs 1024 pixels left out
    python benchmarks/families.py --large         # SAM ViT-L and ViT-H as well: up to 641 million numbers a side
    python benchmarks/families.py --only SAM --quick --disturb mask_decoder.mask_tokens.weight=1

No published checkpoint is needed: both sides get the same random weights. What each family is compared with is told in
`family_checks` (from pixels of the network's frame to its logits) and `family_shapes` (from pictures to full-size
masks). The exit status is 1 when a bound is broken; ``--disturb`` moves one number of our weights to see that it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
for folder in (ROOT / "benchmarks", ROOT / "tests" / "helpers"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import transformers  # noqa: E402

import family_checks as checks  # noqa: E402
import family_docs as docs  # noqa: E402
import family_shapes as shapes  # noqa: E402
from family_rows import BOUNDS, Row  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "families.json"
DOCUMENT = ROOT / "docs" / "models.md"
Check = Callable[[checks.Moved], Iterator[Row]]
MEASURES = ("embedding", "cosine", "logits", "scores", "iou", "flip")
LIGHT = {"MobileSAM": "mobile_sam", "EdgeSAM": "edge_sam", "RepViT-SAM": "repvit_sam"}
GOLDEN = {
    "MedSAM": "medsam",
    "EfficientSAM-Ti": "efficient_sam",
    "EfficientSAM-S": "efficient_sam_s",
    "HQ-SAM": "hq_sam",
    **LIGHT,
}
"""The golden outputs of each family in tests/parity/golden."""


def plan(quick: bool = False, large: bool = False) -> dict[str, list[Check]]:
    """What is compared, by family."""
    light: dict[str, list[Check]] = {
        name: [
            functools.partial(checks.check_light, name, family),
            functools.partial(shapes.light_shapes, name, family),
        ]
        for name, family in LIGHT.items()
    }
    found: dict[str, list[Check]] = {
        "SAM": [checks.check_tiny, shapes.sam_shapes_quick if quick else shapes.sam_shapes],
        "SAM ViT-B": [checks.check_vit_b],
        "SAM ViT-L": [checks.check_vit_l],
        "SAM ViT-H": [checks.check_vit_h],
        "MedSAM": [shapes.medsam_shapes],
        "MobileSAM": light["MobileSAM"][1:] if quick else light["MobileSAM"],
        "EfficientSAM-Ti": [checks.check_efficient_ti, shapes.efficient_ti_shapes],
        "EfficientSAM-S": [checks.check_efficient_s, shapes.efficient_s_shapes],
        "HQ-SAM ViT": [checks.check_hq_b, shapes.hq_b_shapes],
        "HQ-SAM tiny": [*([] if quick else [checks.check_hq_tiny]), shapes.hq_tiny_shapes],
        "EdgeSAM": light["EdgeSAM"],
        "RepViT-SAM": light["RepViT-SAM"],
    }
    left_out = {"SAM ViT-B"} if quick else set()
    if quick or not large:
        left_out |= {"SAM ViT-L", "SAM ViT-H"}
    return {name: parts for name, parts in found.items() if name not in left_out}


def measure(parts: Mapping[str, Sequence[Check]], moved: checks.Moved) -> list[Row]:
    """All rows, printed as they come."""
    bounds = " ".join(f"{docs_bound(name):>9}" for name in MEASURES)
    names = " ".join(f"{'1-cosine' if name == 'cosine' else name:>9}" for name in MEASURES)
    print(f"{'family':16} {'case':28} {names}\n{'':16} {'bounds':28} {bounds}")
    rows, heading = [], ""
    for checks_of_family in parts.values():
        for check in checks_of_family:
            for row in check(moved):
                rows.append(row)
                if heading != (heading := f"{row.family}: {row.network}, against {row.against}"):
                    print(heading)
                print(line(row), flush=True)
    return rows


def docs_bound(name: str) -> str:
    """A bound as the table shows it."""
    return f"{1 - BOUNDS[name] if name == 'cosine' else BOUNDS[name]:.3g}"


def line(row: Row) -> str:
    """A row of the printed table."""
    cells = " ".join(f"{docs.shown(name, getattr(row, name)).strip('*'):>9}" for name in MEASURES)
    case = f"{row.case}, {row.objects} objects" if row.objects > 1 and "call" not in row.case else row.case
    broken = f"  BROKEN: {', '.join(row.broken())}" if row.broken() else ""
    return f"{'':16} {case:28} {cells}{broken}{f'  {row.note}' if row.note else ''}"


def facts_of(rows: Sequence[Row], command: str) -> dict[str, Any]:
    """What is kept of a run."""
    packages = ("torch", "transformers", "numpy", "pillow", "opencv-python-headless", "scikit-image")
    return {
        "command": command,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU only",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "bounds": BOUNDS,
        "origins": {name: checks.provenance(golden) for name, golden in GOLDEN.items()},
        "rows": [{k: v for k, v in dataclasses.asdict(row).items() if v not in (None, "")} for row in rows],
    }


def moved_weight(text: str) -> tuple[str, float]:
    """``NAME=AMOUNT``."""
    name, _, amount = text.partition("=")
    return name, float(amount)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only; nothing is written")
    parser.add_argument("--large", action="store_true", help="SAM ViT-L and ViT-H as well")
    parser.add_argument(
        "--only", action="append", metavar="FAMILY", help="may be repeated; nothing is written"
    )
    parser.add_argument("--disturb", action="append", default=[], type=moved_weight, metavar="WEIGHT=AMOUNT")
    parser.add_argument("--json", type=Path, help="where results go, also those of a part")
    parser.add_argument("--no-run", action="store_true", help="take the kept results")
    parser.add_argument("--write-docs", action="store_true", help="make the tables of docs/models.md anew")
    args = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()

    whole = not (args.quick or args.only or args.disturb)
    if args.write_docs and not whole:
        parser.error("--write-docs goes with a whole run")
    kept = args.json or (RESULTS if whole else None)
    if args.no_run:
        facts = json.loads((kept or RESULTS).read_text())
    else:
        parts = plan(args.quick, args.large)
        if unknown := set(args.only or ()) - set(parts):
            parser.error(f"no family is called {', '.join(sorted(unknown))}; known are {', '.join(parts)}")
        chosen = {name: checks_ for name, checks_ in parts.items() if not args.only or name in args.only}
        command = "python benchmarks/families.py" + (
            " --quick" if args.quick else " --large" if args.large else ""
        )
        facts = facts_of(measure(chosen, args.disturb), command)
        if kept is not None:
            kept.write_text(json.dumps(facts, indent=1) + "\n")
    if args.write_docs:
        DOCUMENT.write_text(docs.fill(DOCUMENT.read_text(), facts))
    rows = [Row(**row) for row in facts["rows"]]
    broken = [f"{row.family}, {row.case}: {', '.join(row.broken())}" for row in rows if row.broken()]
    print(f"{len(rows)} comparisons, {len(broken)} with a broken bound", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
