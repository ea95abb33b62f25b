"""What `--show` prints: every key with its value, range, unit, origin and help."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from settings.flat import flatten, leaves
from settings.resolve import Resolved
from settings.schema import Settings, Value

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLUMNS = ("key", "value", "range", "unit", "origin", "help")

_PADDED = 24
"""Cells of plain lines, but for keys, are padded to the longest of up to this many columns."""

_REST = 100
"""Columns that range, unit, origin and help need beside key and value to be read in a table."""


def value_text(value: Value) -> str:
    """A value as an override spells it: `key=<this>` sets it."""
    if isinstance(value, tuple):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def rows(resolved: Resolved[Any], cls: type[Settings]) -> list[tuple[str, ...]]:
    """One row a key, in the order of `COLUMNS` and of the tree."""
    values = flatten(resolved.settings)
    return [
        (
            key,
            value_text(values[key]),
            leaf.range_text,
            leaf.unit,
            resolved.origins[key],
            leaf.help,
        )
        for key, leaf in leaves(cls).items()
    ]


def show(resolved: Resolved[Any], cls: type[Settings]) -> Table:
    """The rows as a table for a terminal; what is not at its default is bold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in COLUMNS:
        # Keys and values are copied into commands: they are never cut or wrapped.
        table.add_column(name, no_wrap=name in ("key", "value"), overflow="fold")
    for row in rows(resolved, cls):
        style = "" if row[COLUMNS.index("origin")] == "default" else "bold"
        table.add_row(*(Text(cell, style=style) for cell in row))
    return table


def fits(resolved: Resolved[Any], cls: type[Settings], width: int) -> bool:
    """Whether the table of `show` can be read on a terminal of so many columns."""
    shown = rows(resolved, cls)
    return sum(max(len(row[column]) for row in shown) for column in (0, 1)) + _REST <= width


def narrow(resolved: Resolved[Any], cls: type[Settings], width: int) -> Text:
    """The rows for a terminal that is too narrow for the table: `key=value`, and below it help,
    range and unit, and where the value comes from, wrapped. What is not at its default is bold.
    """
    from rich.text import Text

    text = Text()
    for key, value, legal, unit, origin, about in rows(resolved, cls):
        style = "" if origin == "default" else "bold"
        said = f"{about} ({' '.join(filter(None, (legal, unit)))}; {origin})"
        below = textwrap.wrap(said, width, initial_indent="    ", subsequent_indent="    ")
        text.append(f"{key}={value}\n", style)
        text.append("\n".join(below) + "\n", "dim")
    return text


def plain(resolved: Resolved[Any], cls: type[Settings]) -> str:
    """The rows as text in columns, one line a key whatever its length, for files and pipes."""
    lines = [COLUMNS, *rows(resolved, cls)]
    widths = [
        max(len(line[column]) for line in lines if not column or len(line[column]) <= _PADDED)
        for column in range(len(COLUMNS))
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def print_settings(
    resolved: Resolved[Any], cls: type[Settings], stream: TextIO | None = None
) -> None:
    """Prints what fits on a terminal, and plain lines anywhere else."""
    stream = stream or sys.stdout
    if stream.isatty():
        from rich.console import Console

        console = Console(file=stream)
        if fits(resolved, cls, console.width):
            console.print(show(resolved, cls))
        else:
            console.print(narrow(resolved, cls, console.width), end="", soft_wrap=True)
    else:
        print(plain(resolved, cls), file=stream)
