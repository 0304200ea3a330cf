"""Masks of everything, end to end: the straightforward implementation and transformers' pipeline against ours.

    python benchmarks/automatic.py --write-docs                           # everything, in one go
    python benchmarks/automatic.py --quick                                # tiny: only to see that everything runs
    python benchmarks/automatic.py --checkpoint sam_vit_b_01ec64.pth      # trained weights, published thresholds
    python benchmarks/automatic.py --parts fp32 --photograph 1 --work DIR # a part; figures add up, weights are kept
    python benchmarks/automatic.py --no-run --write-docs                  # the page again, from the kept figures

Figures are added to benchmarks/results/automatic.json (or ``--json``); with ``--write-docs`` they also go into
docs/how-to/automatic.md. All contenders get the same photographs, 32 x 32 clicks and, save nano, the same weights of
ViT-B at 1024 pixels. Seconds are from pixels to masks, the encoder included; reading files is not. Each contender is a
process of its own that waits for its turn, so peak memory (VmHWM: weights, engine, activations) is its own too, and is
warm: it has answered 8 x 8 clicks. They take turns photograph by photograph, in opposite order every other time, so
that a drift of the machine's speed falls on all alike; a run of less than ten seconds is made three times in its turn,
since a moment's disturbance weighs more in it. A ratio is made of runs of one sitting on one photograph only.

- `straightforward` does what the published code does, step by step in plain torch (see `automatic_plain`).
- `adaptive` asks the full grid from coarse to fine, `fast` is ``--effort fast``. Beside them stands how many of the
  masks of the full grid, by the same engine, they find again (IoU 0.9).
- "after the decoder" is measured in one process with the decoder's answers remembered, for both ways.
- The part ``memory`` is `automatic_memory`: peak memory by image size and by candidates, with nano.

Without ``--checkpoint`` weights are random but for what `automatic_weights` plants in them, so that a click finds one
of 28 large and small shapes. Thresholds are chosen, before anything is timed, so that a fifth of all masks pass both.
How many masks the adaptive grid misses depends on what there is to see: with these weights its recall tells little,
nano's, whose weights are trained, is beside it.
Contenders in float32 must give the masks of the straightforward one: 99 of 100 at IoU 0.99, either way round.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import automatic_docs as docs
import automatic_memory as memory
from anymask.image import read_image
from automatic_contenders import CONTENDERS, INT8, MEMORY, PARTS, PLANTED, TINY, Job, left_out, of_parts
from automatic_engines import work
from automatic_race import agreement, race, race_after_decoder

ROOT: Final = Path(__file__).parents[1]
KEPT: Final = ROOT / "benchmarks" / "results" / "automatic.json"
SAMPLES: Final = ROOT.parent / "shared" / "data" / "samples"
PREFERRED: Final = ("truck.jpg", "groceries.jpg", "cars.jpg", "dogs.jpg")
"""Photographs taken first from a folder that has them; others follow by name."""
PUBLISHED_THRESHOLDS: Final = (0.88, 0.95)
FIXED: Final = ("machine", "threads", "versions", "weights", "photographs", "points_per_side", "thresholds")
"""Facts that figures which are added up must share."""
QUICK: Final[dict[str, Any]] = {"embed_dim": 96, "depth": 2, "num_heads": 4, "global_attn_indexes": (1,)}
"""Sizes of the network when it only has to run."""


def photographs_in(folder: Path | None, count: int) -> list[Path]:
    """So many of a folder, or the example where there is none."""
    if folder is None:
        folder = SAMPLES if SAMPLES.is_dir() else None
    if folder is None:
        return [ROOT / "examples" / "photo.jpg"]
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    first = [folder / name for name in PREFERRED if folder / name in found]
    return [*first, *(path for path in found if path not in first)][:count]


def wanted_job(options: argparse.Namespace) -> Job:
    """What the options ask for; planted weights get thresholds of their own later."""
    return Job(
        weights=options.checkpoint.name if options.checkpoint else TINY if options.quick else PLANTED,
        side=options.side,
        photographs=[str(path.resolve()) for path in options.paths],
        thresholds=PUBLISHED_THRESHOLDS,
        points_per_side=options.points_per_side,
        batch=options.batch,
        threads=options.threads,
    )


def prepared(folder: Path, options: argparse.Namespace) -> Job:
    """The job whose weights and graphs lie in the folder, made in a process that ends after it if need be.

    Raises:
        SystemExit: the folder is of other options.
    """
    if not (folder / "job.json").exists():
        print("making weights, graphs and thresholds", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, __file__, "--prepare", str(folder), *options.arguments], check=True)
    job = Job.load(folder)
    if dataclasses.replace(job, thresholds=PUBLISHED_THRESHOLDS) != wanted_job(options):
        raise SystemExit(f"{folder} was made for other photographs or options: give another --work")
    return job


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Weights, graphs and the job."""
    import torch

    from anymask.model.checkpoints.convert import load_checkpoint
    from anymask.model.export.network import export_network
    from anymask.model.families import save_network
    from anymask.model.variants import VIT_B
    from anymask.predict.segmenter import Segmenter
    from anymask.runtime import agreement as bounds
    from anymask.runtime.machine import installed
    from anymask.runtime.onnx_backend import OnnxBackend
    from automatic_weights import planted_sam, realistic_thresholds

    torch.set_num_threads(options.threads)
    job = wanted_job(options)
    if options.checkpoint is not None:
        network, config = load_checkpoint(options.checkpoint)
    else:
        config = dataclasses.replace(VIT_B, image_size=options.side, **(QUICK if options.quick else {}))
        network = planted_sam(config, options.paths)
    save_network(network, config, folder / "weights.safetensors")
    export_network(network, config, folder / "graphs")
    del network
    if installed("openvino"):
        from anymask.runtime.openvino_export import convert_to_openvino

        # How many masks are found again is measured here; with random weights the gate says little.
        bounds.MEDIAN_IOU["int8"] = 0.0  # type: ignore[index]
        convert_to_openvino(folder / "graphs", folder / INT8, "int8", options.threads)
    if options.checkpoint is None:
        segmenter = Segmenter(OnnxBackend(folder / "graphs", options.threads))
        thresholds = realistic_thresholds(segmenter, options.paths, min(options.points_per_side, 12))
        job = dataclasses.replace(job, thresholds=thresholds)
    job.save(folder)


