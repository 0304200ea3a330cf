"""``anymask eval``: any model, any labelled data, the same table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.cli import console

if TYPE_CHECKING:
    from anymask.evaluation.study import Study, StudyResult


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name or path, closer:MODEL for its closer look; baseline:NAME, hf:PATH or "
            "detector:PATH for others.",
        ),
    ] = "nano",
    suite: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A known suite, or labelled data in a known layout."),
    ] = "pack",
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Where a named suite's data lies.")
    ] = None,
    images_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Pictures of an annotation file that does not lie beside them."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Another model or baseline for the same table; repeatable."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Say whether MODEL is better or worse than this one."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="point, random-point, box, jitter, clicks (these are the default), edges, proposals, "
            "instances; repeatable.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images drawn from each set.  [default: all]")
    ] = None,
    masks: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Masks drawn from each image.  [default: all]")
    ] = None,
    max_clicks: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Clicks after which an object has failed.")
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything that is drawn by chance.")] = 0,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Processes, one thread each.")] = 1,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the report goes; made when missing.")
    ] = Path("eval"),
    gallery: Annotated[
        int, typer.Option(metavar="N", min=0, max=20, help="Failures shown of each set; 0 for none.")
    ] = 2,
    photographs: Annotated[
        bool,
        typer.Option(
            "--photographs/--no-photographs",
            help="Show the pictures in the gallery, or masks on grey where the pictures may not be shown.",
        ),
    ] = True,
    rating: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --against: also lay out both models' masks for blind rating."),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time the models and their memory too.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Measure a model on labelled images and write a report.

    The report (report.md, report.json, plots and a gallery of failures) goes to DIR. What was measured once for a
    model, plan and image is kept in the cache folder, so that a run which was stopped goes on where it was.
    """
    from anymask.cli.arguments import check_output_folder
    from anymask.errors import InputError
    from anymask.evaluation.plan import PROTOCOLS
    from anymask.evaluation.report import write_report
    from anymask.evaluation.study import run_study

    console.set_verbosity(verbose=verbose, quiet=quiet)
    if rating is not None and against is None:
        raise InputError("--rating lays out two models' masks; say which other with --against MODEL")
    check_output_folder(out)
    study = _study(
        models=[model, *(beside or []), *([against] if against else [])],
        suite=suite,
        data=data,
        images_folder=images_folder,
        protocols=protocol or list(PROTOCOLS),
        images=images,
        masks=masks,
        max_clicks=max_clicks,
        seed=seed,
        workers=workers,
        speed=speed,
    )
    with console.progress_of_many() as report:
        result = run_study(study, report)
    files = write_report(
        result,
        out,
        against=against,
        gallery=gallery,
        photographs=photographs,
        rating=rating,
        command=_command(),
    )
    if as_json:
        console.print_json(files.document)
    else:
        _tell(result, files.document, files.report)


def _study(
    *,
    models: list[str],
    suite: str,
    data: Path | None,
    images_folder: Path | None,
    protocols: list[str],
    images: int | None,
    masks: int | None,
    max_clicks: int,
    seed: int,
    workers: int,
    speed: bool,
) -> Study:
    """Options as a study; protocols of masks and of whole images part here."""
    from anymask.evaluation.plan import Plan
    from anymask.evaluation.study import Study
    from anymask.evaluation.whole_image import EXTRAS
    from anymask.settings import load_settings

    extras = tuple(name for name in EXTRAS if name in protocols)
    of_masks = tuple(name for name in protocols if name not in extras)
    return Study(
        models=tuple(dict.fromkeys(models)),
        suite=suite,
        data=data,
        images_folder=images_folder,
        plan=Plan(of_masks, masks, max_clicks, seed) if of_masks else None,
        extras=extras,
        images=images,
        seed=seed,
        workers=workers,
        results=load_settings().cache_dir / "eval",
        speed=speed,
    )


def _command() -> str:
    """The command line as it was given, for the report."""
    import shlex
    import sys

    return shlex.join(["anymask", *sys.argv[1:]])


def _tell(result: StudyResult, document: dict[str, Any], report: Path) -> None:
    """The means and where the report lies."""
    console.say(document["title"])
    for model in result.models:
        mean = list(model.summary.mean.items())[:8] if model.summary else []
        parts = [f"{key} {value:.3f}" for key, value in mean]
        for extra in model.extras.values():
            parts += [f"{head} {cell}" for head, cell in zip(extra.heads(), extra.cells(), strict=True)]
        console.say(f"  {model.subject.name:<20} {', '.join(parts)}")
    for name, verdict in document.get("verdicts", {}).items():
        console.say(f"  {name}: {verdict['verdict']} ({verdict['difference']:+.3f})")
    console.say(f"  report  {report}")
