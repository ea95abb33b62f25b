"""Earlier sweeps as rows for the sampler of a new one (`--warm-start`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from metrics.combined import Combined
from results.directory import Sweep, read_history, read_sweep
from search.log import COMPLETE, TrialRecord
from search.objectives import Goal
from search.warm import Earlier, Measured, Warm, warm_from
from search_spaces.space import Space
from settings.schema import SettingsError, Value


def read_warm(
    directories: Sequence[str | os.PathLike[str]],
    space: Space,
    goal: Goal,
    settings: Mapping[str, Value],
    derived: Sequence[Combined] = (),
) -> tuple[tuple[Warm, ...], list[str]]:
    """The rows of earlier sweeps, and a line on everything in them that is not valid in this one
    (`search.warm.warm_from`).

    Args:
        space: of the new sweep, bound to its settings.
        settings: of the new sweep, by dotted key.
        derived: the new sweep's objectives that are combinations of other columns. An earlier
            sweep must have combined the same columns with the same constants.

    Raises:
        SweepError: not a sweep directory, or one that cannot be read.
        SettingsError: a sweep whose values do not compare with this one's.
    """
    rows: list[Warm] = []
    notes: list[str] = []
    for directory in dict.fromkeys(os.fspath(directory) for directory in directories):
        sweep = read_sweep(directory)
        _check_derived(sweep, goal, derived)
        usable, lines = warm_from(read_earlier(sweep), space, goal, settings)
        rows += usable
        notes += lines
    return tuple(rows), notes


def read_earlier(sweep: Sweep) -> Earlier:
    """A sweep as plain data: its trials with any value, and the ill ones. Left out are repeats,
    which the sampler of their own sweep did not learn from either, and trials whose settings
    changed during training, since their values belong to no single configuration.
    """
    steps = int(sweep.settings["train.steps"])
    failures = int(sweep.options.get("max_failures") or 0)
    records = [t for t in read_history(sweep).trials if t.repeat_of is None and _is_steady(t)]
    trials = [
        Measured(t.number, t.sampled, values)
        for t in records
        if (values := _values(t, steps, sweep.objective.metric, failures))
    ]
    return Earlier(
        name=Path(sweep.path).name,
        system=sweep.system,
        modes={o.metric: o.mode for o in sweep.objectives},
        columns=sweep.goal.columns,
        settings=sweep.settings,
        trials=trials,
    )


def _values(
    trial: TrialRecord, steps: int, metric: str, max_failures: int
) -> dict[int, dict[str, float]]:
    """The columns that decisions read, by step; a log of format 1 has the value at the end alone.
    A training that stopped improving early has its last values at `steps` as well; one that was
    stopped for its health, or failed for good, has none.
    """
    if trial.infeasible or trial.has_failed(max_failures):
        return {step: {} for step in (*trial.rungs, steps)}
    values = {step: dict(columns) for step, columns in trial.rungs.items() if columns}
    if trial.status == COMPLETE and steps not in values:
        finite = {metric: trial.value} if trial.value == trial.value else {}
        values[steps] = dict(trial.values) or finite
    return values


def _is_steady(trial: TrialRecord) -> bool:
    return all(span.sampled == trial.sampled for span in trial.spans.values())


def _check_derived(sweep: Sweep, goal: Goal, derived: Sequence[Combined]) -> None:
    there = {combined.column: combined for combined in sweep.derived}
    for here in derived:
        if here.column in goal.columns and there.get(here.column, here) != here:
            raise SettingsError(
                f"--warm-start {sweep.path.name}: its {here.column} was {there[here.column]}, and "
                f"this sweep's is {here}. Leave it out, or choose the same constants."
            )
