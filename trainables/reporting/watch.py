"""Watches over the reports of a training: signs of ill health, and the rules by which a training
ends by itself.

The answers are functions of the reports alone, which are equal on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from losses.balancers.base import FixedWeights
from losses.balancers.components import Components
from losses.composite import Composite
from losses.terms import TermSettings
from metrics.health import HealthSettings, health_columns, health_stop
from metrics.health_signs import MeasuredSign, Watched, number, overfit_ratio, readings
from metrics.metric import Column, Metric
from settings.schema import SettingsError, listed
from settings.stop_reasons import PATIENCE, STOP_REASON, HealthStop
from settings.words import counted
from trainables.optimizing.optimizer import OptimizerSettings
from trainables.parts import Phase
from trainables.reporting.declared_shares import DeclaredShares
from trainables.run import Report
from trainables.stepping.train_settings import SystemSettings


class Watch:
    """Adds signs of ill health, and the reason to stop, to each report.

    Args:
        objective: (column, mode) that patience waits for; None for the first metric with a
            direction.
        warn: told of each finding once.
    """

    def __init__(
        self,
        settings: SystemSettings,
        phases: Sequence[Phase],
        metrics: Sequence[Metric | Column],
        objective: tuple[str, str] | None,
        health: HealthSettings | None,
        warn: Callable[[str], None],
    ) -> None:
        self.train, self.warn = settings.train, warn
        self.health = health
        self.phases = [watched(phase) for phase in phases]
        self.declared = DeclaredShares(settings, phases)
        self.objective = objective or _first_with_direction(metrics)
        if self.objective is None:
            _refuse_to_wait(settings, phases)
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        self.streaks: dict[str, int] = {}

    @property
    def read(self) -> frozenset[str]:
        """The columns of validation that the answers are made of, beside those of terms that are
        on.
        """
        signs = self.health.measured if self.health is not None else ()
        objective = self.objective[:1] if self.objective else ()
        return frozenset((*(sign.column for sign in signs), *objective))

    def look(
        self, report: Report, before: Report, idle: Collection[str] = ()
    ) -> dict[str, float | str | None]:
        """The columns to add to `report`; `before` is the trial's last one, empty for the first.
        Patience waits for the next report where its objective is among the `idle` columns, which
        this one has not measured.

        `stop_reason` is among them where the training ends here by itself. At the last step
        patience has nothing left to end, but a training that is ill there is no result, and says
        so.
        """
        added: dict[str, float | str | None] = {}
        ill = self._overfitted(report)
        if self.health is not None:
            step = _step(report)
            declared = self.declared.look(report)
            early = [sign.name for sign in self.health.measured if self._is_early(sign, step)]
            signs = list(readings(report, self.phases, self.health.measured, declared, early))
            columns, fresh = health_columns(signs, self.health, step, before)
            added.update(columns)
            for finding in fresh:
                self.warn(finding.text)
            self.streaks, stop = health_stop(signs, self.health, step, self.streaks)
            ill = ill or stop
        tired = self._out_of_patience(report, idle)
        if ill is not None:
            added[STOP_REASON] = str(ill)
        elif tired and _step(report) < self.train.steps:
            added[STOP_REASON] = tired
        return added

    def _is_early(self, sign: MeasuredSign, step: int) -> bool:
        since = getattr(self.health, sign.since) if sign.since else 0.0
        return bool(step < since * self.train.steps)

    def _out_of_patience(self, report: Report, idle: Collection[str]) -> str:
        """The reason for which `train.patience` ends the training, "" where it does not.

        Counted in validations (000-M19: the document's "100,000 epochs" were validations, ten
        epochs apart). A value that is not finite is no improvement.
        """
        if not self.train.patience or self.objective is None:
            return ""
        column, mode = self.objective
        if column in idle:
            return ""
        value = number(report, column)
        sign = 1.0 if mode == "min" else -1.0
        if value is not None and (self.best is None or sign * value < sign * self.best):
            self.best, self.best_step, self.waited = value, _step(report), 0
            return ""
        self.waited += 1
        if self.waited < self.train.patience:
            return ""
        best = (
            "has never had a value"
            if self.best is None
            else f"was best with {self.best:.6g} at step {self.best_step}"
        )
        return f"{PATIENCE}{column} {best}, {counted(self.waited, 'validation')} ago"

    def _overfitted(self, report: Report) -> HealthStop | None:
        """The documents' rule, which ends a training at once, whatever `health.*` says."""
        limit = self.train.overfit_ratio
        if not limit:
            return None
        first = self.phases[0]
        ratio = overfit_ratio(report, first.prefix, first.terms)
        if ratio is None or ratio <= limit:
            return None
        return HealthStop.shortened("overfit_ratio", ratio, limit, _step(report))

    def state(self) -> dict[str, Any]:
        """The state for the checkpoint, as JSON holds it."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "waited": self.waited,
            "streaks": self.streaks,
            "first": self.declared.first,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited = state["waited"]
        # Earlier versions had neither; the next report is the first one then.
        self.streaks = dict(state.get("streaks") or {})
        self.declared.first = dict(state.get("first") or {})


def goes_on(reason: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a training that ended by itself may go on: a setting of the rule that ended it has
    changed.

    Args:
        before, now: flat settings. A key that there was not before has not changed.
    """
    if reason.startswith(PATIENCE):
        rule = ["train.patience"]
    else:
        rule = ["train.overfit_ratio", *(key for key in now if key.startswith("health."))]
    return any(key in before and listed(before[key]) != listed(now[key]) for key in rule)


