"""What each sampler does with what it is told, against the library that it drives."""

from __future__ import annotations

import dataclasses
import math

import cmaes
import numpy as np
import optuna
import pytest
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from scipy.stats import qmc

from search.log import COMPLETE, FAILED, SweepState
from search.objectives import Constraint, Goal, Objective
from search.optuna.distributions import decode, distribution, encode
from search.samplers.ask import Row, ask, known_at
from search.samplers.cma import Replay
from search.seeds import derive
from search.warm import Warm
from search_spaces.domains import Choice, Integer, Uniform
from search_spaces.space import Point, Space


def bowl(sampled, step=None):
    return sum((value - 0.3) ** 2 for key, value in sampled.items() if key != "kind") + 0.1 * (
        sampled.get("kind") == "bad"
    )


def of(domains, plan):
    return dataclasses.replace(plan, space=Space("s", "toy", domains))


FLOATS = {f"x{i}": Uniform(-1.0, 1.0) for i in range(4)}
MIXED = {**FLOATS, "kind": Choice(("bad", "good"))}


def test_qmc_is_the_scrambled_sobol_sequence_in_the_order_of_trials(make_plan, executor):
    point = Point("document", {"x0": 0.0}, ())
    plan = of(FLOATS, make_plan(sampler="qmc", trials=17, points=(point,)))
    state = executor(plan, lambda sampled, step: 0.0).run(concurrent=3).state
    generator = np.random.default_rng(derive(plan.seed, "sampler"))
    expected = 2 * qmc.Sobol(4, seed=generator).random(16) - 1
    drawn = [list(state.trials[number].sampled.values()) for number in range(1, 17)]
    assert np.allclose(drawn, expected)
    for axis in np.array(drawn).T:  # one point in each sixteenth of every axis
        assert sorted(np.floor((axis + 1) * 8)) == list(range(16))


def test_qmc_passes_over_inactive_keys(make_plan):
    domains = {"on": Choice((True, False)), "x": Uniform(0.0, 1.0, when={"on": (True,)})}
    with_condition = of(domains, make_plan(sampler="qmc"))
    without = of({**domains, "x": Uniform(0.0, 1.0)}, make_plan(sampler="qmc"))
    for trial in range(20):
        whole, drawn = (ask(p, SweepState(), trial) for p in (without, with_condition))
        assert drawn == (whole if whole["on"] else {"on": False})


def test_cmaes_with_one_worker_is_the_packages_own_loop(make_plan, executor):
    plan = of(FLOATS, make_plan(sampler="cmaes", trials=40))
    state = executor(plan, bowl).run().state
    optimizer = cmaes.CMA(
        mean=np.full(4, 0.5), sigma=1 / 6, bounds=np.array([[0.0, 1.0]] * 4), n_max_resampling=40
    )
    population = []
    for number in range(40):
        optimizer.reseed_rng(derive(plan.seed, "sampler", number))
        unit = optimizer.ask()
        drawn = dict(zip(FLOATS, 2 * unit - 1, strict=True))
        assert state.trials[number].sampled == pytest.approx(drawn)
        population.append((unit, bowl(drawn)))
        if len(population) == optimizer.population_size:
            optimizer.tell(population)
            population = []
    assert optimizer.generation == 5


@pytest.mark.parametrize("domains", [FLOATS, MIXED], ids=["numbers", "choices"])
def test_cmaes_told_bit_by_bit_is_cmaes_told_at_once(make_plan, executor, domains):
    plan = of(domains, make_plan(sampler="cmaes", trials=60))
    state = executor(plan, bowl).run(concurrent=5).state
    rows = known_at(plan, state, plan.steps)
    grown = Replay(plan)
    for end in range(0, 61, 7):
        assert grown.follows(rows[:end])
        grown.tell(rows[:end])
    whole = Replay(plan)
    whole.tell(rows[:56])
    assert grown.draw(3) == whole.draw(3)
    changed = [rows[0]._replace(values={"val.error": 9.0}), *rows[1:]]
    assert not grown.follows(changed)


def test_cmaes_orders_by_constraints_first(make_plan):
    """Told that small x misses a constraint, it moves away from the objective's own minimum."""
    goal = Goal((Objective("val.error", "min"),), (Constraint("val.bound", ">=", 0.5),))
    plan = of(FLOATS, make_plan(sampler="cmaes", goal=goal))
    draw = np.random.default_rng(0)
    means = {}
    for bounded in (True, False):
        replay = Replay(plan)
        for generation in range(12):
            drawn = [replay.draw(derive(generation, "draw", i)) for i in range(8)]
            draw.shuffle(drawn)
            first = 8 * generation
            rows = [
                Row(first + i, d, {"val.error": d["x0"], "val.bound": d["x0"] if bounded else 1})
                for i, d in enumerate(drawn)
            ]
            told = [Row(n, {}, v) for n, v in replay.told]
            replay.tell([*told, *rows])
        means[bounded] = np.mean([replay.draw(i)["x0"] for i in range(50)])
    assert means[True] > 0.4
    assert means[False] < -0.6


