"""``anymask``: the program. Commands register here; bad input ends in one sentence and the error's exit status.

Nothing heavy is imported before a command runs, so that ``anymask --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anymask.cli import console
from anymask.cli.auto import auto
from anymask.cli.auto.grouping import GroupedCommand
from anymask.cli.doctor import doctor
from anymask.cli.evaluate import evaluate
from anymask.cli.export import export
from anymask.cli.models import models
from anymask.cli.rate import rate
from anymask.cli.segment import segment
from anymask.errors import AnymaskError

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="anymask",
    help="Segment anything in a photo from clicks, boxes and rough masks; offline, on a CPU.",
    epilog="Exit status: 0 when all went well; see docs/reference/cli.md for the others.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(segment)
app.command(cls=GroupedCommand)(auto)
app.command(name="eval")(evaluate)
app.command()(rate)
app.command()(export)
app.command()(doctor)
app.add_typer(models)


def _print_version(wanted: bool) -> None:
    if wanted:
        import anymask

        typer.echo(f"anymask {anymask.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Segment anything in a photo from clicks, boxes and rough masks; offline, on a CPU."""
    console.set_verbosity(verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` when none is given) and return its exit status."""
    console.reset_verbosity()
    try:
        status = app(
            args=None if arguments is None else list(arguments), prog_name="anymask", standalone_mode=False
        )
        if status == INTERRUPTED:  # Typer of some versions swallows the interrupt and returns this
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except AnymaskError as error:
        console.complain(str(error))
        return error.exit_status
    except (KeyboardInterrupt, typer.Abort):
        console.complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        console.leave_quietly_on_closed_pipe()
        return 1
    except Exception as error:
        return _explain_other(error)


def _explain_other(error: Exception) -> int:
    """Usage errors of Typer (which may carry its own copy of Click, hence known by their methods), and bugs."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "anymask"
        sentence = error.format_message().rstrip(".")
        console.complain(f"{sentence[:1].lower()}{sentence[1:]}; see {path} --help")
        return int(error.exit_code)
    if console.verbosity() > 0:
        raise error
    console.complain(f"unexpected {type(error).__name__}: {error}; this is a bug, -v shows where it happened")
    return 1


if __name__ == "__main__":
    sys.exit(main())
