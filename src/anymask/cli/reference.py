"""``docs/reference/cli.md``, printed by ``python -m anymask.cli.reference`` from the commands' own help."""

from __future__ import annotations

import os
from typing import Any

from anymask.errors import error_classes

__all__ = ["as_markdown"]

_WIDTH = "80"


def as_markdown() -> str:
    """The whole page: help of the program and of each command, and the exit statuses."""
    os.environ["COLUMNS"] = _WIDTH
    import typer

    from anymask.cli.main import INTERRUPTED, app

    program = typer.main.get_command(app)
    context = program.make_context("anymask", [], resilient_parsing=True)
    parts = [
        "# The command line",
        "",
        "Printed from the program by `python -m anymask.cli.reference`; a test fails when they differ.",
        "",
        *_block("anymask", context.get_help()),
    ]
    parts += _commands(program, context, "anymask")
    return "\n".join([*parts, *_statuses(INTERRUPTED)]) + "\n"


def _commands(group: Any, context: Any, path: str) -> list[str]:
    """The help of each command below ``group``, and of the commands below those."""
    parts = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        child = command.make_context(name, [], parent=context, resilient_parsing=True)
        parts += _block(f"{path} {name}", child.get_help())
        if hasattr(command, "list_commands"):
            parts += _commands(command, child, f"{path} {name}")
    return parts


def _block(title: str, text: str) -> list[str]:
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return [f"## {title}", "", "```text", *lines, "```", ""]


def _statuses(interrupted: int) -> list[str]:
    families: dict[int, list[str]] = {}
    for cls in error_classes():
        families.setdefault(cls.exit_status, []).append(f"`{cls.code}`")
    rows = [f"| {status} | {', '.join(codes)} |" for status, codes in sorted(families.items())]
    return [
        "## Exit status",
        "",
        "When several images fail in different ways the status is 1; otherwise it is that of their family. The codes",
        "are those of `--json`. Results go to standard output, everything else to standard error.",
        "",
        "| status | codes |",
        "|---:|---|",
        "| 0 | all went well |",
        *rows,
        f"| {interrupted} | interrupted from the keyboard |",
    ]


if __name__ == "__main__":
    print(as_markdown(), end="")
