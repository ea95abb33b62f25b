"""The progress of a sweep: one live table on a terminal, one plain line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ray_jobs.engine.driver import Driver, Running
from search.log import TrialRecord

LIVE_INTERVAL_SECONDS = 0.5
PLAIN_INTERVAL_SECONDS = 15.0
_SHOWN_ROWS = 12


class Progress:
    """Shows where a sweep is; `tick` is called at every turn of Tune's loop and mostly does
    nothing.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.began, self.last = time.monotonic(), 0.0
        self.steps_before = self._steps_done()
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if sys.stdout.isatty() else None
        self.said = ""
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
        if self.live:
            self.live.update(self._table(), refresh=True)
            self.live.stop()
        else:
            print(self._line(), flush=True)

    def _steps_done(self) -> int:
        """Steps of finished trials count whole, since they will never be trained again."""
        plan, state = self.driver.plan, self.driver.state
        done = sum(
            plan.steps
            for trial in state.trials.values()
            if trial.status in ("complete", "stopped", "failed")
        )
        return done + sum(running.step for running in self.driver.running.values())

    def _line(self) -> str:
        counts: dict[str, int] = {}
        for trial in self.driver.state.trials.values():
            counts[trial.status] = counts.get(trial.status, 0) + 1
        parts = [f"{count} {status}" for status, count in counts.items()]
        best = self._best()
        shown = (
            f"; best {self.driver.plan.metric} {best.value:.5g} (trial {best.number})"
            if best
            else ""
        )
        done = ", ".join(parts) or "none yet"
        return f"trials: {done} of {self.driver.plan.trials}{shown}{self._left()}"

    def _left(self) -> str:
        new = self._steps_done() - self.steps_before
        total = self.driver.plan.trials * self.driver.plan.steps
        left = total - self._steps_done()
        elapsed = time.monotonic() - self.began
        if new <= 0 or left <= 0:
            return f"; {elapsed:.0f} s"
        return f"; {elapsed:.0f} s, about {elapsed / new * left:.0f} s left"

    def _best(self) -> TrialRecord | None:
        done = [
            t
            for t in self.driver.state.trials.values()
            if t.status == "complete" and math.isfinite(t.value)
        ]
        sign = 1.0 if self.driver.plan.mode == "min" else -1.0
        return min(done, key=lambda trial: sign * trial.value, default=None)

    def _table(self) -> Table:
        plan = self.driver.plan
        table = Table(title=self._line(), title_justify="left")
        for column in ("trial", "state", "point", "step", plan.metric, "seconds"):
            table.add_column(column, justify="left" if column in ("state", "point") else "right")
        for running in list(self.driver.running.values()):
            table.add_row(*self._running_row(running))
        done = [t for t in self.driver.state.trials.values() if t.status != "running"]
        for trial in sorted(done, key=self._order)[:_SHOWN_ROWS]:
            value = f"{trial.value:.5g}" if math.isfinite(trial.value) else "-"
            table.add_row(
                str(trial.number), trial.status, trial.point or "", str(trial.step), value, ""
            )
        return table

    def _running_row(self, running: Running) -> tuple[str, ...]:
        value = f"{running.value:.5g}" if math.isfinite(running.value) else "-"
        job = running.job
        step = f"{running.step}/{job.stop_step}"
        return str(job.trial), "running", job.point or "", step, value, f"{running.seconds:.1f}"

    def _order(self, trial: TrialRecord) -> Any:
        sign = 1.0 if self.driver.plan.mode == "min" else -1.0
        finite = math.isfinite(trial.value)
        return (trial.status != "complete", not finite, sign * trial.value if finite else 0.0)
