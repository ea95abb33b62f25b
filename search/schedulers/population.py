"""Population based training (Jaderberg et al. 2017).

All members of a population train side by side. At every interval the worst quarter gives up: each
of them continues from the weights of a member of the best quarter ("exploit"), with settings near
that member's ("explore"). The result is a schedule of settings as much as a model.

In the paper a member is compared with whatever the others have reached. Here members are compared
at equal steps, and a member continues once its place among all of them is certain. So a decision
depends neither on the number of slots nor on the order in which members finish, and a sweep that
is resumed or run again on another machine has the same outcome. A member is sure to continue as
soon as a quarter of the population is behind it; only those that may belong to the worst quarter
wait for the others.

A member is at most one interval ahead of the slowest. The checkpoint that a waiting member will
continue from is therefore one of the last three at which its owner's segments ended, and
`LocalRun.lends_checkpoints` keeps those. Only a population that a resume has grown (`--trials`)
has members whose checkpoint of a step is gone; they are compared there, and not copied.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from random import Random
from typing import Any

from search.log import COMPLETE, PAUSED, SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan
from search.schedulers.base import Continuation, Scheduler, Start, Verdict
from search.schedulers.explore import perturbed
from search.seeds import derive
from settings.schema import SettingsError

QUANTILE = 4
"""One member in this many gives up, and as many are copied (the paper's truncation selection)."""

LENT = 3
"""Segments at whose ends a member keeps its checkpoints (`trainables.loop.CHECKPOINTS_LENT`)."""


class Population(Scheduler):
    """Decides which member exploits which, and when; subclasses say how settings are explored.

    Documented points run apart: they are neither compared nor copied. A member that fails for
    good, is stopped or ends by itself leaves the population, and the quarter is one of the rest.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        name, members = plan.scheduler, plan.trials - len(plan.points[: plan.trials])
        if members < QUANTILE:
            raise SettingsError(
                f"{name} needs a population of {QUANTILE} trials or more beside the "
                f"{plan.trials - members} documented points, not {members}: raise --trials."
            )
        if not plan.rungs:
            raise SettingsError(
                f"{name} compares its trials every interval (--grace), and no interval ends "
                f"between step {plan.last_change} and train.steps ({plan.steps}). Shorten "
                "train.report_every or the interval."
            )
        if not plan.pausing:
            raise SettingsError(
                f"{name} moves weights between trials that end and go on every interval, which "
                "needs trials of one worker each: leave out --workers, or use another scheduler."
            )
        if plan.budget is not None and plan.budget < plan.trials:
            raise SettingsError(
                f"{name} trains all its {plan.trials} trials to the end: the budget must be "
                f"{plan.trials} trainings or more, not {plan.budget:g}. Leave it out."
            )
        if plan.repeats:
            raise SettingsError(
                f"{name} finds a schedule, and repeats train the last settings alone. Leave out "
                "--repeats; export the schedule and train it with other seeds (train.seed=N)."
            )

    def members(self, state: SweepState) -> list[TrialRecord]:
        """The trials that are compared and copied."""
        return [trial for trial in state.trials.values() if trial.is_asked_for]

    def start(self, state: SweepState) -> Start:
        return Start(self.plan.rungs[0])

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        return Verdict()

    def promotion(self, state: SweepState) -> Continuation | None:
        """The next member to continue: of those at the lowest step first one that copies, then by
        number.
        """
        if state.own_trials < self.plan.trials:
            return None  # a population is compared as a whole
        waiting: dict[int, list[int]] = {}
        for number in state.with_status(PAUSED):
            waiting.setdefault(state.trials[number].step, []).append(number)
        members = self.members(state)
        for step in sorted(waiting):
            if self._may_leave(members, step):
                continuation = self._decided(state, members, step, waiting[step])
                if continuation is not None:
                    return continuation
        return None

    def _may_leave(self, members: list[TrialRecord], step: int) -> bool:
        """Whether every member has left the interval before the one that ends at `step`."""
        return all(m.stop_step >= step or m.is_final(self.plan.max_failures) for m in members)

    def _decided(
        self, state: SweepState, members: list[TrialRecord], step: int, waiting: list[int]
    ) -> Continuation | None:
        stays = [m for m in members if not _left_early(self.plan, m, step)]
        there = [m for m in stays if step in m.rungs]
        count = len(stays) // QUANTILE or min(len(stays) // 2, 1)
        keys = self.plan.goal.badness([m.rungs[step] for m in there])
        ranked = sorted((key, m.number) for key, m in zip(keys, there, strict=True))
        after = self.plan.levels[self.plan.levels.index(step) + 1]
        if len(there) == len(stays):
            copiers = self._copiers(state, ranked, count, step)
            for number in waiting:
                if number in copiers:
                    return self._exploit(state, number, step, after, copiers[number])
            return Continuation(waiting[0], after)
        if len(self.plan.goal.objectives) > 1:
            return None  # ranks among fronts are certain once all are there
        certain = {number for _, number in ranked[: max(len(ranked) - count, 0)]}
        for number in waiting:
            if number in certain:
                return Continuation(number, after)
        return None

    def _copiers(
        self,
        state: SweepState,
        ranked: list[tuple[tuple[float, float], int]],
        count: int,
        step: int,
    ) -> dict[int, list[int]]:
        """The members that copy another one: each of the worst, with those of the best that it can
        copy and that are better than it, where there is one.
        """
        members = state.trials
        lending = [
            (key, number)
            for key, number in ranked
            if math.isfinite(key[1]) and self._still_has(members[number], step)
        ]
        copiers = {}
        for key, number in ranked[len(ranked) - count :]:
            # One that had ended before the other began was of a population that was whole, and
            # `--keep-checkpoints` may have left it none (`search.retention`).
            there = [(k, n) for k, n in lending if not _ended_before(members[n], number)]
            better = [source for source_key, source in there[:count] if source_key < key]
            if better:
                copiers[number] = better
        return copiers

    def _still_has(self, member: TrialRecord, step: int) -> bool:
        """Whether a member has its own checkpoint of a rung: of its latest segments, none of which
        began from another member's.
        """
        levels = self.plan.levels
        ahead = levels.index(member.stop_step) - levels.index(step)
        copied = any(span.start and begin >= step for begin, span in member.spans.items())
        return ahead < LENT and not copied

    def _exploit(
        self, state: SweepState, number: int, step: int, after: int, sources: list[int]
    ) -> Continuation:
        draw = Random(derive(self.plan.seed, "exploit", number, step))
        source = draw.choice(sources)
        sampled = self.explored(state, number, source, step)
        return Continuation(number, after, start=(source, step), sampled=sampled)

    @abstractmethod
    def explored(self, state: SweepState, number: int, source: int, step: int) -> dict[str, Any]:
        """The settings with which a member goes on from the checkpoint of `source` at `step`."""


class Pbt(Population):
    """Exploration by perturbation: every number one step up or down, a quarter of the choices
    drawn anew (`search.schedulers.explore`).
    """

    def explored(self, state: SweepState, number: int, source: int, step: int) -> dict[str, Any]:
        draw = Random(derive(self.plan.seed, "explore", number, step))
        return perturbed(self.plan.space, state.trials[source].sampled, draw)


def _left_early(plan: Plan, member: TrialRecord, step: int) -> bool:
    """Whether a member has left the population by a step: its training ends before that step, or
    it has failed for good or been stopped.
    """
    if member.status == COMPLETE:
        return member.step < step
    return member.is_final(plan.max_failures)


def _ended_before(member: TrialRecord, other: int) -> bool:
    """Whether a member had its last step behind it before another one began."""
    return member.status == COMPLETE and member.begun_before <= other
