"""Signs of life on a terminal while bytes come in or keys are checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anymask.cli import console


def _nobody_looks() -> bool:
    return console.verbosity() < 0 or not sys.stderr.isatty()


@contextmanager
def byte_bar(what: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A function that is told the bytes that are here and that there will be, and shows a bar; None when unseen."""
    if _nobody_looks():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(console.printable(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Something that moves while a step takes long."""
    if _nobody_looks():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(console.printable(what)):
        yield
