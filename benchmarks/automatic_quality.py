"""Masks of everything against all annotated objects: recall, AR@1000, masks per image and duplicates per object.

    python benchmarks/automatic_quality.py --data ../shared/data/eval \\
        --json benchmarks/results/automatic_quality.json --write-card
    python benchmarks/automatic_quality.py --write-card       # from the kept results, nothing is measured
    python benchmarks/automatic_quality.py --thresholds --data ../shared/data/train \\
        --json benchmarks/results/automatic_thresholds.json   # for the choice of a model's thresholds
    python benchmarks/automatic_quality.py --grids --data ../shared/data/train \\
        --json benchmarks/results/automatic_grids.json        # for the choice of its adaptive grid

Protocol: at most 10 pictures of each set, drawn with seed 0 from their names, and on each the masks of `anymask auto`
at the given effort, best predicted IoU first, against all annotated masks.

- Recall at an IoU is the share of objects taken by one of the first 1,000 masks, greedily and one to one; AR@1000 is
  its mean over IoU 0.5, 0.55 ... 0.95 (`anymask.evaluation.proposals`). Both over all objects of a set.
- A mask belongs to the one object that it overlaps most, if by 0.5 or more. Duplicates are the masks of an object
  beyond its first; duplicates per object are their number over that of the objects that have a mask. Annotators who
  outlined the same thing twice (BSDS500) so make no duplicate of one mask.
- Repeats per image are the masks that overlap a better one by 0.9 or more, whether of an object or of none: what
  `merge_duplicates` takes away.

Each is given for three lists: as shipped, without thresholds, and as published proposals; see `automatic_lists.LISTS`.
Pictures are measured with one thread each, so the figures do not depend on the number of workers.

With ``--thresholds`` and ``--grids`` the data are training shards, of which only the pictures held back from training
are asked; see `automatic_thresholds` and `automatic_grids` for the figures and for the rules that choose.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

ROOT: Final = Path(__file__).parents[1]
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.insert(0, str(ROOT / "benchmarks"))

from anymask.automatic.settings import EFFORTS, AutomaticSettings  # noqa: E402
from anymask.data.sa1b import TarShard, open_shards  # noqa: E402
from anymask.evaluation.plan import draw  # noqa: E402
from anymask.evaluation.runner import Task, run_task  # noqa: E402
from anymask.evaluation.subjects import Subject, open_subject  # noqa: E402
from anymask.evaluation.suites import find_suite  # noqa: E402
from anymask.runtime.manifest import read_manifest  # noqa: E402
from automatic_figures import card_section, mean_of_sets, printed, set_figures, with_section  # noqa: E402
from automatic_grids import CHOICES, GridsTask, choose_grid, grid_figures, printed_grids  # noqa: E402
from automatic_lists import QualityTask, segmenter_of  # noqa: E402
from automatic_thresholds import ThresholdsTask, choose, held_back, pairs_of, pooled, printed_pairs  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results" / "automatic_quality.json"
NANO: Final = ROOT / "src" / "anymask" / "assets" / "nano"
CARD: Final = NANO / "MODEL_CARD.md"
HOLD_BACK: Final = 25
"""As in the recipes of nano."""


def shards_of(data: Path, names: Sequence[str] | None) -> list[TarShard]:
    """The named shards of a folder, or all that hold annotated pictures."""
    chosen = names or sorted(path.stem for path in data.glob("*.tar") if not path.stem.endswith("_raw"))
    return open_shards(data, chosen)


def measure(
    subject: Subject, shards: Sequence[tuple[TarShard, list[int]]], task: Task, results: Path, workers: int
) -> Iterator[tuple[TarShard, list[int], list[Any]]]:
    """Each shard with the positions of its chosen pictures and what the task gave for them."""
    with Progress(console=Console(stderr=True)) as bar:
        whole = bar.add_task("pictures", total=sum(len(chosen) for _, chosen in shards))
        for shard, chosen in shards:
            bar.update(whole, description=shard.source)
            rows = []
            for row in run_task(subject, shard.source, shard, chosen, task, results, workers):
                rows.append(row)
                bar.advance(whole)
            yield shard, chosen, rows


def quality(options: argparse.Namespace, subject: Subject, settings: AutomaticSettings) -> dict[str, Any]:
    """Measure, print, and the document that is kept."""
    shards = [
        (shard, draw(shard.keys(), options.images, options.seed, "image"))
        for shard in shards_of(options.data, options.sets)
    ]
    sets = {}
    with results_folder(options.results) as folder:
        for shard, chosen, rows in measure(subject, shards, QualityTask(settings), folder, options.workers):
            keys = shard.keys()
            sets[shard.source] = {**set_figures(rows), "pictures": [keys[index] for index in chosen]}
    document = {
        **facts(options, subject, settings),
        "sets": sets,
        "mean_of_sets": mean_of_sets(sets.values()),
    }
    Console(width=160).print(printed(document))
    return document


def thresholds(options: argparse.Namespace, subject: Subject, settings: AutomaticSettings) -> dict[str, Any]:
    """Measure every pair on pictures held back, print, and the document that is kept."""
    pairs = pairs_of(options.step)
    rows, pictures = measured_on_held_back(options, subject, ThresholdsTask(settings, pairs))
    figures = pooled(rows, pairs)
    chosen_pair = choose(figures)
    default = (settings.pred_iou_thresh, settings.stability_score_thresh)
    Console(width=140).print(printed_pairs(figures, chosen_pair, default))
    return {
        **facts(options, subject, settings),
        "hold_back": HOLD_BACK,
        "pictures": pictures,
        "pairs": figures,
        "chosen": chosen_pair,
    }


def grids(options: argparse.Namespace, subject: Subject, settings: AutomaticSettings) -> dict[str, Any]:
    """Measure every choice of an adaptive grid on pictures held back, print, and the document that is kept."""
    rows, pictures = measured_on_held_back(options, subject, GridsTask(settings))
    figures = grid_figures(rows, CHOICES)
    chosen = choose_grid(figures)
    default = (settings.enough_clicks, settings.least_promise)
    Console(width=140).print(printed_grids(figures, chosen, default))
    return {
        **facts(options, subject, settings),
        "hold_back": HOLD_BACK,
        "pictures": pictures,
        "grids": figures,
        "chosen": chosen,
    }


def measured_on_held_back(
    options: argparse.Namespace, subject: Subject, task: Task
) -> tuple[list[Any], dict[str, int]]:
    """What the task gave for every picture held back, and how many these are by source."""
    shards = [
        (shard, held_back(shard.keys(), HOLD_BACK, options.images, options.seed))
        for shard in shards_of(options.data, options.sets)
    ]
    rows: list[Any] = []
    pictures = {}
    with results_folder(options.results) as folder:
        for shard, chosen, found in measure(
            subject, [entry for entry in shards if entry[1]], task, folder, options.workers
        ):
            rows += found
            pictures[shard.source] = len(chosen)
    return rows, pictures


def facts(options: argparse.Namespace, subject: Subject, settings: AutomaticSettings) -> dict[str, Any]:
    """What a reader of the figures must know, and how to have them again."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": command(options),
        "model": subject.name,
        "model_digest": subject.digest,
        "engine": type(segmenter_of(subject).backend).__name__,
        "protocol": {
            "images": options.images,
            "seed": options.seed,
            "effort": options.effort,
            "settings": dataclasses.asdict(settings),
        },
    }


