"""Training runs side by side on the training images that were held back, each against the first one given.

    python benchmarks/ablation.py --data folder/of/training/shards runs/nano_short_full runs/nano_short_no-scenes

A run folder is measured as it stands, by the averaged weights of its last checkpoint in torch; a ``.safetensors`` file
of nano's weights and whatever `anymask eval` takes (a name, a model folder) can stand beside it.

Pictures: the first of every source that training never draws (`anymask.training.samples.is_held_back`), and a fixed
draw of masks of each. A figure is the mean over all masks, every source pooled, since most sources have fewer held-back
pictures than a verdict needs; differences are those of the paired bootstrap over pictures
(`anymask.evaluation.comparison`). The verdict speaks of these pictures: another seed of the same run differs too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from anymask.data.dataset import Dataset, Sample
from anymask.data.sa1b import TarShard, open_shards
from anymask.errors import DatasetError, WeightsError
from anymask.evaluation.comparison import Difference
from anymask.evaluation.plan import Plan
from anymask.evaluation.runner import SetResult, measure_set
from anymask.evaluation.subjects import Subject, open_subject
from anymask.evaluation.summary import Metric, compare_results, metric_values, metrics
from anymask.model.families import load_network
from anymask.model.nano.encoder import count_parameters
from anymask.model.nano.network import Nano
from anymask.predict.segmenter import Segmenter
from anymask.runtime.torch_backend import TorchBackend
from anymask.training.checkpoint import load_average
from anymask.training.samples import is_held_back
from anymask.training.ship import model_config

HOLD_BACK = 25
CLICKS = 5
FIGURES = ("box", "point", "point_oracle", "clicks_3", "clicks_5")


class HeldBack:
    """The first held-back images of every shard, as one `Dataset`; keys are told apart by their source."""

    def __init__(self, shards: Sequence[TarShard], images: int, every: int = HOLD_BACK) -> None:
        """Takes up to ``images`` of each shard; raises `DatasetError` where nothing is held back."""
        self._places = [
            (shard, index)
            for shard in shards
            for index in [i for i in range(len(shard)) if is_held_back(i, every)][:images]
        ]
        if not self._places:
            raise DatasetError(f"no shard has {every} images, so that none is held back from training")

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[str]:
        """Names of the images."""
        return [f"{shard.source}/{shard.keys()[index]}" for shard, index in self._places]

    def __getitem__(self, position: int) -> Sample:
        shard, index = self._places[position]
        sample = shard[index]
        return replace(sample, key=f"{shard.source}/{sample.key}")


@dataclass(frozen=True)
class Row:
    """One subject: mean of every figure, the mean of each source, and what separates it from the first subject."""

    name: str
    digest: str
    images: int
    masks: int
    means: dict[str, float]
    sources: dict[str, dict[str, float]]
    differences: dict[str, Difference] | None

    @property
    def mean_of_sources(self) -> dict[str, float]:
        """Every figure's mean over sources, each counting the same."""
        return {key: float(np.mean([row[key] for row in self.sources.values()])) for key in self.means}


def open_run(spec: str, long_side: int | None = None) -> Subject:
    """A run folder, a file of nano's weights, or what `open_subject` knows.

    ``long_side`` replaces the network frame's longer side of the first two.
    """
    path = Path(spec)
    if (path / "last.safetensors").is_file():
        config = model_config(path)
        model = Nano(config)
        load_average(path / "last.safetensors", model)
    elif path.suffix == ".safetensors" and path.is_file():
        model, config = load_network(path)
        if not isinstance(model, Nano):
            raise WeightsError(f"{spec} holds no nano")
    else:
        return open_subject(spec)
    if long_side is not None:
        model.config = replace(config, long_side=long_side)
    backend = TorchBackend(model)
    return Subject(
        spec, path.stem, backend.spec.digest, Segmenter(backend), parameters=count_parameters(model)
    )


