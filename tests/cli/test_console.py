"""What is shown where: the progress bar, and names that must not steer a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from anymask.cli import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    console.reset_verbosity()
    return stream


def test_a_bar_on_a_terminal_once_it_takes_long(terminal, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.0)
    assert list(console.with_progress(range(7), "segmenting")) == list(range(7))
    assert "segmenting" in terminal.getvalue()
    assert "7/7" in terminal.getvalue()


def test_no_bar_for_a_quick_job(terminal):
    assert list(console.with_progress(range(7), "segmenting")) == list(range(7))
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_comes_once_when_patience_ends_midway(terminal, monkeypatch, count):
    times = iter([0.0, 0.5, 1.0, 9.0, *[9.0] * 20])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    assert list(console.with_progress(range(count), "segmenting")) == list(range(count))


def test_no_bar_when_quiet_or_not_on_a_terminal(terminal, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.0)
    console.set_verbosity(verbose=False, quiet=True)
    assert list(console.with_progress(range(3), "segmenting")) == [0, 1, 2]
    assert terminal.getvalue() == ""
    console.reset_verbosity()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(console.with_progress(range(3), "segmenting")) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("\x1b[2Jclear", "\\x1b[2Jclear"),
        ("two\nlines", "two\\nlines"),
        ("right\u202eleft", "right\\u202eleft"),
        ("café 猫", "café 猫"),
    ],
)
def test_names_cannot_steer_a_terminal(text, shown):
    assert console.printable(text) == shown


def test_bytes_that_are_no_text_can_be_shown():
    assert console.printable("caf\udce9").isprintable()
