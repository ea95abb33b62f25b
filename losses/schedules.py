"""Schedules: pure functions of the step that scale a term's weight. They keep no state, so nothing
of them needs to be resumed.

Positions are fractions of `train.steps`, so one schedule serves a rung, a trial and a longer
training.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from settings.flat import flatten
from settings.schema import Settings, SettingsError, child_nodes, setting
from settings.show import value_text

KINDS = ("constant", "linear", "cosine", "warmup", "stages", "staircase", "step")

_WITH_KNOTS = ("stages", "staircase")

FINAL_VALUE = ("kind", "last", "factors")
"""The settings of a schedule that its final value depends on."""

_READ_BY = {
    "start": ("step", "warmup", "linear", "cosine"),
    "end": ("warmup", "linear", "cosine"),
    "first": ("step", "linear", "cosine"),
    "last": ("step", "linear", "cosine"),
    "positions": _WITH_KNOTS,
    "factors": _WITH_KNOTS,
}
"""The kinds that read each other setting of a schedule."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """How the factor on a term's weight moves over a training.

    constant: 1 throughout.
    step: `first` before `start`, `last` from there on.
    warmup: 0 before `start`, linear to 1 at `end`.
    linear, cosine: `first` until `start`, then to `last` at `end` on a line or half a cosine.
    stages: piecewise linear through (`positions[i]`, `factors[i]`), constant outside.
    staircase: `factors[i]` from `positions[i]` on, and the first one before.
    """

    kind: str = setting("constant", "shape of the factor over the training", choices=KINDS)
    start: float = setting(
        0.0, "where the change begins", unit="of train.steps", low=0.0, high=1.0
    )
    end: float = setting(1.0, "where the change ends", unit="of train.steps", low=0.0, high=1.0)
    first: float = setting(0.0, "factor before the change", low=0.0, high=1e3)
    last: float = setting(1.0, "factor after the change", low=0.0, high=1e3)
    positions: tuple[float, ...] = setting(
        (),
        "knots of `stages` and `staircase`, ascending",
        unit="of train.steps",
        low=0.0,
        high=1.0,
    )
    factors: tuple[float, ...] = setting((), "factor at each knot", low=0.0, high=1e3)

    def check(self) -> None:
        if self.kind in ("linear", "cosine", "warmup") and self.start > self.end:
            raise SettingsError(
                f"schedule {self.kind}: start {self.start} must not lie after end {self.end}."
            )
        if self.kind not in _WITH_KNOTS:
            return
        if len(self.positions) != len(self.factors) or not self.positions:
            raise SettingsError(
                f"schedule {self.kind} needs as many factors as positions and at least one, not "
                f"{len(self.positions)} positions and {len(self.factors)} factors."
            )
        if list(self.positions) != sorted(set(self.positions)):
            raise SettingsError(
                f"schedule {self.kind}: positions must ascend, not {self.positions}."
            )


def schedule_factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """The factor at `step` of a training of `steps` steps; the final value for every later
    step.
    """
    position = min(step / steps, 1.0) if steps > 0 else 1.0
    if settings.kind == "constant":
        return 1.0
    if settings.kind == "step":
        return settings.first if position < settings.start else settings.last
    if settings.kind == "stages":
        return piecewise(settings.positions, settings.factors, position)
    if settings.kind == "staircase":
        return settings.factors[max(bisect.bisect_right(settings.positions, position) - 1, 0)]
    first, last = (0.0, 1.0) if settings.kind == "warmup" else (settings.first, settings.last)
    progress = _progress(settings.start, settings.end, position)
    if settings.kind == "cosine":
        progress = (1.0 - math.cos(math.pi * progress)) / 2.0
    return first + (last - first) * progress


def unread(tree: Settings, searched: Collection[str] = ()) -> list[str]:
    """Settings of schedules that are not at their default and that the schedule's kind does not
    read, in words.

    Args:
        searched: keys; a schedule whose kind is among them is left out.
    """
    values, usual = flatten(tree), flatten(type(tree)())
    said = []
    for node in _schedule_nodes(type(tree)):
        kind = str(values[f"{node}.kind"])
        if f"{node}.kind" in searched:
            continue
        for name, kinds in _READ_BY.items():
            key = f"{node}.{name}"
            if kind not in kinds and values[key] != usual[key]:
                others = " or ".join(kinds)
                said.append(
                    f"{key}={value_text(values[key])} changes nothing, for {node}.kind={kind} "
                    f"does not read it. Leave it out, or set the kind to {others}."
                )
    return said


def _schedule_nodes(node: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, child in child_nodes(node).items():
        if issubclass(child, ScheduleSettings):
            yield f"{prefix}{name}"
        else:
            yield from _schedule_nodes(child, f"{prefix}{name}.")


def first_position(settings: ScheduleSettings) -> float:
    """The position up to which the factor is 0; 0 where it begins above, infinity where it is
    never above.
    """
    if settings.kind == "constant":
        return 0.0
    if settings.kind == "warmup":
        return settings.start
    if settings.kind in _WITH_KNOTS:
        above = [index for index, factor in enumerate(settings.factors) if factor > 0.0]
        if not above:
            return math.inf
        before = above[0] - 1 if settings.kind == "stages" else above[0]
        return settings.positions[before] if above[0] else 0.0
    if settings.first > 0.0:
        return 0.0
    return settings.start if settings.last > 0.0 else math.inf


def last_change_position(settings: ScheduleSettings) -> float:
    """The position from which the factor keeps its final value; 0 where it never changes."""
    if settings.kind == "constant":
        return 0.0
    if settings.kind == "warmup":
        return settings.end
    if settings.kind in _WITH_KNOTS:
        final = settings.factors[-1]
        held = itertools.takewhile(lambda factor: factor == final, reversed(settings.factors))
        knots = sum(1 for _ in held)
        return 0.0 if knots == len(settings.factors) else settings.positions[-knots]
    if settings.first == settings.last:
        return 0.0
    return settings.start if settings.kind == "step" else settings.end


def last_change_step(settings: ScheduleSettings, steps: int) -> int:
    """The first step of `steps` from which the factor keeps its final value."""
    position = last_change_position(settings)
    step = math.ceil(position * steps)  # one off where the product is rounded
    if step > 0 and (step - 1) / steps >= position:
        return step - 1
    return step + 1 if steps > 0 and step / steps < position else step


def _progress(start: float, end: float, position: float) -> float:
    if position >= end:
        return 1.0
    return 0.0 if position <= start else (position - start) / (end - start)


def piecewise(positions: tuple[float, ...], factors: tuple[float, ...], position: float) -> float:
    """The factor at a position on the lines through the knots; constant outside of them."""
    after = bisect.bisect_right(positions, position)
    if after == 0:
        return factors[0]
    if after == len(positions):
        return factors[-1]
    left, right = positions[after - 1], positions[after]
    share = (position - left) / (right - left)
    return factors[after - 1] + share * (factors[after] - factors[after - 1])