def measure(subjects: Sequence[Subject], data: Dataset, plan: Plan, results: Path) -> list[Row]:
    """Measure every subject on all of ``data`` and hold it against the first; ``results`` keeps what was measured."""
    found: list[SetResult] = []
    with Progress(console=Console(stderr=True)) as bar:
        for subject in subjects:
            task = bar.add_task(subject.name, total=len(data))
            found.append(
                measure_set(
                    subject,
                    "held back",
                    data,
                    plan,
                    results,
                    progress=lambda done, total, task=task: bar.update(task, completed=done),
                )
            )
    table = [metric for metric in metrics(plan.max_clicks) if metric.key in FIGURES]
    return [
        _row(subject, result, found[0] if index else None, table)
        for index, (subject, result) in enumerate(zip(subjects, found, strict=True))
    ]


def _row(subject: Subject, result: SetResult, reference: SetResult | None, table: Sequence[Metric]) -> Row:
    sources: dict[str, list[Any]] = {}
    for image in result.images:
        sources.setdefault(image.key.partition("/")[0], []).append(image)
    return Row(
        subject.name,
        subject.digest,
        len(result.images),
        result.masks,
        {metric.key: float(np.mean(metric_values(result, metric))) for metric in table},
        {
            source: {
                metric.key: float(np.mean(metric_values(replace(result, images=tuple(images)), metric)))
                for metric in table
            }
            for source, images in sources.items()
        },
        {metric.key: compare_results([result], [reference], metric).overall for metric in table}
        if reference is not None
        else None,
    )


def markdown(rows: Sequence[Row]) -> str:
    """Two tables with a row for each subject.

    The first has means over masks; beside them stand the difference from the first row, the 95 % interval and the
    verdict. The second has means over sources, each counting the same; it has too few pictures a source for verdicts.
    """
    titles = [next(m.title for m in metrics(CLICKS) if m.key == key) for key in FIGURES]
    lines = _table_head(["run", "images", "masks", *titles])
    for row in rows:
        cells = [
            f"{row.means[key]:.3f}" + (f" ({_words(row.differences[key])})" if row.differences else "")
            for key in FIGURES
        ]
        lines.append("| " + " | ".join([row.name, str(row.images), str(row.masks), *cells]) + " |")
    lines += ["", *_table_head(["run, mean of sources", "sources", *titles])]
    for row in rows:
        cells = [f"{row.mean_of_sources[key]:.3f}" for key in FIGURES]
        lines.append("| " + " | ".join([row.name, str(len(row.sources)), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _table_head(heads: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]


def _words(difference: Difference) -> str:
    return (
        f"{difference.difference:+.3f}, {difference.low:+.3f} to {difference.high:+.3f}, {difference.verdict}"
    )


def document(rows: Sequence[Row], plan: Plan, images: int) -> dict[str, Any]:
    """What ``--json`` writes."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "protocol": {
            "images_per_source": images,
            "masks_per_image": plan.masks,
            "hold_back": HOLD_BACK,
            "seed": plan.seed,
        },
        "reference": rows[0].name,
        "runs": [asdict(row) | {"mean_of_sources": row.mean_of_sources} for row in rows],
    }


def main() -> None:
    """Parse the command line, measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run folders, weights or models; the first is the reference")
    parser.add_argument("--data", required=True, type=Path, help="folder of the training shards")
    parser.add_argument(
        "--images", type=int, default=8, help="images per source (default: 8; many takes all)"
    )
    parser.add_argument("--masks", type=int, default=3, help="masks per image (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of masks (default: 0)")
    parser.add_argument("--long-side", type=int, default=None, help="network frame (default: the run's own)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument(
        "--results", type=Path, default=None, help="keep what was measured here, to go on from"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan(("point", "box", "clicks"), masks=options.masks, max_clicks=CLICKS, seed=options.seed)
    data = HeldBack(open_shards(options.data), options.images)
    subjects = [open_run(spec, options.long_side) for spec in options.runs]
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(subjects, data, plan, options.results or Path(scratch))
    print(markdown(rows), end="")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(rows, plan, options.images), indent=1) + "\n")


if __name__ == "__main__":
    main()
