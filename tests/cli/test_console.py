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
def progress(monkeypatch):
    """Run ``with_progress`` over some items with a terminal (or another stream) as standard error."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    console.reset_verbosity()

    def run(count, stream):
        monkeypatch.setattr(sys, "stderr", stream)  # here: pytest sets its own between set-up and test
        assert list(console.with_progress(range(count), "segmenting")) == list(range(count))
        return stream.getvalue()

    return run


def test_a_bar_on_a_terminal_once_it_takes_long(progress, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.0)
    shown = progress(7, Terminal())
    assert "segmenting" in shown
    assert "7/7" in shown


def test_no_bar_for_a_quick_job(progress):
    assert progress(7, Terminal()) == ""


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_item_comes_once_when_patience_ends_midway(progress, monkeypatch, count):
    monkeypatch.setattr(console, "_PATIENCE_S", 1.5)
    times = iter([0.0, 0.5, 1.0])
    monkeypatch.setattr(console, "_now", lambda: next(times, 9.0))
    assert ("segmenting" in progress(count, Terminal())) == (count > 2)


def test_no_bar_when_quiet_or_not_on_a_terminal(progress, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE_S", 0.0)
    assert progress(3, io.StringIO()) == ""
    console.set_verbosity(verbose=False, quiet=True)
    assert progress(3, Terminal()) == ""


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


def test_many_bars_are_shown_to_a_terminal_and_to_nobody_else(monkeypatch):
    with console.progress_of_many() as report:
        assert report is None  # standard error is no terminal here
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    console.reset_verbosity()
    with console.progress_of_many() as report:
        for done in range(1, 4):
            report("nano on\x1b[31m discs", done, 3)
            report("nano on more", 1, 2)
    shown = screen.getvalue()
    assert "nano on more" in shown
    assert "1/2" in shown
    assert "\x1b[31m discs" not in shown  # a set's name cannot steer the terminal
