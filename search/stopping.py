"""When a running trial ends early: the stopping form of asynchronous successive halving (Li et al.
2020).
"""

from __future__ import annotations

import math

from search.log import SweepState
from search.plan import Plan


def should_stop(
    plan: Plan, state: SweepState, trial: int, step: int, value: float | None
) -> str | None:
    """Why the trial stops after its report of `value` at `step`; None to go on.

    At a rung the trial goes on if its value is among the best floor(n / eta) of the n values
    recorded there up to its own, and always where n < eta. Ties go on. A value that is not finite
    is the worst.

    "Up to its own" makes the decision a function of the log: it does not matter whether the rung
    has been logged before the question, and a trial that reports a rung again after a crash is
    answered as it was the first time.

    Documented points run to their end whatever they report: a sweep promises the comparison with
    them, and a comparison at different lengths says nothing. Their values count at the rungs like
    any other.
    """
    if step not in plan.rungs or state.trials[trial].point is not None:
        return None
    earlier: list[float] = []
    for number, recorded in state.rung_records.get(step, []):
        if number == trial:
            break
        earlier.append(recorded)
    count = len(earlier) + 1
    passing = count // plan.eta
    if passing == 0:
        return None
    own = _badness(plan, value)
    better = sum(_badness(plan, other) < own for other in earlier)
    if better < passing:
        return None
    return f"asha: place {better + 1} of {count} at step {step}, {passing} pass"


def _badness(plan: Plan, value: float | None) -> float:
    """The value with the smaller the better, infinite where it is not finite."""
    if value is None or not math.isfinite(value):
        return math.inf
    return value if plan.mode == "min" else -value
