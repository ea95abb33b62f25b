"""A mirror of the sweep as an Optuna journal, for optuna-dashboard and for people's own Optuna
code.

The log is the truth and the journal is never read back. It is written through Optuna's public
storage interface.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from search.distributions import distribution, encode
from search.jobs import is_final
from search.log import COMPLETE, STOPPED, Event, SweepState, TrialRecord
from search.plan import Plan

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState


class Mirror:
    """Follows the log of a sweep, event by event.

    Args:
        events: the log so far. The journal is made anew from it and put in the place of an older
            one in one step, so that a resumed sweep has every trial once.
    """

    def __init__(
        self, path: Path, plan: Plan, study_name: str, events: Iterable[Event] = ()
    ) -> None:
        self.path, self.plan, self.study_name = Path(path), plan, study_name
        self.state = SweepState()
        self._ids: dict[int, int] = {}
        self._finished: set[int] = set()
        self._written: dict[int, dict[int, float]] = {}
        self._distributions = {
            key: distribution(domain) for key, domain in plan.space.domains.items()
        }
        for event in events:
            self.state.apply(event)
        self._rebuild()

    def follow(self, event: Event) -> None:
        """Takes the next event of the log into the journal."""
        self.state.apply(event)
        if "trial" not in event:
            return
        trial = self.state.trials[event["trial"]]
        if trial.number not in self._ids:
            self._create(trial)
        elif trial.number in self._finished:
            return  # a late line; Optuna takes no change to a finished trial
        elif event["event"] == "rung":
            self._write_curve(trial)
        elif event["event"] == "ended":
            self._finish(trial)

    def _rebuild(self) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        for leftover in (fresh, Path(f"{fresh}.lock"), Path(f"{self.path}.lock")):
            leftover.unlink(missing_ok=True)
        self._open(fresh)
        for number in sorted(self.state.trials):
            self._create(self.state.trials[number])
        os.replace(fresh, self.path)
        self._open(self.path)

    def _open(self, path: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage: BaseStorage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=self._storage,
            study_name=self.study_name,
            direction="minimize" if self.plan.mode == "min" else "maximize",
            load_if_exists=True,
        )
        if "objective" not in study.user_attrs:
            study.set_user_attr("objective", self.plan.metric)
        self._study_id = self._storage.get_study_id_from_name(self.study_name)

    def _create(self, trial: TrialRecord) -> None:
        self._ids[trial.number] = self._storage.create_new_trial(
            self._study_id, self._frozen(trial)
        )
        self._written[trial.number] = dict(trial.rungs)
        if is_final(self.plan, trial):
            self._finished.add(trial.number)

    def _write_curve(self, trial: TrialRecord) -> None:
        written = self._written[trial.number]
        for step, value in trial.rungs.items():
            if step not in written or not _same(written[step], value):
                self._storage.set_trial_intermediate_value(self._ids[trial.number], step, value)
                written[step] = value

    def _finish(self, trial: TrialRecord) -> None:
        """A trial that will run again stays running."""
        if not is_final(self.plan, trial):
            return
        self._finished.add(trial.number)
        number = self._ids[trial.number]
        if trial.reason:
            self._storage.set_trial_user_attr(number, "reason", trial.reason)
        state, values = self._final(trial)
        self._storage.set_trial_state_values(number, state, values)

    def _final(self, trial: TrialRecord) -> tuple[TrialState, list[float] | None]:
        from optuna.trial import TrialState

        if trial.status == COMPLETE and math.isfinite(trial.value):
            return TrialState.COMPLETE, [trial.value]
        return (TrialState.PRUNED if trial.status == STOPPED else TrialState.FAIL), None

    def _frozen(self, trial: TrialRecord) -> FrozenTrial:
        """The trial as Optuna keeps it. What lies outside the space is an attribute: Optuna
        refuses it as a value.
        """
        from optuna.trial import TrialState, create_trial

        domains = self.plan.space.domains
        known = {**dict.fromkeys(domains), **trial.sampled}
        active = [
            key for key in self.plan.space.active(known) if domains[key].contains(known[key])
        ]
        state, values = (
            self._final(trial) if is_final(self.plan, trial) else (TrialState.RUNNING, None)
        )
        notes = {"point": trial.point, "reason": trial.reason, "seed": trial.seed}
        outside = {key: trial.sampled.get(key) for key in trial.outside}
        return create_trial(
            state=state,
            values=values,
            params={key: encode(domains[key], known[key]) for key in active},
            distributions={key: self._distributions[key] for key in active},
            user_attrs={
                **{k: v for k, v in notes.items() if v not in (None, "")},
                **_outside_note(outside),
            },
            intermediate_values=dict(trial.rungs),
        )


def _outside_note(outside: dict[str, object]) -> dict[str, object]:
    return {"outside": outside} if outside else {}


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
