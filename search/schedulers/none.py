"""No scheduler: every trial runs to its end."""

from __future__ import annotations

from search.log import SweepState, TrialRecord
from search.objectives import Values
from search.schedulers.base import Stopping, Verdict


class NoScheduler(Stopping):
    """Never judges a trial."""

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        return Verdict()
