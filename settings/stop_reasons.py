"""How a training says why it ended by itself: shared by those who train, decide and read."""

from __future__ import annotations

import re
from dataclasses import dataclass

STOP_REASON = "stop_reason"
"""Column of the last report of a training that ended by itself: why."""

PATIENCE = "patience: "
"""How the reason begins where it had stopped improving: such a result counts as a complete one."""

HEALTH = "health: "
"""How it begins where a sign of ill health has stopped it: no result, whatever its value."""

_HEALTH_STOP = re.compile(rf"{HEALTH}(\S+) (\S+) ([<>]) (\S+) at step (\d+)")


@dataclass(frozen=True)
class HealthStop:
    """A sign of ill health that ended a training; `str` writes the reason, `parse` reads it back.

    Attributes:
        name: of the sign, with the phase's in front where it is not the first.
        value, threshold: what was found at the last report, and the setting that it is beyond.
        step: of that report.
    """

    name: str
    value: float
    threshold: float
    step: int

    @classmethod
    def shortened(cls, name: str, value: float, threshold: float, step: int) -> HealthStop:
        """With six digits of the value, or with all where six would hide that it is beyond the
        threshold; the report has the exact one.
        """
        short = float(f"{value:.6g}")
        is_told = short != threshold and (short > threshold) == (value > threshold)
        return cls(name, short if is_told else value, threshold, step)

    @classmethod
    def parse(cls, reason: str) -> HealthStop | None:
        """Of a reason that says so, else None."""
        match = _HEALTH_STOP.fullmatch(reason)
        if match is None:
            return None
        try:
            return cls(match[1], float(match[2]), float(match[4]), int(match[5]))
        except ValueError:  # somebody else's text of the same form
            return None

    def __str__(self) -> str:
        relation = "<" if self.value < self.threshold else ">"
        numbers = f"{_plain(self.value)} {relation} {_plain(self.threshold)}"
        return f"{HEALTH}{self.name} {numbers} at step {self.step}"


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
