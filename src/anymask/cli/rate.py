"""``anymask rate``: what blind raters wrote, undone of its blindness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.cli import console

if TYPE_CHECKING:
    from anymask.evaluation.rating.result import RatingResult


def rate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What anymask eval --rating laid out.")],
    ratings: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Raters' CSV files.  [default: the one in DIR]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Read blind ratings of masks and say which method was rated better.

    Methods are compared by the paired bootstrap over images; several raters of one picture are averaged, and their
    agreement is told.
    """
    from anymask.evaluation.rating.result import analyse_rating

    result = analyse_rating(folder, *(ratings or []))
    if as_json:
        console.print_json(_document(result))
    else:
        _tell(result)


def _document(result: RatingResult) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "methods": {name: asdict(method) for name, method in result.methods.items()},
        "differences": [
            {
                "candidate": pair.candidate,
                "reference": pair.reference,
                **asdict(pair.comparison.overall),
            }
            for pair in result.differences
        ],
        "raters": list(result.raters),
        "pictures": result.pictures,
        "missing": result.missing,
        "agreement": None
        if result.agreement is None or result.agreement != result.agreement
        else result.agreement,
    }


def _tell(result: RatingResult) -> None:
    console.say(f"{result.pictures} pictures, raters: {', '.join(result.raters)}")
    for name, method in result.methods.items():
        console.say(
            f"  {name:<24} {method.mean:5.2f}   95 % {method.low:.2f} to {method.high:.2f}"
            f"   {method.objects} objects, {method.missing:.0%} of ratings missing"
        )
    for pair in result.differences:
        overall = pair.comparison.overall
        console.say(
            f"  {pair.candidate} against {pair.reference}: {overall.verdict} "
            f"({overall.difference:+.2f}, 95 % {overall.low:+.2f} to {overall.high:+.2f})"
        )
    if result.agreement is not None:
        console.say(f"  agreement of raters (Krippendorff's alpha, interval): {result.agreement:.2f}")
