"""The reasons why a training ends early, as text that trials write and sweeps read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

STOP_REASON = "stop_reason"
"""Column with the reason, in the last report of a training that ended early."""

PATIENCE = "patience: "
"""Start of the reason of a training that had stopped improving: its result counts as complete."""

HEALTH = "health: "
"""Start of the reason of a training that a health check stopped: no result, whatever its value."""

NO_OBJECTIVE = "no objective: "
"""Start of the reason of a training that has failed for good: it reached its end, and its last
report has no value of what it is judged by. The same settings and seed would end there again.
"""

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
        """The reason with six digits of the value, or with all where six would hide that it is
        beyond the threshold; the report has the exact one.
        """
        short = float(f"{value:.6g}")
        is_told = short != threshold and (short > threshold) == (value > threshold)
        return cls(name, short if is_told else value, threshold, step)

    @classmethod
    def parse(cls, reason: str) -> HealthStop | None:
        """The stop that a reason describes; None for any other reason."""
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


def no_objective(columns: Sequence[str], step: int) -> str:
    """The reason of a training that ended at `step` without a value in these columns."""
    return (
        f"{NO_OBJECTIVE}no finite value of {', '.join(columns)} at step {step}, where the "
        "training ended, and the same settings and seed end there again. Its reports say since "
        "when: change what leads there (often a learning rate that is too high)"
    )


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
