"""Errors that list many keys: one line for each on standard error, then the one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from anymask.cli import console
from anymask.errors import AnymaskError


@contextmanager
def one_line_each() -> Iterator[None]:
    """Print what an error says after its first line, and let it go on with the first."""
    try:
        yield
    except AnymaskError as error:
        head, *details = str(error).split("\n")
        for detail in details:
            print(f"  {console.printable(detail.strip())}", file=sys.stderr)
        raise type(error)(head) from error
