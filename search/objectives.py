"""The goal of a sweep: objectives, constraints, and the order that they put trials in."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from search.pareto import crowded_ranks
from settings.schema import SettingsError

Mode = Literal["min", "max"]
Values = Mapping[str, float]
"""Values of a trial at one step, by column; a column that is absent was not finite."""

_CONSTRAINT = re.compile(r"\s*([\w.]+)\s*(<=|>=)\s*([^\s<>=]+)\s*")


@dataclass(frozen=True)
class Objective:
    """A report column and its better direction."""

    metric: str
    mode: Mode

    def cost(self, values: Values) -> float:
        """The value with the smaller the better; infinite where it is not finite."""
        return self.costs([values])[0]

    def costs(self, observed: Iterable[Values]) -> list[float]:
        """The cost of each of several trials."""
        sign = 1.0 if self.mode == "min" else -1.0
        name, isfinite, infinite = self.metric, math.isfinite, math.inf
        column = [values.get(name, infinite) for values in observed]
        return [sign * value if isfinite(value) else infinite for value in column]


@dataclass(frozen=True)
class Constraint:
    """A bound on a report column: `val.seam_error<=0.02`."""

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Reads `COLUMN<=NUMBER` or `COLUMN>=NUMBER`.

        Raises:
            SettingsError: neither of the two, or a bound that is not a finite number.
        """
        match = _CONSTRAINT.fullmatch(text)
        try:
            bound = float(match[3]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise SettingsError(
                f"constraint {text!r}: write COLUMN<=NUMBER or COLUMN>=NUMBER, such as "
                "'val.seam_error<=0.02' (in quotes: the shell reads < and >)."
            )
        return cls(match[1], match[2], bound)  # type: ignore[arg-type]  # the pattern's two

    def excess(self, values: Values) -> float:
        """The amount by which the bound is missed: 0 or less where it is kept, infinite where the
        value is not finite.
        """
        return self.excesses([values])[0]

    def excesses(self, observed: Iterable[Values]) -> list[float]:
        """The excess of each of several trials."""
        sign = 1.0 if self.relation == "<=" else -1.0
        name, limit, isfinite, infinite = self.metric, sign * self.bound, math.isfinite, math.inf
        column = [values.get(name, infinite) for values in observed]
        return [sign * value - limit if isfinite(value) else infinite for value in column]

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound!r}"


@dataclass(frozen=True)
class Goal:
    """Objectives and constraints of a sweep; the first objective gives a trial its `value`."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that a decision reads, each once."""
        names = [o.metric for o in self.objectives] + [c.metric for c in self.constraints]
        return tuple(dict.fromkeys(names))

    def reference_point(self, said: str | Mapping[str, float]) -> dict[str, float]:
        """The reference point of the hypervolume that somebody names, by objective.

        Args:
            said: `COLUMN=NUMBER,COLUMN=NUMBER`, or the numbers by column.

        Raises:
            SettingsError: there is one objective, or `said` is not one finite number for each of
                them.
        """
        names = [objective.metric for objective in self.objectives]
        if len(names) == 1:
            raise SettingsError(
                f"a reference point is where a hypervolume of several objectives ends, and there "
                f"is one, {names[0]}: leave it out."
            )
        if isinstance(said, str):
            pairs: Sequence[tuple[str, object]] = _pairs(said)
        else:
            pairs = list(said.items()) if isinstance(said, Mapping) else []
        numbers = {name: _number(value) for name, value in pairs}
        if len(pairs) != len(names) or not all(
            math.isfinite(numbers.get(name, math.nan)) for name in names
        ):
            raise SettingsError(
                f"reference point {said!r}: it needs one finite number for each objective. Write "
                f"{','.join(f'{name}=NUMBER' for name in names)}, or in Python a dict of these."
            )
        return {name: numbers[name] for name in names}

    def value(self, values: Values) -> float:
        """The first objective, NaN where it has no value."""
        return values.get(self.objectives[0].metric, math.nan)

    def violation(self, values: Values) -> float:
        """The sum of the amounts by which constraints are missed; 0 where all are kept."""
        return self.violations([values])[0]

    def violations(self, observed: Sequence[Values]) -> list[float]:
        """The violation of each of several trials."""
        sums = [0.0] * len(observed)
        for constraint in self.constraints:
            excesses = constraint.excesses(observed)
            sums = [total + max(excess, 0.0) for total, excess in zip(sums, excesses, strict=True)]
        return sums

    def missing(self, values: Values) -> list[str]:
        """The objectives that have no finite value."""
        columns = [objective.metric for objective in self.objectives]
        return [c for c in columns if not math.isfinite(values.get(c, math.nan))]

    def is_measured(self, values: Values) -> bool:
        """Whether every objective and constraint has a finite value."""
        return all(math.isfinite(values.get(column, math.nan)) for column in self.columns)

    def badness(
        self, observed: Sequence[Values], enough: int | None = None
    ) -> list[tuple[float, float]]:
        """[n] keys that sort the observations from best to worst.

        Feasible ones come first, then the others by their violation (Deb 2002). Among feasible
        ones: the cost of the one objective; of several, the non-dominated rank and, within a
        rank, the smaller the hypervolume that is lost without it the worse (Beume et al. 2007).
        What is not finite in an objective is the worst of its violation.

        Args:
            enough: how many of the best need a place of their own; those behind them may share
                one. None for all.
        """
        violations = self.violations(observed)
        costs = [objective.costs(observed) for objective in self.objectives]
        if len(costs) == 1:
            return list(zip(violations, costs[0], strict=True))
        rows = list(zip(*costs, strict=True))
        ranked = [
            index
            for index, row in enumerate(rows)
            if violations[index] == 0.0 and math.inf not in row
        ]
        places = crowded_ranks([rows[index] for index in ranked], enough)
        keys = [(broken, math.inf) for broken in violations]
        for index, place in zip(ranked, places, strict=True):
            keys[index] = (0.0, float(place))
        return keys

    def best(self, observed: Sequence[Values], count: int) -> list[int]:
        """The indices of the best `count` observations, best first, the earlier among equals."""
        keys = self.badness(observed, count)
        return heapq.nsmallest(count, range(len(keys)), key=keys.__getitem__)


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in text.split(",")]
    return [(name.strip(), value) for name, _, value in parts]


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return math.nan