def test_cmaes_begins_where_earlier_sweeps_were_good(make_plan):
    warm = tuple(
        Warm({f"x{i}": x for i in range(4)}, {90: {"val.error": abs(x - 0.8)}})
        for x in np.linspace(-1, 1, 41).tolist()
    )
    plan = of(FLOATS, make_plan(sampler="cmaes", warm=warm))
    found = np.mean([list(ask(plan, SweepState(), trial).values()) for trial in range(30)])
    assert found == pytest.approx(0.8, abs=0.1)


def test_inactive_keys_teach_cmaes_nothing(make_plan):
    """The spread of a key that is never active stays what it was."""
    domains = {
        "on": Choice((False, True)),
        "x": Uniform(0.0, 1.0),
        "y": Uniform(0.0, 1.0, when={"on": (True,)}),
    }
    plan = of(domains, make_plan(sampler="cmaes"))
    replay = Replay(plan)
    draw = np.random.default_rng(0)
    xs = np.clip(draw.normal(0.5, 1 / 6, size=60), 0, 1).tolist()
    errors = draw.random(60).tolist()
    replay.tell([Row(i, {"on": False, "x": xs[i]}, {"val.error": errors[i]}) for i in range(60)])
    spread = np.std([replay.draw(seed)["y"] for seed in range(200)])
    assert spread > 0.08  # 1/6 at the start; told one value 60 times, it would be below 0.01


def test_converged_cmaes_begins_anew_with_twice_the_population(make_plan):
    plan = of(FLOATS, make_plan(sampler="cmaes"))
    replay = Replay(plan)
    size = replay._optimizer.population_size
    rows = [Row(i, dict.fromkeys(FLOATS, 0.0), {"val.error": 0.0}) for i in range(200 * size)]
    replay.tell(rows)
    assert replay._optimizer.population_size >= 2 * size


GP = pytest.param("gp", marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["cmaes", GP, "nsga2", "tpe"])
def test_what_learns_beats_random(make_plan, executor, sampler):
    trials, best = {"gp": 18, "nsga2": 150}.get(sampler, 80), {}
    for name in ("random", sampler):
        plan = of(MIXED, make_plan(sampler=name, trials=trials, steps=10, report_every=10))
        regrets = [
            min(t.value for t in executor(p, bowl).run().state.trials.values())
            for p in (dataclasses.replace(plan, seed=seed) for seed in range(3))
        ]
        best[name] = sum(regrets)
    assert best[sampler] < 0.6 * best["random"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_tpe_beats_random_on_a_quadratic(mode, make_plan, executor):
    sign = 1.0 if mode == "min" else -1.0

    def objective(sampled, step=None):
        return sign * ((sampled["x"] - 0.3) ** 2 + (sampled["y"] + 0.2) ** 2)

    best = {}
    for sampler in ("random", "tpe"):
        regrets = []
        for seed in range(5):
            plan = make_plan(trials=30, seed=seed, mode=mode, sampler=sampler, steps=10)
            state = executor(plan, objective).run().state
            regrets.append(min(sign * record.value for record in state.trials.values()))
        best[sampler] = sum(regrets) / len(regrets)
    assert best["tpe"] < 0.5 * best["random"]


TWO = Goal((Objective("val.near", "min"), Objective("val.far", "max")))


@pytest.mark.parametrize("sampler", [GP, "nsga2", "qmc", "random", "tpe"])
def test_several_objectives_and_a_constraint(make_plan, sampler):
    """Asked over a cloud of trials whose left half misses the constraint."""
    goal = Goal(TWO.objectives, (Constraint.parse("val.bound>=0"),))
    plan = of(MIXED, make_plan(sampler=sampler, goal=goal, trials=200))
    draw, events = np.random.default_rng(1), [{"event": "started"}]
    for trial in range(60):
        sampled = {key: float(draw.uniform(-1, 1)) for key in FLOATS} | {"kind": "good"}
        values = {
            "val.near": math.dist([sampled[k] for k in FLOATS], [0.5] * 4),
            "val.far": -math.dist([sampled[k] for k in FLOATS], [0.2] * 4),
            "val.bound": sampled["x0"],
        }
        job = {"trial": trial, "segment": 0}
        events.append({"event": "handed_out", **job, "sampled": sampled, "seed": 0})
        end = {"state": "complete", "step": 90, "holds": [90], "values": values}
        events.append({"event": "ended", **job, **end, "value": values["val.near"]})
    state = SweepState(events)
    drawn = [ask(plan, state, number)["x0"] for number in range(60, 63 if sampler == "gp" else 90)]
    if sampler in ("gp", "nsga2", "tpe"):
        assert np.mean(np.array(drawn) > 0) > 0.75
    else:
        assert np.mean(np.array(drawn) > 0) < 0.75


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "tpe"])
def test_a_region_that_makes_trials_ill_is_left(make_plan, sampler):
    """What is stopped for its health there promised the least values."""
    plan = of({"x": Uniform(-1.0, 1.0), "n": Integer(1, 3)}, make_plan(sampler=sampler))
    events = [{"event": "started"}]
    for trial in range(60):
        x = (trial * 0.618) % 1 * 2 - 1
        job = {"trial": trial, "segment": 0}
        sampled = {"x": x, "n": 1 + trial % 3}
        events.append({"event": "handed_out", **job, "sampled": sampled, "seed": 0})
        end = {"state": "complete", "holds": [90], "step": 90}
        if x < 0:
            end = {"state": "stopped", "step": 20, "reason": "health: gradient norm"}
        events.append({"event": "ended", **job, **end, "value": x, "values": {"val.error": x}})
    state, asks = SweepState(events), 3 if sampler == "gp" else 12
    drawn = [ask(plan, state, number)["x"] for number in range(60, 60 + asks)]
    assert sum(x > -0.1 for x in drawn) >= 0.8 * asks


