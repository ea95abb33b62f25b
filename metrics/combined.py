"""Several measures as one number with constants that no trial can change.

Reference weights, sums of log ratios and the worst ratio judge a model whose loss has many terms
by a single column, without the weights that the search is about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from settings.schema import SettingsError

Kind = Literal["weighted", "log_ratio", "worst_ratio"]
KINDS: tuple[str, ...] = get_args(Kind)

Reference = Callable[[Sequence[str]], Mapping[str, float]]
"""Gives the constants of the columns that were written without one."""

_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_COLUMN = re.compile(r"[\w.]+")
_FORM = "log_ratio(val.loss.l1=0.12,val.loss.grad=0.03)"


@dataclass(frozen=True)
class Combined:
    """A column made of other columns, smaller is better.

    With x_i the columns and c_i their constants, all above 0:

        weighted     sum_i c_i x_i         c_i the reference weights
        log_ratio    sum_i log(x_i / c_i)  c_i a reference run; the unit of a column shifts the
                                           values of all trials alike, so it cannot change their
                                           order
        worst_ratio  max_i x_i / c_i       (Chebyshev) the column that is worst off against the
                                           reference run

    Attributes:
        of: the constant of each column.
    """

    kind: Kind
    of: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"{self.kind!r} is none of {', '.join(KINDS)}.")
        if not self.of:
            raise SettingsError(f"{self.kind} is made of no column: write {_FORM}.")
        for column, constant in self.of.items():
            if not (math.isfinite(constant) and constant > 0.0):
                raise SettingsError(
                    f"{self.kind}: the constant of {column} must be a number above 0, not "
                    f"{constant}."
                )

    @classmethod
    def parse(cls, text: str, reference: Reference | None = None) -> Combined:
        """Reads `weighted(val.loss.l1=1,val.loss.grad=0.1)` and its like.

        Args:
            reference: asked once for the constants of the columns that have none; not for
                `weighted`, whose weights only a person can choose.

        Raises:
            SettingsError: not of that form, or a constant is missing, doubled or not above 0.
        """
        match = _CALL.fullmatch(text)
        if match is None or match[1] not in KINDS:
            raise SettingsError(
                f"objective {text!r}: a column, or {', '.join(f'{k}(...)' for k in KINDS)} of "
                f"columns, such as '{_FORM}' (in quotes: the shell reads brackets)."
            )
        parts = _parts(text, match[2])
        missing = [column for column, constant in parts.items() if constant is None]
        if missing and (match[1] == "weighted" or reference is None):
            way = "" if match[1] == "weighted" else ", or name a run that has them (--reference)"
            raise SettingsError(
                f"objective {text!r}: {', '.join(missing)} has no constant. Write "
                f"{missing[0]}=NUMBER{way}."
            )
        given = {column: constant for column, constant in parts.items() if constant is not None}
        if missing and reference is not None:
            given |= reference(missing)
        return cls(match[1], {column: given[column] for column in parts})  # type: ignore[arg-type]

    @property
    def column(self) -> str:
        """The name of its column in a report."""
        return f"val.{self.kind}"

    def value(self, report: Mapping[str, Any]) -> float:
        """The column's value of a report; NaN where an ingredient has none, or where a logarithm
        of what is not above 0 would be taken.
        """
        parts = []
        for column, constant in self.of.items():
            value = report.get(column)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                return math.nan
            parts.append(self._part(float(value), constant))
        if any(math.isnan(part) for part in parts):
            return math.nan
        return max(parts) if self.kind == "worst_ratio" else math.fsum(parts)

    def _part(self, value: float, constant: float) -> float:
        if self.kind == "weighted":
            return constant * value
        if self.kind == "worst_ratio":
            return value / constant
        # The difference, not the quotient, which may leave the range of a float.
        return math.log(value) - math.log(constant) if value > 0.0 else math.nan

    def to_json(self) -> dict[str, Any]:
        """The form that `sweep.json` stores."""
        return {"kind": self.kind, "of": dict(self.of)}

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> Combined:
        """The combination that `to_json` wrote."""
        return cls(node["kind"], {column: float(c) for column, c in node["of"].items()})

    def __str__(self) -> str:
        inner = ",".join(f"{column}={constant!r}" for column, constant in self.of.items())
        return f"{self.kind}({inner})"


def is_combined(text: str) -> bool:
    """Whether an objective is written as a combination and not as a column."""
    return "(" in text


def combined_columns(
    derived: Iterable[Combined], report: Mapping[str, Any]
) -> dict[str, float | None]:
    """The columns to add to a report; None where one has no value, as in every other column."""
    values = {combined.column: combined.value(report) for combined in derived}
    return {column: value if math.isfinite(value) else None for column, value in values.items()}


def _parts(text: str, inner: str) -> dict[str, float | None]:
    """Constants by column, None where none is written."""
    constants: dict[str, float | None] = {}
    for part in inner.split(","):
        column, has_constant, written = (piece.strip() for piece in part.partition("="))
        if not _COLUMN.fullmatch(column):
            raise SettingsError(f"objective {text!r}: {part.strip()!r} is no COLUMN=NUMBER.")
        if column in constants:
            raise SettingsError(f"objective {text!r} names {column} twice.")
        try:
            constants[column] = float(written) if has_constant else None
        except ValueError:
            raise SettingsError(
                f"objective {text!r}: {written!r} for {column} is no number."
            ) from None
    return constants
