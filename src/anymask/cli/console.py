"""What the commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

__all__ = [
    "complain",
    "explain",
    "print_json",
    "printable",
    "progress_of_many",
    "say",
    "set_verbosity",
    "verbosity",
    "with_progress",
]

Item = TypeVar("Item")

_PATIENCE_S: Final = 2.0
_now = time.monotonic
_level = 0


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """-1 for quiet, 0, or 1 for verbose; an option given twice (before and after the command) counts once."""
    global _level
    if quiet:
        _level = -1
    elif verbose:
        _level = 1


def reset_verbosity() -> None:
    """Back to 0, for a new command line in the same process."""
    global _level
    _level = 0


def verbosity() -> int:
    """-1 quiet, 0 normal, 1 verbose."""
    return _level


def say(line: str = "") -> None:
    """A line of the answer on standard output, unless quiet."""
    if _level >= 0:
        print(printable(line), flush=True)


def explain(line: str) -> None:
    """A line for the curious on standard error, when verbose."""
    if _level >= 1:
        print(printable(line), file=sys.stderr, flush=True)


def complain(sentence: str) -> None:
    """An error on standard error, always, on one line."""
    print(f"anymask: {printable(sentence)}", file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """A machine's answer on standard output, also when quiet."""
    print(json.dumps(document, indent=1), flush=True)


def printable(text: str) -> str:
    """``text`` with control characters and undecodable bytes escaped, so that a file's name cannot steer a terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode() for char in text
    )
    return safe.encode(encoding, "backslashreplace").decode(encoding)


def with_progress(items: Sequence[Item], what: str) -> Iterator[Item]:
    """``items`` one by one; on a terminal, a bar on standard error once two seconds have passed and some remain."""
    if verbosity() < 0 or len(items) < 2 or not sys.stderr.isatty():
        return iter(items)
    return _with_bar(items, what)


def _with_bar(items: Sequence[Item], what: str) -> Iterator[Item]:
    start, done = _now(), 0
    while done < len(items) and _now() - start < _PATIENCE_S:
        yield items[done]
        done += 1
    if done < len(items):
        yield from _bar(items[done:], what, done, len(items))


def _bar(rest: Iterable[Item], what: str, done: int, total: int) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=total, completed=done)
        for item in rest:
            yield item
            progress.advance(task)


@contextmanager
def progress_of_many() -> Iterator[Callable[[str, int, int], None] | None]:
    """On a terminal, a function that is told what goes on, how much is done and of how much, and shows a bar for each.

    None when nobody looks.
    """
    if verbosity() < 0 or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(printable(what), total=total)
            progress.update(tasks[what], completed=done, visible=done < total)

        yield report


def leave_quietly_on_closed_pipe() -> None:
    """After a reader such as ``head`` closed our output: stop Python from complaining about it at exit."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