def test_tpe_with_conditions_draws_the_groups_that_optuna_finds(
    make_plan, conditional_space, executor
):
    """Each of them as soon as it is needed, and those that are not needed never."""

    def score(sampled, step=None):
        mode = abs(sampled["cap"] - 10) if "cap" in sampled else abs(sampled["start"] - 9.5) + 2
        return mode + sampled["width"] / 32 + len(sampled["widths"])

    domains = {k: v for k, v in conditional_space.domains.items() if k != "weight"}
    space = dataclasses.replace(conditional_space, domains=domains)
    plan = dataclasses.replace(make_plan(trials=40, sampler="tpe"), space=space)
    state = executor(plan, score).run().state
    study = optuna.create_study()
    for trial in state.trials.values():
        params = {key: encode(domains[key], value) for key, value in trial.sampled.items()}
        known = {key: distribution(domains[key]) for key in params}
        told = optuna.trial.create_trial(params=params, distributions=known, value=trial.value)
        study.add_trial(told)
    groups = _GroupDecomposedSearchSpace(False).calculate(study).search_spaces
    found = [dict(sorted(group.items())) for group in groups]
    assert sorted(map(len, found)) == [1, 2, 3]
    modes = set()
    for number in range(70, 90):
        reference = optuna.samplers.TPESampler(
            seed=derive(plan.seed, "sampler", number), multivariate=True, constant_liar=True
        )
        own = optuna.create_study(sampler=reference)
        own.add_trials(study.trials)
        asked, drawn = own.ask(), {}
        for key in space.order():
            if space.is_active(key, drawn, drawn) and key not in drawn:
                group = next(group for group in found if key in group)
                sampled = reference._sample_relative(own, asked._cached_frozen_trial, group)
                drawn |= {k: decode(domains[k], value) for k, value in sampled.items()}
        assert ask(plan, state, number) == drawn
        modes.add(drawn["mode"])
    assert modes == {"absolute", "learnable"}


def warm(values, count=14):
    """Rows of an earlier sweep over FLOATS, all with these values."""
    draw = np.random.default_rng(3)
    return tuple(
        Warm({key: float(draw.uniform(-1.0, 1.0)) for key in FLOATS}, values, f"old trial {n}")
        for n in range(count)
    )


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2"])
def test_an_earlier_sweep_in_which_all_failed_teaches_nothing(make_plan, sampler):
    plan = of(FLOATS, make_plan(trials=20, sampler=sampler))
    ill = dataclasses.replace(plan, warm=warm({plan.steps: {}}))
    assert ask(ill, SweepState(), 0) == ask(plan, SweepState(), 0)


def test_of_ill_trials_nine_are_told_for_each_sound_one(make_plan, executor):
    """A tenth is what TPE takes for good."""
    unlimited = {"max_failed_in_a_row": 0, "max_failed_share": 1.0}
    plan = of(FLOATS, make_plan(trials=60, sampler="tpe", max_failures=0, **unlimited))
    swept = executor(plan, bowl)
    for _ in range(40):
        job = swept.hand_out()
        if job.trial in (5, 17):
            swept.end(job.trial, COMPLETE, plan.steps, bowl(job.sampled))
        else:
            swept.end(job.trial, FAILED, 0, None)
    rows = known_at(plan, swept.state, plan.steps)
    sound = [row.number for row in rows if row.values]
    ill = [row.number for row in rows if not row.values]
    assert sound == [5, 17]
    assert ill == [n for n in range(40) if n not in sound][-18:]