def facts(threads: int) -> dict[str, Any]:
    """Where and with what."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "onnxruntime", "openvino", "opencv-python-headless"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()} {name}".strip(),
        "threads": threads,
        "versions": versions,
    }


def sitting_facts(options: argparse.Namespace) -> dict[str, Any]:
    """When, what was asked for, and how busy the machine was before."""
    return {
        "parts": options.parts,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "load_before": os.getloadavg()[0],
    }


def measure(options: argparse.Namespace, folder: Path, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """The figures of the race, as far as its parts are asked for, added to the kept ones.

    Raises:
        SystemExit: they could not be added; said before anything is timed.
    """
    asked = [CONTENDERS[name] for name in of_parts(options.parts)]
    reasons = {contender.name: left_out(contender) for contender in asked}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    before = sitting_facts(options)
    job = prepared(folder, options)
    shown = range(len(job.photographs))
    if options.photograph is not None:
        shown = shown[options.photograph - 1 : options.photograph]
    sizes = [read_image(path).size for path in job.photographs]
    figures: dict[str, Any] = {
        **facts(options.threads),
        "weights": job.weights,
        "photographs": [
            f"{Path(path).name}, {width} x {height}"
            for path, (height, width) in zip(job.photographs, sizes, strict=True)
        ],
        "points_per_side": job.points_per_side,
        "thresholds": list(job.thresholds),
        "sittings": [before],
        "left_out": missing,
        "runs": {},
        "agreement": {},
    }
    try:
        added(kept, figures)
    except ValueError as error:
        raise SystemExit(f"{options.json}: {error}: give another --json") from error
    sitting = len(kept["sittings"]) if kept else 0
    names = [name for name in reasons if name not in missing]
    script = Path(__file__)
    runs = race(names, script, folder, shown, options.rounds, sitting) if names else {}
    if "after" in options.parts:
        runs |= race_after_decoder(script, folder, shown, sitting)
    return added(kept, {**figures, "runs": runs, "agreement": agreement(folder, len(job.photographs))})


def added(kept: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Kept figures of the race and new ones together.

    Raises:
        ValueError: they are of different machines, versions, weights, photographs or settings.
    """
    if kept is None:
        return new
    different = [name for name in FIXED if kept[name] != new[name]]
    if different:
        raise ValueError(f"figures of other {', '.join(different)} cannot be added to the kept ones")
    names = [name for name in CONTENDERS if name in kept["runs"] or name in new["runs"]]
    names += [name for name in (*kept["runs"], *new["runs"]) if name not in CONTENDERS]
    return {
        **new,
        "sittings": [*kept["sittings"], *new["sittings"]],
        "left_out": {**kept["left_out"], **new["left_out"]},
        "runs": {name: [*kept["runs"].get(name, []), *new["runs"].get(name, [])] for name in names},
        "agreement": {**kept["agreement"], **new["agreement"]},
    }


