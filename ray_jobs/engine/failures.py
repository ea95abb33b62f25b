"""What the failed trials of a sweep have in common, in words."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from search.failing import failed_for_good, narrowest_part
from search.log import SweepState
from search.plan import Plan
from settings.paths import SweepPaths

LONGEST = 300
"""Characters that are shown of an error's line."""

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")


def common_failure(plan: Plan, state: SweepState, directory: Path) -> list[str]:
    """Lines on the commonest error of a sweep's failed trials, and on where in the space the
    trials lie that had it; none without failures.

    Errors whose last lines differ in numbers alone (bytes, addresses, indices) count as the same.
    """
    by_error: dict[str, list[int]] = defaultdict(list)
    failed = failed_for_good(plan, state)
    lines = {number: _last_line(directory, state, number) for number in failed}
    for number in failed:
        by_error[_NUMBER.sub("#", lines[number])].append(number)
    if not by_error:
        return []
    alike = max(by_error.values(), key=len)
    told = [f"{len(alike)} of the {len(failed)} failed trials: {lines[alike[-1]]}"]
    told += _where(plan, state, alike)
    return told


def _where(plan: Plan, state: SweepState, alike: list[int]) -> list[str]:
    trials = state.trials
    inside = [trials[number].sampled for number in alike if not trials[number].outside]
    sound = [trial.sampled for trial in trials.values() if trial.rungs or trial.values]
    part = narrowest_part(plan.space, inside, sound)
    if part is None or len(inside) < 2:
        return []
    line = f"all of them have {part}, {part.share:.0%} of its range"
    if sound:
        line += f"; of the {len(sound)} trials with a value {part.others} lie there"
    return [line]


def _last_line(directory: Path, state: SweepState, number: int) -> str:
    """The last line of a trial's `error.txt`, or the reason that the log has."""
    try:
        text = SweepPaths(directory).trial(number).error.read_text(errors="replace")
    except OSError:
        text = state.trials[number].reason
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LONGEST] if lines else "no error was written"
