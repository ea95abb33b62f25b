"""The table of a comparison: every arm, its paired difference to its control, and what needs no
training; a CSV file, and Markdown made of it alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from benchmarks.measuring.commands import ROOT
from metrics.paired import ERRORS, FEWEST, Paired, nested
from settings.atomic_file import atomic_file
from settings.schema import SettingsError
from settings.words import counted

TABLES = ROOT / "docs/findings/tables"

STAR = "*"
"""Marks a difference of two standard errors or more."""

Results = Mapping[str, Mapping[tuple[int, int], float]]
"""Arm -> (unit, seed) -> value of a column."""


@dataclass(frozen=True)
class Cell:
    """A row of the CSV file: one column of one arm, or of one reference.

    Attributes:
        arm: its name, or that of the reference.
        control: whom it is compared with; "" for a control and for a reference.
        units, seeds: how many there were; the seeds of all units together.
        value: mean over the units of the means over their seeds.
        value_error: its standard error over the units; None below `metrics.paired.FEWEST`.
        value_spread: standard deviation over the seeds of a unit; None for one seed a unit.
        pairs: units on which both the arm and its control have a value; 0 without a control.
        difference, difference_error, difference_spread: the same over them, of the paired
            difference to the control; None where there is none.
        difference_share: the difference as a share of the control's value; None where that is 0.
    """

    arm: str
    control: str
    column: str
    reference: bool
    units: int
    seeds: int
    value: float
    value_error: float | None = None
    value_spread: float | None = None
    pairs: int = 0
    difference: float | None = None
    difference_error: float | None = None
    difference_spread: float | None = None
    difference_share: float | None = None

    @property
    def paired(self) -> Paired | None:
        """The difference, by which it is judged whether it counts as one."""
        if self.difference is None:
            return None
        return Paired(self.difference, self.difference_error, self.pairs)


def cells(
    results: Mapping[str, Results],
    controls: Mapping[str, str],
    references: Mapping[str, Results] | None = None,
) -> list[Cell]:
    """The cells of a table, arm by arm in the order of `controls`, then the references. An arm
    without a value of a column has no cell; a difference is over what both arms have.

    Args:
        results: column -> results.
        controls: arm -> its control, "" for none.
        references: the same as `results` of what needs no training.
    """
    found = []
    for arm, control in controls.items():
        for column, by_arm in results.items():
            own, other = by_arm.get(arm, {}), by_arm.get(control, {})
            if own:
                found.append(_cell(arm, control, column, own, other))
    for column, by_name in (references or {}).items():
        for name, own in by_name.items():
            found.append(_cell(name, "", column, own, {}, reference=True))
    return found


def _cell(
    arm: str,
    control: str,
    column: str,
    own: Mapping[tuple[int, int], float],
    other: Mapping[tuple[int, int], float],
    *,
    reference: bool = False,
) -> Cell:
    value, spread = _by_unit(own)
    cell = Cell(
        arm=arm,
        control=control,
        column=column,
        reference=reference,
        units=value.units,
        seeds=len(own),
        value=value.mean,
        value_error=value.error,
        value_spread=spread,
    )
    both = {place: value - other[place] for place, value in own.items() if place in other}
    if not both:
        return cell
    difference, of_pairs = _by_unit(both)
    peer, _ = _by_unit({place: other[place] for place in both})
    return replace(
        cell,
        pairs=difference.units,
        difference=difference.mean,
        difference_error=difference.error,
        difference_spread=of_pairs,
        difference_share=difference.mean / abs(peer.mean) if peer.mean else None,
    )


def _by_unit(values: Mapping[tuple[int, int], float]) -> tuple[Paired, float | None]:
    """Mean and error over units, and the standard deviation over the seeds inside them."""
    units: dict[int, list[float]] = {}
    for (unit, _), value in sorted(values.items()):
        units.setdefault(unit, []).append(value)
    several = [stdev(seeds) ** 2 for seeds in units.values() if len(seeds) > 1]
    return nested(list(units.values())), math.sqrt(fmean(several)) if several else None


def results_of(
    frames: Mapping[tuple[int, int], pd.DataFrame], columns: Sequence[str]
) -> dict[str, Results]:
    """The last value of each column by arm, (unit, seed): those of complete trials that are
    finite. A column that no frame has is left out.
    """
    found: dict[str, dict[str, dict[tuple[int, int], float]]] = {}
    for place, frame in frames.items():
        complete = frame[frame["state"] == "complete"]
        for column in columns:
            if f"last/{column}" not in complete:
                continue
            of_column = found.setdefault(column, {})
            for arm, value in zip(complete["point"], complete[f"last/{column}"], strict=True):
                if math.isfinite(value):
                    of_column.setdefault(arm, {})[place] = float(value)
    return {column: found[column] for column in columns if column in found}


def references_of(
    measured: Mapping[tuple[int, int], Mapping[str, Mapping[str, Any]]], columns: Sequence[str]
) -> dict[str, Results]:
    """`references.json` of each sweep, in the form of `results_of`."""
    found: dict[str, dict[str, dict[tuple[int, int], float]]] = {}
    for place, by_name in measured.items():
        for name, values in by_name.items():
            for column in columns:
                if values.get(column) is not None:
                    found.setdefault(column, {}).setdefault(name, {})[place] = values[column]
    return {column: found[column] for column in columns if column in found}


def write_csv(path: Path, rows: Iterable[Cell]) -> None:
    """Writes a table; numbers with eight digits, "" for what is not known."""
    with atomic_file(path) as scratch, scratch.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Cell)])
        writer.writerows([_text(value) for value in asdict(row).values()] for row in rows)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def read_csv(path: Path) -> list[Cell]:
    """The table that `write_csv` wrote.

    Raises:
        SettingsError: it has other columns.
    """
    names = [field.name for field in fields(Cell)]
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    if head != names:
        raise SettingsError(
            f"{path}: a table has the columns {', '.join(names)}, not {', '.join(head)}. Make it "
            "again (python -m benchmarks.claims NAME --dir DIR --store TABLE)."
        )
    return [_read(dict(zip(names, row, strict=True))) for row in rows]


def _read(row: Mapping[str, str]) -> Cell:
    numbers = [f.name for f in fields(Cell) if f.name.startswith(("value", "difference"))]
    return Cell(
        arm=row["arm"],
        control=row["control"],
        column=row["column"],
        reference=row["reference"] == "True",
        units=int(row["units"]),
        seeds=int(row["seeds"]),
        pairs=int(row["pairs"]),
        **{name: float(row[name]) if row[name] else None for name in numbers},  # type: ignore[arg-type]
    )


def markdown(rows: Sequence[Cell]) -> str:
    """One row an arm, then one a reference, then what would have shown; below them how many
    differences chance would mark.
    """
    columns = list(dict.fromkeys(row.column for row in rows))
    by_arm: dict[tuple[str, str], dict[str, Cell]] = {}
    for row in rows:
        name = f"({row.arm})" if row.reference else row.arm
        by_arm.setdefault((name, row.control), {})[row.column] = row
    lines = [
        f"| arm | against | trainings | {' | '.join(columns)} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for (name, control), own in by_arm.items():
        count = "none" if name.startswith("(") else f"{max(row.seeds for row in own.values())}"
        texts = (_in_words(own[column]) if column in own else "" for column in columns)
        lines.append(f"| {name} | {control} | {count} | {' | '.join(texts)} |")
    if any(row.difference_error is not None for row in rows):
        shown = (_would_show(rows, column) for column in columns)
        lines.append(f"| a difference shows from | | | {' | '.join(shown)} |")
    return "\n".join([*lines, "", chance(rows)])


def _in_words(row: Cell) -> str:
    if row.value_error is not None:
        text = f"{row.value:.4g} ± {row.value_error:.2g}"
    else:
        text = f"{row.value:.4g}" + _spread(row.value_spread, " (", ")")
    if row.paired is None:
        return text
    star = f" {STAR}" if row.paired.tells else ""
    if row.paired.error is not None:
        return f"{text}; {row.paired.mean:+.3g} ± {row.paired.error:.2g}{star}"
    known = str(row.paired).removesuffix(")")
    return f"{text}; {known}{_spread(row.difference_spread, ', ', '')})"


def _spread(spread: float | None, before: str, after: str) -> str:
    """The spread of the seeds, by its name: it is no error."""
    return "" if spread is None else f"{before}seeds spread by {spread:.2g}{after}"


def _would_show(rows: Sequence[Cell], column: str) -> str:
    paired = [row.paired for row in rows if row.column == column and row.paired is not None]
    known = [pair.shows for pair in paired if pair.shows is not None]
    if not known:
        return ""
    low, high = f"{min(known):.2g}", f"{max(known):.2g}"
    return low if low == high else f"{low} to {high}"


def chance(rows: Sequence[Cell]) -> str:
    """How many differences the table has, how many are marked, and how many of them chance would
    mark if no arm differed: by Student's t with one degree of freedom less than units.
    """
    pairs = [row.paired for row in rows if row.paired is not None]
    errors = [pair for pair in pairs if pair.error is not None]
    if not errors:
        units = max((pair.units for pair in pairs), default=0)
        return (
            f"Differences: {len(pairs)}, none with an error: {counted(units, 'unit')}, and it "
            f"takes {FEWEST}. What the seeds spread by says nothing of other units."
        )
    expected = sum(_marked_by_chance(pair.units) for pair in errors)
    marked = sum(pair.tells for pair in errors)
    return (
        f"Differences: {len(errors)}, of which {marked} are marked ({STAR}, {ERRORS:g} standard "
        f"errors or more); chance alone would mark about {expected:.1f}."
    )


def _marked_by_chance(units: int) -> float:
    from scipy.stats import t

    return float(2.0 * t.sf(ERRORS, units - 1))
