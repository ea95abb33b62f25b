"""Reports as TensorBoard files, under the columns' own names and under those that a system's
document uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from settings.schema import Settings
from trainables.run import Report
from trainables.system import System


class TensorBoard:
    """Writes each column of a report as a scalar; opens its file at the first one.

    Args:
        names: the system's table: column -> further tag, or tags. One `*` in a column stands for
            any text, which the `*` of its tag repeats (`train.loss.*` -> `Enhanced_Loss/*`); of
            several patterns that fit, the one with the longest fixed text counts.
        figures: name of a figure -> the tags that the document has for it.
    """

    def __init__(
        self,
        folder: Path,
        names: Mapping[str, str | tuple[str, ...]],
        figures: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.folder, self.names, self.figures = folder, names, dict(figures or {})
        self._tags: dict[str, tuple[str, ...]] = {}
        self._writer: Any = None

    def write(self, report: Report) -> None:
        step = report["step"]
        for column, value in report.items():
            if column == "step" or value is None or isinstance(value, str):
                continue
            if column not in self._tags:
                self._tags[column] = (column, *further_tags(column, self.names))
            for tag in self._tags[column]:
                self._file().add_scalar(tag, value, step)

    def wants(self, figure: str) -> bool:
        return figure in self.figures

    def draw(self, tags: Iterable[str], image: Tensor, step: int) -> None:
        """Draws a figure, [3, H, W] in [0, 1], under each tag."""
        for tag in tags:
            self._file().add_image(tag, image.cpu().numpy(), step)

    def _file(self) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # The name has whole seconds only: a second file of one second would replace the first.
            suffix = f".{time.time_ns()}"
            self._writer = SummaryWriter(str(self.folder), flush_secs=30, filename_suffix=suffix)
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def further_tags(column: str, names: Mapping[str, str | tuple[str, ...]]) -> tuple[str, ...]:
    """The tags that the table gives a column beside its own name."""
    fitting: tuple[str, ...] = ()
    fixed = -1
    for pattern, given in names.items():
        tags = (given,) if isinstance(given, str) else given
        head, star, tail = pattern.partition("*")
        if not star:
            if column == pattern:
                return tags
            continue
        fits = column.startswith(head) and column.endswith(tail)
        if fits and len(column) >= len(head) + len(tail) > fixed:
            fixed = len(head) + len(tail)
            middle = column[len(head) : len(column) - len(tail)]
            fitting = tuple(tag.replace("*", middle) for tag in tags)
    return fitting


def open_board(system: System, settings: Settings, folder: Path) -> TensorBoard:
    """TensorBoard with the tags of the system's document, where it has one."""
    names, figures = system.tensorboard_names(settings), system.tensorboard_figures(settings)
    return TensorBoard(folder, names, figures)