def _step(report: Report) -> int:
    return int(number(report, "step") or 0)


def watched(phase: Phase) -> Watched:
    """The names of a phase's columns, and the weights that a balancer must not let collapse.

    Weights that are small on purpose are not among them: those of a balancer that brings terms to
    one size, and that of a term with a schedule.
    """
    composite = phase.composite
    return Watched(
        name="" if phase.is_first else phase.name,
        prefix=composite.prefix,
        terms=tuple(name for name, term in composite.terms.items() if not term.unbounded),
        gradient_norm=f"{phase.column_prefix}.grad_norm",
        balanced=_balanced(phase.composite),
    )


def _balanced(composite: Composite) -> dict[str, float]:
    """One term of each component of the balancer, and its weight within."""
    balancer = composite.balancer
    if isinstance(balancer, FixedWeights) or balancer.equalises:
        return {}
    weighted = getattr(balancer, "keeps_weight_of", ())
    steady: dict[str, float] = {}
    for name in composite.terms:
        term: TermSettings = getattr(composite.settings, name)
        if term.is_on and term.schedule.kind == "constant":
            steady[name] = term.weight if name in weighted else 1.0
    groups: Components = getattr(balancer, "components", {name: {name: 1.0} for name in steady})
    within = ([(n, w * steady[n]) for n, w in of.items() if n in steady] for of in groups.values())
    return dict(of[0] for of in within if of)


def _refuse_to_wait(settings: SystemSettings, phases: Sequence[Phase]) -> None:
    """Refuses settings that wait for an objective, where there is none."""
    patience = settings.train.patience
    waiting = [f"train.patience={patience}"] if patience else []
    for phase in phases:
        node: OptimizerSettings = getattr(settings, phase.optimizer)
        waiting += [f"{phase.optimizer}.schedule=plateau"] if node.schedule == "plateau" else []
    if waiting:
        raise SettingsError(
            f"{' and '.join(waiting)} waits for a metric to improve, and no metric of this system "
            "has a better direction. Use train.patience=0 and another schedule."
        )


def _first_with_direction(metrics: Sequence[Metric | Column]) -> tuple[str, str] | None:
    for metric in metrics:
        if metric.mode is not None:
            return f"val.{metric.name}", metric.mode
    return None