def command(options: argparse.Namespace) -> str:
    """The command of these options, with the data and the file of results by words in place of paths."""
    words = ["python benchmarks/automatic_quality.py", "--data FOLDER", "--json FILE"]
    if options.thresholds:
        words += ["--thresholds", f"--step {options.step:g}"]
    if options.grids:
        words.append("--grids")
    if options.model != "nano":
        words.append("--model MODEL")
    if options.images is not None:
        words.append(f"--images {options.images}")
    words += [f"--seed {options.seed}", f"--effort {options.effort}"]
    if options.points_per_side is not None:
        words.append(f"--points-per-side {options.points_per_side}")
    if options.sets:
        words.append("--sets " + " ".join(options.sets))
    return " ".join(words)


@contextlib.contextmanager
def results_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, which lets a stopped run go on, or one that is deleted at the end."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def write_card(results: Path = RESULTS, card: Path = CARD) -> None:
    """Put the kept figures into the model card.

    Raises:
        ValueError: the results are of another model than the card's, or of a part of the sets or grid.
    """
    document = json.loads(results.read_text())
    if document["model_digest"] != read_manifest(NANO).spec.digest:
        raise ValueError(f"{results} holds figures of another model than the embedded one; measure again")
    missing = {facts.name for facts in find_suite("pack").sets} - set(document["sets"])
    side = document["protocol"]["settings"]["points_per_side"]
    if missing or side != AutomaticSettings.for_effort(document["protocol"]["effort"]).points_per_side:
        lacks = f"the sets {', '.join(sorted(missing))}" if missing else "the effort's full grid"
        raise ValueError(f"{results} lacks {lacks}; the card takes whole results only")
    card.write_text(with_section(card.read_text(), card_section(document)))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of SA-1B style tar shards with masks")
    parser.add_argument("--model", default="nano", help="model name or path (default: the embedded nano)")
    parser.add_argument(
        "--images",
        type=int,
        default=None,
        help="at most so many pictures per set (default: 10; with --thresholds and --grids all that were held back)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--sets", nargs="*", default=None, help="names of sets (default: all)")
    parser.add_argument("--effort", choices=tuple(EFFORTS), default="normal")
    parser.add_argument("--points-per-side", type=int, default=None, help="in place of the effort's")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--results", type=Path, default=None, help="keep each picture's counts here")
    parser.add_argument("--thresholds", action="store_true", help="measure pairs of thresholds instead")
    parser.add_argument("--grids", action="store_true", help="measure adaptive grids instead")
    parser.add_argument("--step", type=float, default=0.1, help="between thresholds (default: 0.1)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here too")
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="put the figures of --json, or without --data those kept, into the model card",
    )
    options = parser.parse_args(arguments)
    if options.thresholds and options.grids:
        parser.error("--thresholds and --grids are two measurements; run one after the other")
    chooses = options.thresholds or options.grids
    if options.write_card and (chooses or (options.data is not None and options.json is None)):
        parser.error("--write-card goes with the figures of sets, and with --data it needs --json")
    if options.images is None and not chooses:
        options.images = 10
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, write what was asked for."""
    options = parsed(arguments)
    if options.data is not None:
        subject = open_subject(options.model, threads=1)
        given = {} if options.points_per_side is None else {"points_per_side": options.points_per_side}
        settings = AutomaticSettings.for_effort(options.effort, subject.name, **given)
        work = thresholds if options.thresholds else grids if options.grids else quality
        document = work(options, subject, settings)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(document, indent=1) + "\n")
    elif not options.write_card:
        print("left out: it needs pictures with masks, give --data FOLDER")
    if options.write_card:
        try:
            write_card(options.json or RESULTS)
        except (ValueError, OSError) as error:
            sys.exit(f"the model card stays as it is: {error}")


if __name__ == "__main__":
    main()
