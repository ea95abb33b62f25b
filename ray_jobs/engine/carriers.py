"""What Ray Tune asks to be subclassed; each class only carries a decision of the driver.

Tune sees each segment of a trial as one of its own trials: `JobSearcher` hands segments out,
`StopCarrier` ends running ones, `SweepStopper` ends the sweep, `Ticker` calls the driver at each
turn of Tune's loop.
"""

from __future__ import annotations

from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ray_jobs.engine.driver import Driver
from search.jobs import Done, Job
from settings.stop_reasons import STOP_REASON

_VALUES = "values/"
"""Prefix of a report's values in the result of Tune, which joins the names of nested dicts."""

_live: dict[str, Driver] = {}


class DriverHandle:
    """Refers to a driver by its session: Tune pickles and copies what it is given, and there must
    be one driver only.
    """

    def __init__(self, driver: Driver) -> None:
        self.session = driver.context.session
        _live[self.session] = driver

    def __call__(self) -> Driver:
        return _live[self.session]

    def close(self) -> None:
        _live.pop(self.session, None)


class JobSearcher(Searcher):
    """Hands out the driver's jobs, with the trial's own values by dotted key."""

    def __init__(self, driver: DriverHandle) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> Any:
        job = self.driver().next(trial_id)
        if isinstance(job, Done):
            return Searcher.FINISHED
        if not isinstance(job, Job):
            return None
        keys = ("trial", "segment", "seed", "stop_step", "resume", "start")
        fields: dict[str, Any] = {key: getattr(job, key) for key in keys}
        fields["rungs"] = self.driver().rungs_of(job)
        fields["measures"] = self.driver().references.asked_of(trial_id)
        return {**job.sampled, "job": fields}

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        self.driver().ended(trial_id, failed=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the log is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class StopCarrier(FIFOScheduler):
    """Runs jobs first in, first out, and stops trials that the driver stops."""

    def __init__(self, driver: DriverHandle) -> None:
        super().__init__()
        self.driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        stop = self.driver().reported(
            trial.trial_id,
            int(result.get("step", 0)),
            _values(result),
            float(result.get("seconds", 0.0)),
            float(result.get("segment_seconds", 0.0)),
            str(result.get(STOP_REASON, "")),
        )
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits. Tune's own method goes through all trials, also those that
        have ended, ten times a segment.
        """
        live = {trial.trial_id: trial for trial in tune_controller.get_live_trials()}
        handed_out = (live[name] for name in self.driver().running if name in live)
        return next((trial for trial in handed_out if trial.status == Trial.PENDING), None)


def _values(result: dict) -> dict[str, float]:
    """The values of a report that decisions read, by column."""
    return {
        name.removeprefix(_VALUES): float(value)
        for name, value in result.items()
        if name.startswith(_VALUES)
    }


class SweepStopper(Stopper):
    """Ends the whole sweep once the driver is stopping (Ctrl-C, SIGTERM, time budget)."""

    def __init__(self, driver: DriverHandle) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.driver().stopping)


class Ticker(Callback):
    """Calls the driver's `tick` at every turn of Tune's loop."""

    def __init__(self, driver: DriverHandle) -> None:
        self.driver = driver

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self.driver().tick()
