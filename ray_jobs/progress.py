"""The progress of a sweep: one live table on a terminal, one plain line now and then in a log."""

from __future__ import annotations

import math
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ray_jobs.engine.driver import Driver, Running
from search.forecast import forecast
from search.log import COMPLETE, FAILED, RUNNING, TrialRecord

LIVE_INTERVAL_SECONDS = 0.5
PLAIN_INTERVAL_SECONDS = 15.0
_SHOWN_ROWS = 12


class Progress:
    """Shows where a sweep is; `tick` is called at every turn of Tune's loop and mostly does
    nothing.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._ranks: list[int] = []
        self._ranked_of = 0  # complete trials when the ranks were made
        self.began, self.last = time.monotonic(), 0.0
        self.steps_before = self._steps_done()
        self.steps_expected = forecast(driver.plan, max(driver.max_concurrent, 1)).steps
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if sys.stdout.isatty() else None
        self.said = ""
        self.is_over = False
        if self.live:
            self.live.start()

    def tick(self) -> None:
        now = time.monotonic()
        interval = LIVE_INTERVAL_SECONDS if self.live else PLAIN_INTERVAL_SECONDS
        if now - self.last < interval:
            return
        self.last = now
        if self.live:
            self.live.update(self._table(), refresh=True)
        elif (line := self._line()) != self.said:
            self.said = line
            print(line, flush=True)

    def close(self) -> None:
        self.is_over = True
        if self.live:
            self.live.update(self._table(), refresh=True)
            self.live.stop()
        else:
            print(self._line(), flush=True)

    def _steps_lost(self) -> int:
        """Steps that were expected and will not come: those of trials that failed for good or had
        nothing more to gain. A budget gives them to other trials.
        """
        plan = self.driver.plan
        ended = self.driver.state.with_status(FAILED, COMPLETE) if plan.budget is None else ()
        trials = (self.driver.state.trials[number] for number in ended)
        over = (trial for trial in trials if trial.is_final(plan.max_failures))
        return sum(max(trial.stop_step - trial.step, 0) for trial in over)

    def _steps_done(self) -> int:
        """Steps trained so far, those of repeats as well: how far every trial has come."""
        at = {running.job.trial: running.step for running in self.driver.running.values()}
        trials = self.driver.state.trials.values()
        return sum(max(trial.step, at.get(trial.number, 0)) for trial in trials)

    def _line(self) -> str:
        counts: dict[str, int] = {}
        repeats = 0
        for trial in self.driver.state.trials.values():
            if trial.repeat_of is None:
                counts[trial.status] = counts.get(trial.status, 0) + 1
            else:
                repeats += trial.status == COMPLETE
        parts = [f"{count} {status}" for status, count in counts.items()]
        shown = ""
        if best := self._best():
            draw = "best draw of" if self.driver.plan.repeats else "best"  # which repeats may undo
            shown = f"; {draw} {self.driver.plan.metric} {best.value:.5g} (trial {best.number})"
        elif self._ranked() and self.driver.plan.goal.constraints:
            shown = "; none keeps the constraints yet"
        done = ", ".join(parts) or "none yet"
        plan = self.driver.plan
        size = f" of {plan.trials}"
        if plan.budget is not None:
            spent = sum(self.driver.state.steps.values()) / plan.steps
            size = f", {spent:.1f} of {plan.budget:g} trainings spent"
        again = f", {repeats} repeats" if repeats else ""
        return f"trials: {done}{size}{again}{shown}{self._left()}"

    def _left(self) -> str:
        done = self._steps_done()
        new = done - self.steps_before
        left = self.steps_expected - done - self._steps_lost()
        elapsed = time.monotonic() - self.began
        if self.is_over or new <= 0 or left <= 0:
            return f"; {elapsed:.0f} s"
        return f"; {elapsed:.0f} s, about {elapsed / new * left:.0f} s left"

    def _ranked(self) -> list[int]:
        """The complete trials that are no repeats, the best first; the order is exact for as many
        as the table shows. A complete trial does not change, so they are ranked again only when
        there are more.
        """
        state, goal = self.driver.state, self.driver.plan.goal
        complete = state.with_status(COMPLETE)
        if len(complete) != self._ranked_of:
            own = [number for number in complete if state.trials[number].repeat_of is None]
            keys = goal.badness([state.trials[number].values for number in own], _SHOWN_ROWS)
            self._ranks = [number for _, number in sorted(zip(keys, own, strict=True))]
            self._ranked_of = len(complete)
        return self._ranks

    def _best(self) -> TrialRecord | None:
        """The best that keeps the constraints: those that keep them are ranked first."""
        ranked = (self.driver.state.trials[number] for number in self._ranked())
        best = next((trial for trial in ranked if math.isfinite(trial.value)), None)
        kept = best and self.driver.plan.goal.violation(best.values) == 0.0
        return best if kept else None

    def _shown(self) -> list[TrialRecord]:
        """The best complete trials, and where there is room the best of the others, at whatever
        step, that are not running.
        """
        trials, ranked = self.driver.state.trials, self._ranked()
        shown = [trials[number] for number in ranked[:_SHOWN_ROWS]]
        if len(shown) < _SHOWN_ROWS:
            others = [t for n, t in trials.items() if t.status != RUNNING and n not in ranked]
            values = [{} if trial.infeasible else trial.values for trial in others]
            best = self.driver.plan.goal.best(values, _SHOWN_ROWS - len(shown))
            shown += [others[index] for index in best]
        return shown

    def _table(self) -> Table:
        plan = self.driver.plan
        table = Table(title=self._line(), title_justify="left")
        for column in ("trial", "state", "point", "step", plan.metric, "seconds"):
            table.add_column(column, justify="left" if column in ("state", "point") else "right")
        for running in list(self.driver.running.values()):
            table.add_row(*self._running_row(running))
        for trial in self._shown():
            value = _number(trial.value)
            table.add_row(
                str(trial.number), trial.status, trial.point or "", str(trial.step), value, ""
            )
        return table

    def _running_row(self, running: Running) -> tuple[str, ...]:
        value = _number(self.driver.plan.goal.value(running.values))
        job = running.job
        step = f"{running.step}/{job.stop_step}"
        return str(job.trial), "running", job.point or "", step, value, f"{running.seconds:.1f}"


def _number(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else "-"
