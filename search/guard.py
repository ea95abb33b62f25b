"""What may judge a trial: never a number that the trial's own searched settings change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from settings.flat import nearest_names
from settings.schema import SettingsError

Mode = Literal["min", "max"]

RULE = (
    "Never judge a trial by its own weights or measure: a search that may change the yardstick "
    "improves the yardstick, not the model"
)


class Reads(Protocol):
    """What a loss term declares."""

    @property
    def reads(self) -> tuple[str, ...]: ...


class Measure(Reads, Protocol):
    """What a metric declares."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> Mode | None: ...


def check_objective(
    objectives: Sequence[str],
    metrics: Iterable[Measure],
    terms: Mapping[str, Reads],
    searched_keys: Collection[str],
    prefix: str = "loss",
) -> dict[str, Mode]:
    """The better direction of every objective column.

    Args:
        objectives: columns as the trial reports them (`val.hole_log_rmse`, `val.loss.l1`).
        metrics: of the system; their columns are `val.<name>`.
        terms: of the loss; their unweighted columns are `val.<prefix>.<term>`, smaller is better.
        searched_keys: every key that differs between trials: those of the space, and those a point
            sets.

    Raises:
        SettingsError: the column does not exist, belongs to the training, is a weighted sum, a
            weight or a share, has no better direction, or reads a searched key. The message lists
            the columns that may be used.
    """
    columns: dict[str, tuple[Mode | None, Reads]] = {
        f"val.{metric.name}": (metric.mode, metric) for metric in metrics
    }
    columns.update({f"val.{prefix}.{name}": ("min", term) for name, term in terms.items()})
    usable = [
        column
        for column, (mode, reads) in columns.items()
        if mode is not None and _searched(reads, searched_keys) is None
    ]
    modes: dict[str, Mode] = {}
    for objective in objectives:
        reason = _weighted(objective) or _training(objective)
        reason = reason or _unknown(objective, columns)
        reason = reason or _unfit(objective, *columns[objective], searched_keys)
        mode = None if reason else columns[objective][0]
        if mode is None:
            raise SettingsError(f"{reason}. {_usable(usable)}")
        modes[objective] = mode
    if not modes:
        raise SettingsError(f"a sweep needs an objective. {_usable(usable)}")
    return modes


def _usable(columns: Collection[str]) -> str:
    return f"Objectives that can be used here: {', '.join(columns) or 'none'}."


def _unknown(column: str, columns: Collection[str]) -> str | None:
    if column in columns:
        return None
    nearest = nearest_names(column, columns)
    return f"there is no metric {column!r}. Nearest: {', '.join(nearest) or 'none'}"


def _unfit(
    column: str, mode: Mode | None, measure: Reads, searched_keys: Collection[str]
) -> str | None:
    if mode is None:
        return f"{column} is a diagnostic without a better direction"
    found = _searched(measure, searched_keys)
    if found is None:
        return None
    key, pattern = found
    reads = key if key == pattern else f"{pattern} (which includes {key})"
    return f"{column} reads {reads}, and the trials differ in {key}. {RULE}"


def _weighted(column: str) -> str | None:
    last = column.rsplit(".", 1)[-1]
    if last not in ("total", "share", "weight"):
        return None
    return (
        f"{column} is made of the loss weights. {RULE}: the weighted total grows with "
        "every weight, so a search on it drives all weights to their lower bounds"
    )


def _training(column: str) -> str | None:
    if not column.startswith("train."):
        return None
    return f"{column} is measured on the training data; an objective is a `val.` column"


def _searched(measure: Reads, searched_keys: Collection[str]) -> tuple[str, str] | None:
    """The first searched key that a measure reads, with the pattern that says so."""
    for key in sorted(searched_keys):
        for pattern in measure.reads:
            if fnmatchcase(key, pattern):
                return key, pattern
    return None
