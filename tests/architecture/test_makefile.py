"""`make bench` knows every benchmark."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_benchmark_that_can_be_run_is_in_make_bench() -> None:
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if '"__main__"' in path.read_text()}
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    named: set[str] = set()
    for variable in ("BENCHES", "BENCHES_ON_DATA", "BENCHES_ON_TRAIN"):
        (value,) = re.findall(rf"^{variable} := (.*)$", text, flags=re.MULTILINE)
        named |= {word.split("+")[0] for word in value.split()}
    assert scripts
    assert named == scripts
