"""What the failed trials of a sweep have in common, in words."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from search.failing import failed_for_good, narrowest_part
from search.log import FAILED, SweepState
from search.plan import Plan
from settings.paths import SweepPaths

LONGEST = 500
"""Characters that are kept of an error's line."""

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")


def common_failure(plan: Plan, state: SweepState, directory: Path) -> list[str]:
    """Lines on the commonest error of a sweep's failed trials, and on where in the space the
    trials lie that had it; none without failures.

    Errors whose causes differ in numbers alone (bytes, addresses, indices) count as the same.
    """
    by_error: dict[str, list[int]] = defaultdict(list)
    failed = failed_for_good(plan, state)
    lines = {number: _last_line(directory, state, number) for number in failed}
    for number in failed:
        by_error[_NUMBER.sub("#", lines[number])].append(number)
    if not by_error:
        return []
    alike = max(by_error.values(), key=len)
    which = "the one failed trial" if len(failed) == 1 else None
    which = which or f"{len(alike)} of the {len(failed)} failed trials"
    return [f"{which}: {lines[alike[-1]]}", *_where(plan, state, alike)]


def _where(plan: Plan, state: SweepState, alike: list[int]) -> list[str]:
    trials = state.trials
    inside = [trials[number].sampled for number in alike if not trials[number].outside]
    others = [t for t in trials.values() if t.status != FAILED and (t.rungs or t.values)]
    sound = [trial.sampled for trial in others]
    part = narrowest_part(plan.space, inside, sound)
    if part is None or len(inside) < 2:
        return []
    if part.others == len(sound) and not part.is_no_chance(len(inside), len(plan.space.domains)):
        return []
    line = f"all of them have {part}, {part.share:.0%} of its range"
    if len(sound) == 1:
        line += f"; the one trial with a value lies {'there' if part.others else 'elsewhere'}"
    elif sound:
        line += f"; of the {len(sound)} trials with a value {part.others or 'none'} lie there"
    return [line]


def _last_line(directory: Path, state: SweepState, number: int) -> str:
    """The cause of a failure by the trial's `error.txt`, or else the reason that the log has."""
    try:
        text = SweepPaths(directory).trial(number).error.read_text(errors="replace")
    except OSError:
        text = state.trials[number].reason
    return cause_in(text) or "no error was written"


def cause_in(text: str) -> str:
    """The cause of a failure, by the text of `error.txt`: its last line; "" where it has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LONGEST] if lines else ""
