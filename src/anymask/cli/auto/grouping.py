"""Help of a command with many options, in groups."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["GroupedCommand"]


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under the headings they name as ``rich_help_panel``; others first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups, in the order in which their first options come."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None and getattr(parameter, "param_type_name", "") == "option":
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(row)
        for heading, rows in groups.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
