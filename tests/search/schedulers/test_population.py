"""PBT and PB2: who exploits whom, what is explored, and that the log alone decides."""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.gp_model import IntervalData, IntervalModel, IntervalPosterior
from search.jobs import Job, next_job
from search.log import SweepState
from search.objectives import Constraint, Goal, Objective
from search.optuna.distributions import from_unit, to_unit
from search.plan import Plan
from search.rule import load_scheduler
from search.schedulers.explore import nudged, perturbed
from search.schedulers.pb2 import KAPPA, Pb2
from search.simulator import simulate
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Point, Space
from settings.schema import SettingsError

STEPS = 100
RATE = Space("rate", "toy", {"rate": LogUniform(1e-4, 1.0)})


def make_plan(**options):
    defaults = {"space": RATE, "trials": 8, "seed": 1, "steps": STEPS, "report_every": 5}
    defaults |= {"goal": Goal((Objective("cost", "min"),)), "sampler": "random"}
    return Plan(**{**defaults, "scheduler": "pbt", **options})


def progress(rate, step):
    """What a step gains: the best rate falls from 0.1 to 0.01 over the training."""
    return math.exp(-(((math.log10(rate) + 1.0 + step / STEPS) / 0.3) ** 2)) / STEPS


class World:
    """Trainings whose state is one number; a segment goes on from its checkpoint, its own or that
    of another trial.
    """

    def __init__(self):
        self.saved = {}  # (trial, step) -> (cost, trials whose training is in it)

    def __call__(self, job, step):
        own = [s for trial, s in self.saved if trial == job.trial and s < step]
        origin = job.start if job.start and job.start[1] >= max(own, default=0) else None
        origin = origin or ((job.trial, max(own)) if own else None)
        cost, begin = (self.saved[origin], origin[1]) if origin else (0.0, 0)
        for at in range(begin, step):
            cost -= progress(job.sampled["rate"], at)
        self.saved[job.trial, step] = cost
        return {"cost": cost}


def by_step(values):
    """Costs that trial and step alone decide."""
    return lambda job, step: {"cost": values[step][job.trial] if step in values else job.trial}


def lives(state):
    """All that a sweep has decided, without the order of its log."""
    return {
        trial.number: (
            trial.status,
            trial.value,
            {step: (span.sampled, span.start) for step, span in trial.spans.items()},
        )
        for trial in state.trials.values()
    }


