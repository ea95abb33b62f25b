"""Checks of objectives and constraints: a trial must never be judged by a number that its own
searched settings change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from metrics.combined import Combined
from search.objectives import Mode
from settings.flat import nearest_names
from settings.schema import SettingsError

RULE = (
    "Never judge a trial by its own weights or measure: a search that may change the yardstick "
    "improves the yardstick, not the model"
)


class Reads(Protocol):
    """A loss term, as far as it is read here."""

    @property
    def reads(self) -> tuple[str, ...]: ...


class Measure(Reads, Protocol):
    """A metric, as far as it is read here."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> Mode | None: ...


def check_objective(
    objectives: Sequence[str | Combined],
    metrics: Iterable[Measure],
    terms: Mapping[str, Reads],
    searched_keys: Collection[str],
    prefix: str = "loss",
) -> dict[str, Mode]:
    """The better direction of every objective, by column.

    Args:
        objectives: columns as the trial reports them (`val.hole_log_rmse`, `val.loss.l1`), and
            combinations of such columns, all smaller is better.
        metrics: of the system; their columns are `val.<name>`.
        terms: of the loss; their unweighted columns are `val.<prefix>.<term>`, smaller is better.
        searched_keys: every key that differs between trials: those of the space, and those a point
            sets.

    Raises:
        SettingsError: the column, or one that a combination is made of, does not exist, belongs to
            the training, is a weighted sum, a weight or a share, has no better direction, or reads
            a searched key; a combination of a column that is better the larger it is; two
            objectives of one column. The message lists the columns that may be used.
    """
    columns = _Columns(metrics, terms, searched_keys, prefix)
    modes: dict[str, Mode] = {}
    for objective in objectives:
        if isinstance(objective, Combined):
            column, mode = columns.combination(objective), "min"
        else:
            column, mode = objective, columns.mode(objective)
        if column in modes:
            raise SettingsError(
                f"{column} is an objective twice: one column a name, so one combination of each "
                "kind in a sweep."
            )
        modes[column] = mode  # type: ignore[assignment]  # "min" is one
    if not modes:
        raise SettingsError(f"a sweep needs an objective. {columns.usable}")
    return modes


def check_constraints(
    columns: Iterable[str],
    metrics: Iterable[Measure],
    terms: Mapping[str, Reads],
    searched_keys: Collection[str],
    prefix: str = "loss",
    derived: Iterable[Combined] = (),
) -> None:
    """Checks that columns may bound a trial: as objectives, but diagnostics are allowed as well,
    since the bound says which side is good.

    Args:
        derived: the combinations among the sweep's objectives, whose columns may be bounded, too.

    Raises:
        SettingsError: see `check_objective`.
    """
    reported = _Columns(metrics, terms, searched_keys, prefix)
    combinations = {combined.column for combined in derived}
    for column in columns:
        if column not in combinations:
            reported.check(column)


class _Columns:
    """The columns that a sweep's trials report, and which of them may judge a trial."""

    def __init__(
        self,
        metrics: Iterable[Measure],
        terms: Mapping[str, Reads],
        searched_keys: Collection[str],
        prefix: str,
    ) -> None:
        self.searched_keys = searched_keys
        self.columns: dict[str, tuple[Mode | None, Reads]] = {
            f"val.{metric.name}": (metric.mode, metric) for metric in metrics
        }
        self.columns |= {f"val.{prefix}.{name}": ("min", term) for name, term in terms.items()}

    @property
    def usable(self) -> str:
        """A sentence that lists the possible objectives."""
        fit = [
            column
            for column, (mode, reads) in self.columns.items()
            if mode is not None and _searched(reads, self.searched_keys) is None
        ]
        return f"Objectives that can be used here: {', '.join(fit) or 'none'}."

    def check(self, column: str, context: str = "") -> Mode | None:
        """The column's better direction, None for a diagnostic.

        Args:
            context: the use of the column; begins the message of a refusal.
        """
        reason = _weighted(column) or _training(column) or _unknown(column, self.columns)
        reason = reason or _reads_searched(column, self.columns[column][1], self.searched_keys)
        if reason:
            raise SettingsError(f"{context}{reason}. {self.usable}")
        return self.columns[column][0]

    def mode(self, column: str, context: str = "") -> Mode:
        """The better direction of a column; a diagnostic is refused."""
        mode = self.check(column, context)
        if mode is None:
            reason = f"{column} is a diagnostic without a better direction"
            raise SettingsError(f"{context}{reason}. {self.usable}")
        return mode

    def combination(self, combined: Combined) -> str:
        """The column of a combination, if the columns that it is made of may all be objectives."""
        if combined.column in self.columns:
            raise SettingsError(
                f"{combined.column} is a metric of the system already, so a combination cannot "
                "have that name. Use another kind, or the metric itself."
            )
        for column in combined.of:
            if self.mode(column, f"{combined.kind}: ") == "max":
                raise SettingsError(
                    f"{combined.kind}: {column} is better the larger it is, and a sum or ratio of "
                    "it with columns that are better the smaller they are judges nothing. Bound "
                    "it by a constraint, or make it a second objective."
                )
        return combined.column


def _unknown(column: str, columns: Collection[str]) -> str | None:
    if column in columns:
        return None
    nearest = nearest_names(column, columns)
    return f"there is no metric {column!r}. Nearest: {', '.join(nearest) or 'none'}"


def _reads_searched(column: str, measure: Reads, searched_keys: Collection[str]) -> str | None:
    match = _searched(measure, searched_keys)
    if match is None:
        return None
    key, pattern = match
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
    return f"{column} is measured on the training data; what judges a trial is a `val.` column"


def _searched(measure: Reads, searched_keys: Collection[str]) -> tuple[str, str] | None:
    """The first searched key that a measure reads, with the pattern that says so."""
    for key in sorted(searched_keys):
        for pattern in measure.reads:
            if fnmatchcase(key, pattern):
                return key, pattern
    return None
