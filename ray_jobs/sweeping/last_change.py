"""From which step on the loss of a sweep's trials no longer changes: no rung lies before it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from losses.schedules import ScheduleSettings, last_change_step
from losses.terms import TermSettings
from search_spaces.domains import Choice
from search_spaces.space import Point, Space
from settings.flat import Tree, replace
from settings.schema import SettingsError, Value
from trainables.configured import Configured


@dataclass(frozen=True)
class LastChange:
    """The step from which nothing changes any more, and what changes last, by its settings key
    ("" for nothing).
    """

    step: int = 0
    key: str = ""

    def note(self, steps: int, report_every: int) -> str:
        """What it means for the rungs of a sweep; "" where it forbids none."""
        first = math.ceil(self.step / report_every) * report_every
        if first <= report_every:
            return ""
        if first < steps:
            return f"no rung before step {first}: {self.key} changes until step {self.step}"
        return (
            f"no rung is possible, so every trial runs to its end: {self.key} changes until step "
            f"{self.step} of {steps}. End it earlier to compare trials on the way."
        )


def last_change(
    configured: Configured, space: Space, points: Sequence[Point] = ()
) -> LastChange:
    """The latest end of any schedule of a term that is on, of a phase (`Phase.schedules`), or of a
    learning rate's warm-up, over all phases: in the settings, in all that the space can draw, and
    in the documented points.

    Validation has the terms' plain values, so reports at different steps measure the same; but
    before this step trials are not trained under the loss that they are compared for. A weight
    that is searched acts as the weight times its factor so far, and a term that has not begun does
    not act at all: what is best at such a rung is another configuration. That holds for every
    change, so a schedule that moves until the end leaves no room for rungs, up or down.

    The decay of a learning rate does not count: it scales all terms alike. Nor does a balancer,
    whose weights follow the training and have no final value.
    """
    changes = [LastChange(), *_of_space(configured, space)]
    for point in points:
        changes += _of_point(configured.under(point.sampled), point.name)
    return max(changes, key=lambda change: change.step)


def _of_point(configured: Configured, name: str) -> Iterator[LastChange]:
    steps = configured.steps
    for phase in configured.phases:
        prefix = phase.composite.prefix
        for term, step in phase.composite.last_change_steps(steps).items():
            yield LastChange(step, f"{prefix}.{term}.schedule of point {name}")
        for key, node in phase.schedules.items():
            yield LastChange(last_change_step(node, steps), f"{key} of point {name}")
        warmup = f"{phase.optimizer}.warmup"
        share = cast(float, configured.values[warmup])
        yield LastChange(math.ceil(share * steps), f"{warmup} of point {name}")


def _of_space(configured: Configured, space: Space) -> Iterator[LastChange]:
    values, steps = configured.values, configured.steps
    for key, schedule in _schedules(configured, space).items():
        keys = [name for name in space.domains if name.startswith(f"{key}.")]
        for drawn in extremes(space, keys, values):
            yield LastChange(_schedule_step(schedule, drawn, key, steps), key)
    for phase in configured.phases:
        composite = phase.composite
        for name in composite.terms:
            term = f"{composite.prefix}.{name}"
            keys = [f"{term}.enabled", f"{term}.weight"]
            keys += [key for key in space.domains if key.startswith(f"{term}.schedule.")]
            node = getattr(composite.settings, name)
            for drawn in extremes(space, keys, values):
                step = _term_step(node, drawn, term, steps)
                yield LastChange(step, f"{term}.schedule")
        warmup = f"{phase.optimizer}.warmup"
        for drawn in extremes(space, [warmup], values):
            share = cast(float, drawn.get(warmup, values[warmup]))
            yield LastChange(math.ceil(share * steps), warmup)


def _schedules(configured: Configured, space: Space) -> dict[str, ScheduleSettings]:
    """The schedules of all phases, also those that only some searched kinds have."""
    every = (configured, *variants(configured, space))
    phases = (phase for each in reversed(every) for phase in each.phases)
    return {key: node for phase in phases for key, node in phase.schedules.items()}


def variants(configured: Configured, space: Space) -> Iterator[Configured]:
    """The system under each option of a searched choice, by which its phases may differ."""
    for key, domain in space.domains.items():
        if not isinstance(domain, Choice):
            continue
        for drawn in extremes(space, [key], configured.values):
            try:
                variant = configured.under(drawn)
                variant.phases  # noqa: B018  # made here, for they may be refused
            except SettingsError:  # no trial can have it: it fails by itself, and says so
                continue
            yield variant


def _term_step(node: TermSettings, drawn: Mapping[str, Value], term: str, steps: int) -> int:
    changed = _changed(node, drawn, term)
    return last_change_step(changed.schedule, steps) if changed and changed.is_on else 0


def _schedule_step(
    node: ScheduleSettings, drawn: Mapping[str, Value], key: str, steps: int
) -> int:
    changed = _changed(node, drawn, key)
    return last_change_step(changed, steps) if changed else 0


def _changed(node: Tree, drawn: Mapping[str, Value], key: str) -> Tree | None:
    """The node at a settings key under what was drawn; None where no trial can have it (a start
    after its end).
    """
    changes = {k.removeprefix(f"{key}."): v for k, v in drawn.items() if k.startswith(f"{key}.")}
    try:
        return replace(node, changes)
    except SettingsError:
        return None


def extremes(
    space: Space, keys: Collection[str], settings: Mapping[str, Value]
) -> list[dict[str, Value]]:
    """Every combination of the ends of the searched ones of `keys` that the space can draw, with
    what decides whether they are active.

    Schedules settle no earlier for a later start or end, so the ends have the extremes.
    """
    needed = dict.fromkeys(key for key in keys if key in space.domains)
    named: dict[str, list[Value]] = {}
    for key in reversed(space.order()):  # a condition's key comes before those that depend on it
        if key not in needed:
            continue
        for other, allowed in space.domains[key].when.items():
            needed.setdefault(other)
            named.setdefault(other, []).extend(allowed)
    drawn: list[dict[str, Value]] = [{}]
    for key in (key for key in space.order() if key in needed):
        domain = space.domains[key]
        options = dict.fromkeys([*domain.ends, *filter(domain.contains, named.get(key, ()))])
        drawn = [
            values | choice
            for values in drawn
            for choice in (
                [{key: option} for option in options]
                if space.is_active(key, {**settings, **values}, values)
                else [{}]
            )
        ]
    return drawn