def run(options: argparse.Namespace, folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """The kept ``race`` and ``memory`` with what was asked for measured, added and kept."""
    if [part for part in options.parts if part != MEMORY]:
        figures = {**figures, "race": measure(options, folder, figures.get("race"))}
        keep(figures, options.json)
    if MEMORY in options.parts:
        before = sitting_facts(options)
        points = memory.measure(Path(__file__), options.threads, options.quick)
        figures = {**figures, "memory": {**facts(options.threads), **before, "points": points}}
        keep(figures, options.json)
    return figures


def keep(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write them, where a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, help="a folder (default: the samples, or the example)")
    parser.add_argument("--images", type=int, default=2, help="how many of them (default: 2)")
    parser.add_argument("--photograph", type=int, metavar="N", help="only the N-th of them in this sitting")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART",
                        help=f"what to measure: {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="trained weights of ViT-B instead of planted ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="clicks that ours decode together (default: as shipped)")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="a tiny network, 8 x 8 clicks; nothing is kept")
    parser.add_argument(
        "--work", type=Path, help="a folder that keeps weights, graphs and masks for other parts"
    )
    parser.add_argument("--json", type=Path, help=f"figures to add to (default: {KEPT.relative_to(ROOT)})")
    parser.add_argument("--no-run", action="store_true", help="take the kept figures")
    parser.add_argument("--write-docs", nargs="?", type=Path, const=ROOT / "docs", metavar="FOLDER",
                        help="put the figures into how-to/automatic.md of this folder (default: docs)")  # fmt: skip
    for hidden in ("--worker", "--folder", "--prepare", "--memory-point"):
        parser.add_argument(hidden, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    options.side = 256 if options.quick else 1024
    if options.quick:
        options.points_per_side, options.images, options.rounds = 8, 1, 1
        if options.write_docs == ROOT / "docs":
            parser.error("with --quick, --write-docs needs a folder of its own")
    elif options.json is None:
        options.json = KEPT
    options.paths = photographs_in(options.photographs, options.images)
    if options.photograph is not None and not 1 <= options.photograph <= len(options.paths):
        parser.error(f"--photograph must be from 1 to {len(options.paths)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and write what was asked for."""
    options = read_options(arguments)
    if options.worker is not None:
        work(options.worker, Path(options.folder))
        return
    if options.prepare is not None:
        prepare(Path(options.prepare), options)
        return
    if options.memory_point is not None:
        memory.measure_point(memory.Point(**json.loads(options.memory_point)), options.threads)
        return
    figures = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    if not options.no_run:
        with tempfile.TemporaryDirectory() as temporary:
            figures = run(options, options.work or Path(temporary), figures)
    for text in docs.sections(figures).values():
        print(text, end="\n\n")
    if options.write_docs is not None:
        docs.write(figures, options.write_docs)


if __name__ == "__main__":
    main()