class TestWhoExploitsWhom:
    def test_every_interval_is_a_tenth_of_the_training(self):
        plan = make_plan()
        assert plan.rungs == tuple(range(10, 100, 10))
        assert make_plan(grace=35).rungs == (35, 70)
        assert make_plan(last_change=22).rungs == tuple(range(30, 100, 10))
        assert make_plan(steps=7, report_every=2).rungs == (2, 4, 6)

    def test_the_worst_quarter_copies_the_best(self):
        """Eight members, costs by hand: 3 and 5 are the best, 0 and 6 the worst."""
        costs = {10: [9.0, 4.0, 5.0, 1.0, 6.0, 2.0, 8.0, 7.0]}
        plan = make_plan(steps=20)
        assert plan.rungs == (5, 10, 15)
        plan = make_plan(steps=20, rung_steps=(10,))
        state = simulate(plan, by_step(costs), workers=3).state
        copied = {n: t.spans[10].start for n, t in state.trials.items()}
        assert {n for n, start in copied.items() if start} == {0, 6}
        for number in (0, 6):
            source, step = copied[number]
            assert source in (3, 5) and step == 10
            ratio = state.trials[number].sampled["rate"] / state.trials[source].sampled["rate"]
            assert min(abs(ratio - factor) for factor in (0.8, 1.25)) < 1e-9
        for number in {1, 2, 3, 4, 5, 7}:
            assert state.trials[number].spans[10].sampled == state.trials[number].spans[0].sampled
        assert all(trial.status == "complete" for trial in state.trials.values())

    def test_equals_copy_nobody_and_not_finite_is_the_worst(self):
        plan = make_plan(steps=20, rung_steps=(10,))
        alike = simulate(plan, by_step({10: [1.0] * 8}), workers=2).state
        assert not any(trial.spans[10].start for trial in alike.trials.values())
        costs = {10: [1.0, math.nan, 1.0, 1.0, 1.0, 1.0, 1.0, math.inf]}
        state = simulate(plan, by_step(costs), workers=2).state
        assert {n for n, t in state.trials.items() if t.spans[10].start} == {1, 7}

    def test_those_that_break_a_constraint_are_the_worst(self):
        goal = Goal((Objective("cost", "min"),), (Constraint("size", "<=", 5.0),))
        plan = make_plan(steps=20, rung_steps=(10,), goal=goal)

        def observe(job, step):
            return {"cost": float(job.trial), "size": 9.0 if job.trial < 2 else 1.0}

        state = simulate(plan, observe, workers=8).state
        copied = {n: t.spans[10].start for n, t in state.trials.items() if t.spans[10].start}
        assert copied.keys() == {0, 1}
        assert {source for source, _ in copied.values()} <= {2, 3}

    @pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
    def test_of_several_objectives_the_diverged_are_the_worst(self, scheduler):
        """Seven of eight members: whoever copies, copies the one that is left."""
        goal = Goal((Objective("cost", "min"), Objective("size", "min")))
        plan = make_plan(scheduler=scheduler, steps=40, rung_steps=(10, 20, 30), goal=goal)

        def observe(job, step):
            cost = 1.0 if job.trial == 3 else math.nan
            return {"cost": cost, "size": float(job.trial)}

        state = simulate(plan, observe, workers=3).state
        sources = {s.start for t in state.trials.values() for s in t.spans.values() if s.start}
        assert sources == {(3, 10), (3, 20), (3, 30)}
        failed = {number for number, t in state.trials.items() if t.status == "failed"}
        assert failed == state.trials.keys() - {3}, "they have no cost at their end either"

    def test_points_run_apart(self):
        points = (Point("first", {"rate": 0.5}),)
        plan = make_plan(points=points, trials=9)
        state = simulate(plan, World(), workers=4).state
        assert list(state.trials[0].spans) == [0] and state.trials[0].step == STEPS
        sources = {s.start[0] for t in state.trials.values() for s in t.spans.values() if s.start}
        assert sources and 0 not in sources

    def test_a_member_that_fails_for_good_leaves_the_population(self, executor):
        plan = make_plan(trials=5, steps=20, rung_steps=(10,))
        run = executor(plan, lambda sampled, step: sampled["rate"])
        while isinstance(run.hand_out(), Job):
            pass
        run.end(2, "failed", 5, None)
        run.run(concurrent=5)
        others = [t for n, t in run.state.trials.items() if n != 2]
        assert [t.status for t in others] == ["complete"] * 4
        assert sum(t.spans[10].start is not None for t in others) == 1

    def test_at_most_one_interval_ahead(self):
        """A slow member holds the others back by one interval, so what they lend is kept."""
        plan = make_plan()
        seen = []

        def observe(job, step):
            seen.append((job.trial, step))
            return {"cost": float(job.trial)}

        simulate(plan, observe, workers=8, step_seconds=lambda job: 1 + 50 * (job.trial == 4))
        for index, (trial, step) in enumerate(seen):
            behind = [max((s for t, s in seen[:index] if t == n), default=0) for n in range(8)]
            assert step - min(behind) <= 30, (trial, step, behind)


