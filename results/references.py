"""What a sweep's references measure, and how its winner stands beside them: `references.json`,
`by_unit.json` and `test.json` of its directory (docs/sweep_directory.md).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrics.combined import combined_columns
from metrics.paired import FEWEST, Paired, crossed, is_dearer
from results.directory import Sweep, read_sweep
from results.ranking import documented
from settings.paths import SweepPaths
from settings.warning import warn

Measured = Mapping[str, Any]
"""As `trainables.reporting.references.Measured`."""

_MEASURED = ("about", "unit", "units")


def load_references(path: str | os.PathLike[str]) -> pd.DataFrame:
    """One row for each reference of a sweep over all its validation samples, and one for each
    unit (scene, patient, text) of them.

    Columns: reference, about (what it is), unit ("" for all samples), every `val.<metric>` and
    term `val.loss.<term>`, and the objectives that are made of them; NaN where a reference has no
    such value.

    Raises:
        SweepError: not a sweep directory.
    """
    sweep = read_sweep(path)
    rows = []
    for name, measured in read_references(sweep).items():
        parts = zip(["", *measured["unit"]], [measured, *by_unit(measured)], strict=True)
        for unit, columns in parts:
            values = _with_derived(sweep, columns)
            rows.append({"reference": name, "about": measured["about"], "unit": unit, **values})
    measures = dict.fromkeys([*sweep.metrics, *(key for row in rows for key in list(row)[3:])])
    frame = pd.DataFrame(rows, columns=["reference", "about", "unit", *measures])
    return frame.astype(dict.fromkeys(measures, "float64"))


def read_references(sweep: Sweep) -> dict[str, Measured]:
    """The references by name, those that do best by the first objective first; none before they
    are measured.
    """
    return _best_first(sweep, _read(SweepPaths(sweep.path).references, _MEASURED))


def _best_first(sweep: Sweep, measured: Mapping[str, Measured]) -> dict[str, Measured]:
    sign = 1.0 if sweep.objective.mode == "min" else -1.0

    def place(name: str) -> float:
        value = objective_of(sweep, measured[name])
        return sign * value if math.isfinite(value) else math.inf

    return {name: measured[name] for name in sorted(measured, key=place)}


def by_unit(measured: Measured) -> list[dict[str, float | None]]:
    """The columns of each unit."""
    return [
        {column: values[place] for column, values in measured["units"].items()}
        for place in range(len(measured["unit"]))
    ]


def objective_of(sweep: Sweep, columns: Mapping[str, Any]) -> float:
    """The first objective of measured columns; NaN for no value."""
    return column_of(sweep, columns, sweep.objective.metric)


def column_of(sweep: Sweep, columns: Mapping[str, Any], name: str) -> float:
    """A metric of measured columns, or what is made of them; NaN for no value."""
    return _with_derived(sweep, columns).get(name, math.nan)


def _with_derived(sweep: Sweep, columns: Mapping[str, Any]) -> dict[str, float]:
    """The measures among the columns, and the columns made of them."""
    report = {name: value for name, value in columns.items() if name.startswith("val.")}
    values = {**report, **combined_columns(sweep.derived, report)}
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def reference_columns(sweep: Sweep, value: np.ndarray) -> dict[str, np.ndarray]:
    """`vs_reference/<name>`: by how much a trial's value is better than that of each reference
    that has one, in its unit.

    Args:
        value: [n] the first objective.
    """
    sign = 1.0 if sweep.objective.mode == "min" else -1.0
    there = {name: objective_of(sweep, it) for name, it in read_references(sweep).items()}
    return {
        f"vs_reference/{name}": sign * (reference - value)
        for name, reference in there.items()
        if math.isfinite(reference)
    }


@dataclass(frozen=True)
class Gain:
    """By how much the winner is better than something beside it.

    Attributes:
        paired: over units; minus infinity where the winner has no value on a unit.
        overall: over all samples, as the objective is.
    """

    paired: Paired
    overall: float

    @property
    def beats(self) -> bool:
        """Whether it is better by two standard errors, and over all samples as well."""
        return self.paired.tells and self.paired.mean > 0.0 < self.overall

    def __str__(self) -> str:
        if self.paired.mean * self.overall >= 0.0:
            return str(self.paired)
        return f"{self.paired}, over all samples {self.overall:+.3g}"


@dataclass(frozen=True)
class Look:
    """What stands beside the winner, measured on the same samples.

    Attributes:
        number: of the look at the test split; 0 for the validation.
        references: by name, the best first.
        winner: its training, or its repeats in place of the training that chose it; measured as
            the references are.
        documented: the same of the documented point; empty where it is the winner, or was not
            measured.
        document: its name.
    """

    number: int
    references: Mapping[str, Measured]
    winner: Sequence[Measured]
    documented: Sequence[Measured]
    document: str

    def gains(self, sweep: Sweep) -> dict[str, Gain]:
        """By how much the winner is better than each reference that has the first objective and
        spends no more.
        """
        found = {
            name: _gain(sweep, self.winner, [reference])
            for name, reference in affordable(sweep, self.references, self.spent).items()
        }
        return {name: gain for name, gain in found.items() if gain is not None}

    @property
    def spent(self) -> dict[str, float]:
        """The columns of the winner, over its trainings where there are several."""
        found: dict[str, float] = {}
        for name in (name for name in self.winner[0] if name.startswith("val.")):
            values = [float(it[name]) for it in self.winner if it.get(name) is not None]
            if len(values) == len(self.winner):
                found[name] = sum(values) / len(values)
        return found

    def over_document(self, sweep: Sweep) -> Gain | None:
        """By how much it is better than the documented point; None where that cannot be said."""
        return _gain(sweep, self.winner, self.documented)


def affordable(
    sweep: Sweep, references: Mapping[str, Measured], spent: Mapping[str, float]
) -> dict[str, Measured]:
    """The references that can be compared with a winner: those that spend no more of their
    `costs` than it has spent. What is the first objective itself is no cost.
    """

    def is_one(measured: Measured) -> bool:
        costs = [cost for cost in measured.get("costs", ()) if cost != sweep.objective.metric]
        return not is_dearer(costs, measured, spent)

    return {name: it for name, it in references.items() if is_one(it)}


def gains_without_error(
    value: float, sweep: Sweep, references: Mapping[str, Measured]
) -> dict[str, Gain]:
    """By how much a value of the first objective is better than each reference, where there are
    too few units for an error, so that nothing need be measured by unit; nothing elsewhere.
    """
    sign = 1.0 if sweep.objective.mode == "min" else -1.0
    found = {}
    for name, measured in references.items():
        gain, units = sign * (objective_of(sweep, measured) - value), len(measured["unit"])
        if math.isfinite(gain) and units < FEWEST:
            found[name] = Gain(Paired(gain, None, units), gain)
    return found


def validation_look(frame: pd.DataFrame, sweep: Sweep) -> Look | None:
    """The winner by unit on the validation samples; None before that is measured.

    Args:
        frame: of `load_sweep`, one row a configuration.
    """
    measured = _read(SweepPaths(sweep.path).by_unit, (*_MEASURED, "configuration", "step"))
    return _look(frame, sweep, 0, read_references(sweep), measured)


def last_test(frame: pd.DataFrame, sweep: Sweep) -> Look | None:
    """The last look at the test split; None where there was none, or where it is another trial
    that leads now.
    """
    looks = _read(SweepPaths(sweep.path).test).get("looks", [])
    if not looks:
        return None
    last = looks[-1]
    return _look(frame, sweep, len(looks), last["references"], last["trials"])


def compared(frame: pd.DataFrame, sweep: Sweep) -> dict[int, tuple[int, int]]:
    """(the configuration, the step) of the trainings that a look measures, by trial: the winner's
    and the documented point's, or of both the complete repeats.

    Args:
        frame: of `load_sweep` with `repeats=True`.
    """
    configurations = frame[frame["repeat_of"].isna()]
    best = configurations.loc[configurations["is_best"], "trial"].tolist()
    document = documented(configurations, sweep)
    if document is not None and document["state"] == "complete" and best:
        best.append(document["trial"])
    found: dict[int, tuple[int, int]] = {}
    complete = frame["state"] == "complete"
    for number in dict.fromkeys(int(trial) for trial in best):
        drawn = frame[(frame["repeat_of"] == number).fillna(False) & complete]
        rows = drawn if len(drawn) else frame[frame["trial"] == number]
        found |= {int(row.trial): (number, int(row.steps)) for row in rows.itertuples()}
    return found


def _look(
    frame: pd.DataFrame,
    sweep: Sweep,
    number: int,
    references: Mapping[str, Measured],
    trials: Mapping[str, Measured],
) -> Look | None:
    """None where the winner of the frame is not among the trials at its step."""
    best, document = frame[frame["is_best"]], documented(frame, sweep)
    if best.empty:
        return None
    winner = _trainings(best.iloc[0], trials)
    if not winner:
        return None
    if document is not None and document["trial"] == best.iloc[0]["trial"]:
        document = None
    return Look(
        number=number,
        references=_best_first(sweep, references),
        winner=winner,
        documented=[] if document is None else _trainings(document, trials),
        document="" if document is None else str(document["point"]),
    )


def _trainings(row: pd.Series, trials: Mapping[str, Measured]) -> list[Measured]:
    """Those of a configuration: its repeats where it has some, all of them; else its own at its
    last step.
    """
    own = {int(key): it for key, it in trials.items() if it["configuration"] == row["trial"]}
    drawn = [it for trial, it in own.items() if trial != row["trial"]]
    repeats = int(row.get("repeats/n", 0) or 0)
    if repeats:
        return drawn if len(drawn) == repeats else []
    alone = own.get(int(row["trial"]))
    return [alone] if alone is not None and alone["step"] == row["steps"] else []


def _gain(sweep: Sweep, here: Sequence[Measured], there: Sequence[Measured]) -> Gain | None:
    """The gain over the units, by their names, on which what is there has a value; None where
    there is no such unit. Where neither has a value of any (an examination is of no unit), the
    gain over all, without an error.
    """
    if not here or not there:
        return None
    sign = 1.0 if sweep.objective.mode == "min" else -1.0
    mine = [_of_units(sweep, measured) for measured in here]
    other = [_of_units(sweep, measured) for measured in there]
    common = [unit for unit in mine[0] if all(unit in of for of in (*mine, *other))]
    units = [unit for unit in common if np.isfinite([of[unit] for of in other]).all()]
    whole = [np.mean([objective_of(sweep, it) for it in side]) for side in (here, there)]
    overall = float(sign * (whole[1] - whole[0]))
    if not units:
        has_units = any(math.isfinite(value) for of in (*mine, *other) for value in of.values())
        no_error = Gain(Paired(overall, None, 0), overall)
        return None if has_units or not math.isfinite(overall) else no_error
    ours, theirs = ([[sign * of[unit] for unit in units] for of in side] for side in (mine, other))
    if not np.isfinite(ours).all():
        return Gain(Paired(-math.inf, None, len(units)), -math.inf)
    return Gain(crossed(ours, theirs), overall)


def _of_units(sweep: Sweep, measured: Measured) -> dict[str, float]:
    values = (objective_of(sweep, columns) for columns in by_unit(measured))
    return dict(zip(measured["unit"], values, strict=True))


_told: set[Path] = set()


def _read(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """A file of measurements; nothing of one that is damaged, which is told once: the trials are
    there without it.

    Args:
        needs: what each of its entries has.
    """
    try:
        found = dict(json.loads(path.read_text()))
        lacking = [(name, key) for name in found for key in needs if key not in found[name]]
        if not lacking:
            return found
        problem = "{} without {}".format(*lacking[0])
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        problem = str(error)
    if path not in _told:
        _told.add(path)
        warn(f"{path} is damaged ({problem}) and left out. Remove it: a resume measures it again.")
    return {}
