"""Reports as TensorBoard files, under the columns' own names and under those that a system's
document uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.run import Report


class TensorBoard:
    """Writes each column of a report as a scalar; opens its file at the first one.

    Args:
        names: the system's table: column -> further tag. One `*` in a column stands for any text,
            which the `*` of its tag repeats (`train.loss.*` -> `Enhanced_Loss/*`); of several
            patterns that fit, the one with the longest fixed text counts.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.folder, self.names = folder, names
        self._tags: dict[str, tuple[str, ...]] = {}
        self._writer: Any = None

    def write(self, report: Report) -> None:
        step = report["step"]
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), flush_secs=30, write_to_disk=True)
        for column, value in report.items():
            if column == "step" or value is None or isinstance(value, str):
                continue
            if column not in self._tags:
                extra = further_tag(column, self.names)
                self._tags[column] = (column,) if extra is None else (column, extra)
            for tag in self._tags[column]:
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def further_tag(column: str, names: Mapping[str, str]) -> str | None:
    """The tag that the table gives a column beside its own name, None for none."""
    found: str | None = None
    fixed = -1
    for pattern, tag in names.items():
        head, star, tail = pattern.partition("*")
        if not star:
            if column == pattern:
                return tag
            continue
        fits = column.startswith(head) and column.endswith(tail)
        if fits and len(column) >= len(head) + len(tail) > fixed:
            fixed = len(head) + len(tail)
            found = tag.replace("*", column[len(head) : len(column) - len(tail)])
    return found