class TestFromTheLogAlone:
    @pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
    def test_every_decision_replays_from_the_log_before_it(self, scheduler):
        plan = make_plan(scheduler=scheduler, steps=60, grace=10)
        events = simulate(plan, World(), workers=1).events
        handed = [i for i, event in enumerate(events) if event["event"] == "handed_out"]
        assert len(handed) == 8 * 6
        for index in handed:
            job = next_job(plan, SweepState(events[:index]))
            event = events[index]
            assert (job.trial, job.segment, job.stop_step) == (
                event["trial"],
                event["segment"],
                event["stop_step"],
            )
            assert dict(job.sampled) == event["sampled"]
            assert (list(job.start) if job.start else None) == event["from"]

    @settings(max_examples=min(15, settings.default.max_examples))
    @given(
        workers=st.integers(1, 9),
        pace=st.lists(st.integers(1, 7), min_size=8, max_size=8),
        objectives=st.integers(1, 2),
    )
    def test_slots_and_order_decide_nothing(self, workers, pace, objectives):
        """Random draws, and members that finish in any order, come to the same lives."""
        found = self.outcome(objectives, workers, lambda job: pace[job.trial])
        assert found == self.one_by_one(objectives)

    @staticmethod
    def outcome(objectives, workers, seconds):
        goal = Goal(tuple(Objective(name, "min") for name in ("cost", "rate")[:objectives]))
        world = World()

        def observe(job, step):
            return {**world(job, step), "rate": job.sampled["rate"]}

        plan = make_plan(goal=goal)
        return lives(simulate(plan, observe, workers=workers, step_seconds=seconds).state)

    @classmethod
    @functools.cache
    def one_by_one(cls, objectives):
        return cls.outcome(objectives, 1, lambda job: 1.0)

    @pytest.mark.parametrize("share", [0.1, 0.37, 0.6, 0.95])
    def test_a_driver_that_dies_changes_nothing(self, share):
        plan = make_plan()
        world = World()
        whole = simulate(plan, world, workers=3)
        cut = whole.events[: int(share * len(whole.events))]
        resumed = simulate(plan, world, workers=3, events=cut)
        assert lives(resumed.state) == lives(whole.state)


class TestWhatIsFound:
    def best_fixed(self):
        rates = np.logspace(-4, 0, 401)
        return min(-sum(progress(rate, step) for step in range(STEPS)) for rate in rates)

    @pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
    def test_a_schedule_beats_every_fixed_setting(self, scheduler):
        """The best rate falls by a decade: no fixed one of 401 gains what a schedule does."""
        fixed, found = self.best_fixed(), []
        for seed in range(3):
            plan = make_plan(scheduler=scheduler, seed=seed, trials=12)
            state = simulate(plan, World(), workers=4).state
            found.append(min(trial.value for trial in state.trials.values()))
        assert np.mean(found) < 1.1 * fixed

    def test_the_model_finds_the_better_settings(self):
        """Improvement has its peak at 0.7; the bound of a model of 40 rows has it nearby."""
        random = np.random.default_rng(0)
        x = np.column_stack([random.random(40), np.full(40, 0.5)])
        y = -((x[:, 0] - 0.7) ** 2) * 20.0
        data = IntervalData(x, np.repeat(np.arange(4.0), 10), (y - y.mean()) / y.std())
        model = IntervalModel(data)

        def bound(pending):
            mean, deviation = model.predict(grid, 4, pending)
            return mean + KAPPA * deviation

        grid = np.column_stack([np.linspace(0, 1, 101), np.full(101, 0.5)])
        before = bound(np.zeros((0, 2)))
        best = grid[np.argmax(before), 0]
        assert abs(best - 0.7) < 0.1
        taken = np.array([[best, 0.5]] * 3)
        assert (bound(taken) <= before + 1e-9).all()

    def test_members_that_explore_together_keep_apart(self):
        """The second of two that explore at a step knows what the first has taken."""
        plan = make_plan(scheduler="pb2", steps=60, grace=10)
        events = simulate(plan, World(), workers=8).events
        copies = [i for i, event in enumerate(events) if event.get("from")]
        pairs = [
            (one, other)
            for one, other in pairwise(copies)
            if events[one]["from"][1] == events[other]["from"][1]
        ]
        assert pairs
        for one, other in pairs:
            trial, (source, step) = events[other]["trial"], events[other]["from"]
            alone = SweepState(events[:one])
            explored = load_scheduler(plan).explored(alone, trial, source, step)
            assert explored != events[other]["sampled"]

    def test_the_gradient_of_the_likelihood(self):
        random = np.random.default_rng(1)
        times = np.repeat(np.arange(3.0), 4)
        data = IntervalData(random.random((12, 3)), times, random.normal(size=12))
        posterior = IntervalPosterior(data)
        theta = np.array([0.2, -0.4, 0.1, -0.8, -1.1])
        _, gradient = posterior(theta)
        for index in range(5):
            step = np.zeros(5)
            step[index] = 1e-5
            slope = posterior(theta + step)[0] - posterior(theta - step)[0]
            assert gradient[index] == pytest.approx(slope / 2e-5, rel=1e-5)


    def test_pb2_explores_where_constraints_are_kept(self):
        """The cost falls faster the larger the rate, and rates above 0.01 break the bound."""
        goal = Goal((Objective("cost", "min"),), (Constraint.parse("rate<=0.01"),))
        plan = make_plan(scheduler="pb2", trials=12, goal=goal)

        def observe(job, step):
            return {"cost": -math.log(job.sampled["rate"]) * step, "rate": job.sampled["rate"]}

        state = simulate(plan, observe, workers=12).state
        explored = [
            span.sampled["rate"]
            for trial in state.trials.values()
            for step, span in trial.spans.items()
            if step >= STEPS // 2 and span.start
        ]
        assert len(explored) >= 6
        assert sum(rate <= 0.01 for rate in explored) > len(explored) / 2


