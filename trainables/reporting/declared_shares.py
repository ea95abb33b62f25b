"""The shares that the terms of a loss began with under the weights that its system declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from losses.composite import Composite
from losses.schedules import schedule_factor
from losses.terms import TermSettings
from metrics.health_signs import number
from trainables.parts import Phase
from trainables.run import Report
from trainables.stepping.train_settings import SystemSettings


class DeclaredShares:
    """What the sign `term_share` compares with.

    A term may be nearly all of the sum by design: the main squared error of `conditioner` is 0.92
    of it, the absolute error of `compression` 0.99. That is what their authors weighed, so the
    sign compares. It cannot compare with the training's own first report, where a term of 100
    times its weight is nearly all of the sum as well. It takes the *unweighted* values of the
    terms there, and the weights that the system's settings have by default: which term is how
    large is then measured, what a term should weigh is declared, and neither depends on a weight
    that somebody sets, searches or leaves to a balancer.

    Schedules are those of the training, at the step of the report: while the other terms warm up,
    a term that is all of the sum has not taken over.

    Attributes:
        first: unweighted value of each term (`loss.hole`) at the first report that measured it;
            with it a resumed training warns as an undisturbed one.
    """

    def __init__(self, settings: SystemSettings, phases: Sequence[Phase]) -> None:
        self.steps = settings.train.steps
        self.composites = [phase.composite for phase in phases]
        defaults = type(settings)()
        self.weights = {
            f"{composite.prefix}.{name}": _term(getattr(defaults, composite.prefix), name).weight
            for composite in self.composites
            for name in composite.terms
        }
        self.first: dict[str, float] = {}

    def look(self, report: Report) -> dict[str, float]:
        """The share, in [0, 1], of every term that the report has trained on. A phase without a
        sum above 0 has none.
        """
        shares: dict[str, float] = {}
        for composite in self.composites:
            parts = self._parts(composite, report)
            total = sum(parts.values())
            if total > 0.0:
                shares |= {key: min(max(part / total, 0.0), 1.0) for key, part in parts.items()}
        return shares

    def _parts(self, composite: Composite, report: Report) -> Mapping[str, float]:
        """Declared weight times first value of each term that was trained on."""
        last = max(int(number(report, "step") or 0) - 1, 0)
        parts = {}
        for name in composite.terms:
            key = f"{composite.prefix}.{name}"
            value = number(report, f"train.{key}")
            if value is not None:
                schedule = _term(composite.settings, name).schedule
                factor = schedule_factor(schedule, last, self.steps)
                parts[key] = self.weights[key] * factor * self.first.setdefault(key, value)
        return parts


def _term(node: object, name: str) -> TermSettings:
    term: TermSettings = getattr(node, name)
    return term
