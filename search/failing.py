"""Failing trials: what they are charged, and when a sweep is ended for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.log import FAILED, SOUND, SweepState
from search.optuna.distributions import share_between
from search.plan import Plan
from search_spaces.domains import Choice, Domain, same_value
from search_spaces.space import Space
from settings.words import counted

RARE = 0.05
"""Probability below which a part of the space is no chance."""

FEWEST_ENDED = 20
"""Trials that must have ended before their share of failures says anything."""


def least_charge(plan: Plan) -> int:
    """The steps that a failed trial is charged at least, however soon it failed: a budget that
    failures do not touch never ends where everything fails.
    """
    return plan.rungs[0] if plan.rungs else plan.report_every


def limits_of(plan: Plan) -> list[float]:
    """What a session writes into the log of its limits on failures."""
    return [plan.max_failed_in_a_row, plan.max_failed_share, plan.max_failures]


def too_many_failed(plan: Plan, state: SweepState) -> str:
    """Why the sweep must end for its failures; "" where it may go on."""
    if _is_row_too_long(plan, state):
        return f"{state.failed_in_a_row} failures in a row, without a report between them"
    before = state.failed_before
    sound = sum(state.count(status) for status in SOUND) - state.sound_before
    if _is_too_large(plan, state.count(FAILED) - len(before), sound):  # some may try again
        failed = sum(number not in before for number in failed_for_good(plan, state))
        if _is_too_large(plan, failed, sound):
            return f"{failed} of {counted(failed + sound, 'trial')} failed"
    return ""


def wider_limit(plan: Plan, state: SweepState) -> str:
    """The option that lets a sweep go on that was ended for its failures: the limit that has acted
    with twice the length of the row, or with half as far to go to a share of 1.
    """
    if _is_row_too_long(plan, state):
        return f"--max-failed-in-a-row {2 * plan.max_failed_in_a_row}"
    return f"--max-failed-share {(1.0 + plan.max_failed_share) / 2.0:g}"


def _is_row_too_long(plan: Plan, state: SweepState) -> bool:
    return 0 < plan.max_failed_in_a_row <= state.failed_in_a_row


def _is_too_large(plan: Plan, failed: int, sound: int) -> bool:
    ended = failed + sound
    return ended >= FEWEST_ENDED and failed > plan.max_failed_share * ended


def failed_for_good(plan: Plan, state: SweepState) -> list[int]:
    """The numbers of the trials that failed and will not be run again."""
    failed = state.with_status(FAILED)
    return [n for n in failed if state.trials[n].has_failed(plan.max_failures)]


@dataclass(frozen=True)
class Part:
    """A part of a key's domain in which some trials lie.

    Attributes:
        low, high: of a number; options: of a choice, sorted as the space names them.
        share: of the whole domain, by the domain's own scale.
        others: number of other trials that lie there as well.
    """

    key: str
    share: float
    others: int
    low: float = 0.0
    high: float = 0.0
    options: tuple[Any, ...] = ()

    def is_no_chance(self, count: int, keys: int) -> bool:
        """Whether so small a part hardly ever holds `count` random draws: below `RARE` for any of
        `keys`. Of uniform draws the range is `share` or less with a probability of
        n share^(n-1) - (n-1) share^n; for a choice share^n of each such set of options.
        """
        share = self.share
        if self.options:
            known = len(self.options)
            sets = math.comb(round(known / share), known)
            chance = sets * share**count
        else:
            chance = count * share ** (count - 1) - (count - 1) * share**count
        return chance * keys < RARE

    def __str__(self) -> str:
        if self.options:
            return f"{self.key} in {', '.join(map(str, self.options))}"
        if self.low == self.high:
            return f"{self.key} at {self.low:.4g}"
        return f"{self.key} from {self.low:.4g} to {self.high:.4g}"


def narrowest_part(
    space: Space, failed: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Part | None:
    """The part of one key's domain that holds all failed trials and the fewest of the others, the
    smallest where several do; None where no key sets them apart from the whole space.

    Args:
        failed, others: values by key.
    """
    parts = [
        _part(key, domain, [values[key] for values in failed], others)
        for key, domain in space.domains.items()
        if failed and all(key in values for values in failed)
    ]
    narrow = [part for part in parts if part.share < 1.0]
    return min(narrow, key=lambda part: (part.others, part.share), default=None)


def _part(
    key: str, domain: Domain, values: Sequence[Any], others: Sequence[Mapping[str, Any]]
) -> Part:
    if isinstance(domain, Choice):
        options = tuple(o for o in domain.options if any(same_value(o, v) for v in values))
        inside = sum(
            any(same_value(option, other[key]) for option in options)
            for other in others
            if key in other
        )
        return Part(key, len(options) / len(domain.options), inside, options=options)
    low, high = min(values), max(values)
    share = share_between(domain, low, high)
    inside = sum(key in other and low <= other[key] <= high for other in others)
    return Part(key, share, inside, low=low, high=high)