class TestExplore:
    domains = st.sampled_from(
        [
            LogUniform(1e-5, 10.0),
            Uniform(-2.0, 3.0),
            Uniform(0.0, 1.0, 0.25),
            Integer(1, 100),
            Integer(2, 20, step=6),
            Integer(1, 1000, log=True),
        ]
    )

    @given(domain=domains, position=st.floats(0.0, 1.0), seed=st.integers(0, 99))
    def test_a_step_stays_in_the_domain_and_moves(self, domain, position, seed):
        from random import Random

        value = from_unit(domain, position)
        assert domain.contains(value)
        moved = nudged(domain, value, Random(seed))
        assert domain.contains(moved) and type(moved) is type(value)
        assert moved != value
        assert abs(to_unit(domain, moved) - to_unit(domain, value)) <= 0.5 + 1e-9

    def test_choices_are_kept_or_drawn_anew_and_conditions_hold(self):
        from random import Random

        space = Space(
            "conditional",
            "toy",
            {
                "kind": Choice(("constant", "cosine")),
                "final": LogUniform(1e-3, 1.0, when={"kind": ("cosine",)}),
            },
        )
        found = [
            perturbed(space, {"kind": "cosine", "final": 0.1}, Random(seed)) for seed in range(800)
        ]
        share = sum(values["kind"] == "constant" for values in found) / len(found)
        assert share == pytest.approx(0.25 / 2, abs=0.04)
        assert all(("final" in values) == (values["kind"] == "cosine") for values in found)
        kept = {values["final"] for values in found if "final" in values}
        assert sorted(kept) == pytest.approx([0.08, 0.125])


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"trials": 3}, "population of 4 trials or more"),
            ({"pausing": False}, "trials of one worker each"),
            ({"budget": 4.0}, "budget must be 8 trainings or more"),
            ({"repeats": 2}, "repeats train the last settings alone"),
            ({"grace": 100}, "no interval ends"),
        ],
    )
    def test_what_a_population_cannot_do(self, options, words):
        with pytest.raises(SettingsError, match=words):
            load_scheduler(make_plan(**options))


def test_what_misses_a_bound_alike_has_not_improved():
    """The cost of a member behind a constraint does not move with the worst of the others."""
    goal = Goal((Objective("v", "min"),), (Constraint.parse("c<=0"),))
    space = Space("s", "toy", {"x": Uniform(0.0, 1.0)})
    plan = make_plan(
        trials=5, scheduler="pb2", steps=30, report_every=10, grace=10, goal=goal, space=space
    )
    ends = {10: (1.0, 1.1, 1.2, 5.0, 0.5), 20: (0.9, 1.0, 1.1, 1.3, 0.5)}
    events = []
    for segment, (step, values) in enumerate(ends.items()):
        for number, value in enumerate(values):
            at = {"trial": number, "segment": segment, "step": step}
            columns = {"v": value, "c": 0.5 if number == 4 else 0.0}
            begun = {"sampled": {"x": number / 5}, "seed": number, "stop_step": step}
            events.append({"event": "handed_out", "point": None, **at, **begun})
            events.append({"event": "rung", "value": value, "values": columns, **at})
            ended = {"state": "paused", "value": value, "values": columns}
            events.append({"event": "ended", **at, **ended})
    rows = Pb2(plan)._interval_rows(SweepState(events), 10, 20)
    gains = [row[2] for row in rows]
    assert max(gains) == gains[3], "the one that has improved"
    assert gains[4] == min(gains)  # nothing gained
