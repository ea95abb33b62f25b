"""Trials in Optuna's terms: state, values, parameters, constraints, user attributes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.log import COMPLETE, INTERRUPTED, PAUSED, STOPPED, TrialRecord
from search.optuna.distributions import distribution, encode
from search.plan import Plan
from settings.paths import SweepPaths
from settings.schema import listed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

HEALTH = "health"
"""The constraint that a trial violates if a health check has stopped it, or if one of its values
that are needed is not finite.
"""


class OptunaTrials:
    """Converter of a plan's trials to Optuna's."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._distributions = {k: distribution(d) for k, d in plan.space.domains.items()}

    def frozen(self, trial: TrialRecord, over: bool) -> FrozenTrial:
        """The trial as Optuna's `FrozenTrial`. Values outside the space become attributes, for
        Optuna refuses them as parameters. Settings that change during a trial are those at its
        start.
        """
        from optuna.trial import TrialState, create_trial

        domains = self.plan.space.domains
        first = trial.spans[min(trial.spans)].sampled if trial.spans else trial.sampled
        settings = {**dict.fromkeys(domains), **first}
        active = [
            key for key in self.plan.space.active(settings) if domains[key].contains(settings[key])
        ]
        state, values = self._final(trial) if over else (TrialState.RUNNING, None)
        return create_trial(
            state=state,
            values=values,
            params={key: encode(domains[key], settings[key]) for key in active},
            distributions={key: self._distributions[key] for key in active},
            user_attrs={name: note for name, note in self.notes(trial).items() if note != ""},
            intermediate_values=self.curve(trial),
            constraints=self._constraints(trial) if over else None,
        )

    def curve(self, trial: TrialRecord) -> dict[int, float]:
        """The first objective at every step of decision: Optuna has one curve a trial."""
        return {step: self.plan.goal.value(values) for step, values in trial.rungs.items()}

    def notes(self, trial: TrialRecord) -> dict[str, Any]:
        """User attributes by name; "" for an empty one."""
        waits = {PAUSED: f"paused at step {trial.step}", INTERRUPTED: INTERRUPTED}
        saved = trial.step and trial.status in (COMPLETE, STOPPED, PAUSED)
        folder = SweepPaths(Path()).trial(trial.number).checkpoints
        notes = {
            "seed": trial.seed,
            "bracket": trial.bracket if self.plan.rungs else "",
            "point": trial.point or "",
            "outside": {key: trial.sampled.get(key) for key in trial.outside} or "",
            "repeat_of": "" if trial.repeat_of is None else trial.repeat_of,
            "status": waits.get(trial.status, ""),
            "reason": trial.reason,
            "checkpoint": f"{folder}/step-{trial.step:08d}" if saved else "",
            "lineage": _lineage(trial),
        }
        for column in self.plan.goal.columns[1:]:
            curve = {str(s): v[column] for s, v in trial.rungs.items() if column in v}
            notes[f"{column} by step"] = curve or ""
        return notes

    def _constraints(self, trial: TrialRecord) -> dict[str, float]:
        """The amount by which each constraint is missed; 0 or less where it is kept."""
        excess = {str(c): c.excess(trial.values) for c in self.plan.goal.constraints}
        missed = {name: value for name, value in excess.items() if math.isfinite(value)}
        ill = trial.infeasible or len(missed) < len(excess)
        return {**missed, HEALTH: 1.0} if ill else missed

    def _final(self, trial: TrialRecord) -> tuple[TrialState, list[float] | None]:
        from optuna.trial import TrialState

        columns = [objective.metric for objective in self.plan.goal.objectives]
        if trial.status == COMPLETE and all(column in trial.values for column in columns):
            return TrialState.COMPLETE, [trial.values[column] for column in columns]
        ended = trial.status in (STOPPED, PAUSED)
        return (TrialState.PRUNED if ended else TrialState.FAIL), None


def _lineage(trial: TrialRecord) -> Any:
    """The steps at which a population member has changed its settings or taken over another's
    weights, with both; "" where there are none.
    """
    later = sorted(trial.spans)[1:]
    changes = {
        str(step): {
            "from": list(trial.spans[step].start or ()),
            "sampled": {key: listed(v) for key, v in trial.spans[step].sampled.items()},
        }
        for step in later
        if trial.spans[step].start
        or trial.spans[step].sampled != trial.spans[min(trial.spans)].sampled
    }
    return changes or ""
