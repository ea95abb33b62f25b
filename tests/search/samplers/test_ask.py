from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from search.log import SweepState
from search.objectives import Constraint, Goal, Objective
from search.options import SAMPLERS
from search.optuna.distributions import distribution, from_unit, to_unit
from search.samplers.ask import ask, known_at, level_of, rows_at
from search.samplers.optuna_samplers import HEALTH, history
from search.seeds import derive
from search.warm import Warm
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Point, Space
from settings.schema import SettingsError

ROOT = Path(__file__).resolve().parents[3]

ALL = sorted(SAMPLERS)


def score(sampled, step=None):
    mode = abs(sampled["cap"] - 10) if "cap" in sampled else abs(sampled["start"] - 9.5) + 2
    return mode + sampled["width"] / 32 + len(sampled["widths"])


@pytest.fixture(scope="module")
def conditional_plan(make_plan, conditional_space):
    return dataclasses.replace(make_plan(trials=30, sampler="tpe"), space=conditional_space)


@pytest.fixture(scope="module")
def halving(conditional_plan):
    """The same with rungs, so that a sampler meets several levels."""
    return dataclasses.replace(
        conditional_plan, scheduler="brackets", rung_steps=(10, 30), trials=26
    )


def test_every_sampler_of_the_plan_exists():
    for spelled in SAMPLERS.values():
        module, _, attribute = spelled.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def own(plan, sampler):
    return dataclasses.replace(plan, sampler=sampler)


@pytest.mark.parametrize("sampler", ALL)
def test_conditional_draws_hold_exactly_the_active_keys(
    halving, conditional_space, executor, sampler
):
    run = executor(own(halving, sampler), score).run(concurrent=3)
    modes = set()
    for record in run.state.trials.values():
        assert tuple(record.sampled) == conditional_space.active(record.sampled)
        for key, value in record.sampled.items():
            assert conditional_space.domains[key].contains(value)
        assert isinstance(record.sampled["widths"], tuple)
        modes.add(record.sampled["mode"])
    assert modes == {"absolute", "learnable"}


@pytest.mark.parametrize("sampler", ALL)
def test_every_draw_is_a_function_of_the_log(halving, executor, sampler):
    """Also of a log that has been read again: nothing is kept from ask to ask that matters."""
    plan = own(halving, sampler)
    run = executor(plan, score).run(concurrent=4)
    log = json.loads(json.dumps(run.log))
    for index, event in enumerate(log):
        if event["event"] == "handed_out" and not event["segment"] and event["trial"] % 5 == 3:
            drawn = ask(plan, SweepState(log[:index]), event["trial"], event["bracket"])
            assert drawn == run.state.trials[event["trial"]].sampled


PROGRAM = """
import dataclasses, importlib.util, json, sys
load = importlib.util.spec_from_file_location
def module(name):
    spec = load(name, f"tests/search/{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made
tools, here = module("conftest"), module("samplers/test_ask")
plan = dataclasses.replace(tools.plane(trials=30, sampler="tpe"), space=tools.CONDITIONAL)
print(json.dumps(tools.Executor(plan, here.score).run(concurrent=3).log))
"""


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_with_another_hash_seed_draws_the_same(
    conditional_plan, executor, hash_seed
):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    here = executor(conditional_plan, score).run(concurrent=3).log
    assert json.loads(done.stdout) == json.loads(json.dumps(here))


@pytest.mark.parametrize("sampler", ALL)
def test_another_seed_draws_something_else(make_plan, sampler):
    plan = make_plan(seed=1, sampler=sampler)
    first = ask(plan, SweepState(), 0)
    assert ask(make_plan(seed=1, sampler=sampler), SweepState(), 0) == first
    assert ask(make_plan(seed=2, sampler=sampler), SweepState(), 0) != first
    assert ask(plan, SweepState(), 1) != first


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_what_learns_nothing_does_not_look_at_the_log(make_plan, executor, sampler):
    plan = make_plan(sampler=sampler)
    state = executor(plan).run().state
    assert ask(plan, state, 40) == ask(plan, SweepState(), 40)


numbers = st.integers(-50, 50)
domains = st.one_of(
    st.builds(lambda low, width: Uniform(low, low + width), numbers, st.integers(1, 40)),
    st.builds(
        lambda low, count, step: Uniform(low * step, (low + count) * step, step=step),
        numbers,
        st.integers(1, 30),
        st.sampled_from([0.5, 0.25, 2.0]),
    ),
    st.builds(lambda low, ratio: LogUniform(low, low * ratio), st.floats(1e-6, 10), st.just(1e3)),
    st.builds(
        lambda low, count, step: Integer(low, low + count * step, step=step),
        numbers,
        st.integers(1, 30),
        st.integers(1, 7),
    ),
    st.builds(
        lambda low, width: Integer(low, low + width, log=True),
        st.integers(1, 9),
        numbers.map(lambda n: abs(n) + 1),
    ),
    st.sampled_from([Choice((True, False)), Choice((1, 2.5, 4)), Choice(((1, 2), (3,)))]),
)


@given(domain=domains, position=st.floats(0, 1, exclude_max=True))
def test_positions_and_values(domain, position):
    value = from_unit(domain, position)
    assert domain.contains(value)
    again = to_unit(domain, value)
    assert 0.0 <= again <= 1.0
    if isinstance(domain, LogUniform) or (isinstance(domain, Uniform) and domain.step is None):
        assert again == pytest.approx(position, abs=1e-9)
    else:
        assert from_unit(domain, again) == value


@settings(max_examples=min(8, settings.default.max_examples))
@given(drawn=st.lists(domains, min_size=2, max_size=5), seed=st.integers(0, 99))
@pytest.mark.parametrize("sampler", ALL)
def test_values_lie_in_their_domains_exactly(make_plan, executor, sampler, drawn, seed):
    """Through the log and back: a step is met to the last digit, a type is kept."""
    space = Space(
        "s", "toy", {"anchor": Uniform(0.0, 1.0), **dict(zip("abcde", drawn, strict=False))}
    )
    options = {"trials": 14, "seed": seed, "scheduler": "brackets", "rung_steps": (10, 30)}
    plan = dataclasses.replace(make_plan(sampler=sampler, **options), space=space)
    run = executor(plan, lambda sampled, step: sampled["anchor"]).run(concurrent=2)
    state = SweepState(json.loads(json.dumps(run.log)))
    for trial in state.trials.values():
        for key, domain in space.domains.items():
            assert domain.contains(trial.sampled[key])
            kinds = {type(option) for option in domain.ends}
            assert type(trial.sampled[key]) in kinds


def told(plan, state, step):
    rows = rows_at(plan, state, step, Random(0))
    return {row.number: row.values for row in rows}


@pytest.fixture
def eventful(make_plan, executor):
    """Every state that a trial can be in when the sampler is asked."""
    points = (
        Point("outside", {"x": 9.0, "y": 0.0}, ("x",)),
        Point("inside", {"x": 0.5, "y": 0.0}),
    )
    options = {"trials": 9, "points": points, "mode": "max", "scheduler": "asha", "eta": 2}
    run = executor(make_plan(rung_steps=(10, 20), max_failures=0, **options))
    for _ in range(9):
        run.hand_out()
    for trial in (0, 1, 2, 3, 5, 6):
        record = {"value": float(trial), "values": {"val.error": float(trial)}}
        run.write("rung", trial=trial, segment=0, step=10, judged=True, **record)
    run.end(1, "complete", 90, 7.0)
    run.end(2, "stopped", 10, 2.0, "asha: place 3")
    run.end(4, "complete", 90, None)  # not finite
    run.end(6, "stopped", 15, 6.0, "health: gradient norm")
    run.end(7, "failed", 0, None)
    return run


def test_what_a_sampler_is_told_of_a_rung(eventful):
    rows = told(eventful.plan, eventful.state, 10)
    assert rows == {
        1: {"val.error": 1.0},  # the point outside, number 0, is left out
        2: {"val.error": 2.0},
        3: {"val.error": 3.0},  # it runs on, and its value here is known
        5: {"val.error": 5.0},  # 4 was never seen here
        6: {},  # looked good, and was ill
        7: {},  # failed
        8: None,  # runs, and has no value anywhere
    }


def test_what_a_sampler_is_told_of_full_length(eventful):
    rows = told(eventful.plan, eventful.state, 90)
    assert rows == {1: {"val.error": 7.0}, 4: {}, 6: {}, 7: {}, 8: None}


def test_states_and_constraints_in_optunas_terms(eventful):
    rows = {t.number % (1 << 30): t for t in history(eventful.plan, eventful.state, 10, Random(0))}
    complete = {n for n, t in rows.items() if t.state == TrialState.COMPLETE}
    assert complete == {1, 2, 3, 5, 6, 7}
    assert rows[8].state == TrialState.RUNNING
    assert {n: rows[n].constraints[HEALTH] for n in complete} == {
        **dict.fromkeys((1, 2, 3, 5), -1.0),
        **dict.fromkeys((6, 7), 1.0),
    }
    assert rows[3].values == [3.0]
    assert rows[6].values == [1.0]  # the worst there: the mode is max
    assert rows[1].params == {"x": 0.5, "y": 0.0}


def test_where_all_are_well_health_is_no_constraint(make_plan, executor):
    goal = Goal((Objective("val.error", "min"),), (Constraint.parse("val.error<=0.5"),))
    plan = make_plan(goal=goal, trials=4)
    state = executor(plan).run().state
    for trial in history(plan, state, 90, Random(0)):
        assert trial.constraints == {"val.error<=0.5": pytest.approx(trial.values[0] - 0.5)}


def test_repeats_are_not_told(make_plan, executor):
    plan = make_plan(trials=4, repeats=2, repeat_top=2)
    state = executor(plan).run().state
    assert len(state.trials) == 8
    assert [row.number for row in known_at(plan, state, 90)] == [0, 1, 2, 3]


def test_a_rung_that_is_reported_again_counts_with_its_last_value(make_plan, executor):
    run = executor(make_plan(scheduler="asha", rung_steps=(10,)))
    run.hand_out()
    run.report(0)
    before = known_at(run.plan, run.state, 10)[0].values["val.error"]
    again = {"value": before + 1, "values": {"val.error": before + 1}}
    run.write("rung", trial=0, segment=0, step=10, judged=True, **again)
    assert known_at(run.plan, run.state, 10)[0].values == {"val.error": before + 1}


def test_a_failed_trial_that_will_try_again_counts_as_running(make_plan, executor):
    run = executor(make_plan(max_failures=1))
    run.hand_out()
    run.end(0, "failed", 0, None)
    assert told(run.plan, run.state, 90) == {0: None}
    run.hand_out()
    run.end(0, "failed", 0, None)
    assert told(run.plan, run.state, 90) == {}  # no trial has a value that it is worse than
    run.hand_out()
    run.end(1, "complete", 90, 1.0)
    assert told(run.plan, run.state, 90) == {0: {}, 1: {"val.error": 1.0}}


def test_levels_are_learnt_from_as_soon_as_they_have_enough(make_plan, executor):
    plan = make_plan(scheduler="asha", rung_steps=(10, 30), trials=60)
    run = executor(plan).run()
    counts = {step: len(run.state.rungs[step]) for step in plan.levels}
    assert counts[10] == 60
    enough = [step for step in plan.levels if counts[step] >= 10]
    found = [level_of(plan, run.state, 0, Random(seed)) for seed in range(200)]
    assert set(found) == set(enough)
    assert found.count(max(enough)) > 100  # half of them, and its share of the others
    assert level_of(plan, SweepState(), 0, Random(0)) == plan.steps


def test_warm_rows_are_learnt_from_at_once(make_plan):
    grid = [(i % 6 / 3 - 1, i // 6 / 3 - 1) for i in range(36)]
    warm = tuple(
        Warm({"x": x, "y": y}, {90: {"val.error": (x - 0.3) ** 2 + (y + 0.2) ** 2}})
        for x, y in grid
    )
    plan = make_plan(sampler="tpe", warm=warm)
    drawn = [ask(plan, SweepState(), trial) for trial in range(20)]
    cold = [ask(make_plan(sampler="tpe"), SweepState(), trial) for trial in range(20)]
    near = [
        sum(math.hypot(d["x"] - 0.3, d["y"] + 0.2) < 0.5 for d in found) for found in (drawn, cold)
    ]
    assert near[0] > 2 * near[1]


def test_ten_thousand_trials_are_thinned_to_the_best_and_a_sample(make_plan, executor):
    plan = make_plan(trials=400)
    state = executor(plan).run().state
    kept = {row.number for row in rows_at(plan, state, 90, Random(3))}
    order = sorted(state.trials, key=lambda n: state.trials[n].value)
    assert len(kept) == 325
    assert kept > set(order[:25])
    assert kept != {row.number for row in rows_at(plan, state, 90, Random(4))}


def test_tpe_answers_as_optuna_does_over_a_study_of_its_own(make_plan, executor):
    """The trials stand in our storage as they would in Optuna's."""
    domains = {"b": Choice((0, 1, 2)), "a": Uniform(0.0, 1.0), "c": Integer(1, 9)}
    plan = make_plan(trials=40, sampler="tpe")
    plan = dataclasses.replace(plan, space=Space("s", "toy", domains))
    run = executor(plan, lambda sampled, step: sampled["a"] + sampled["b"] - sampled["c"])
    state = run.run().state
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(
            seed=derive(plan.seed, "sampler", 77), multivariate=True, constant_liar=True
        )
    )
    distributions = {key: distribution(domain) for key, domain in domains.items()}
    for trial in state.trials.values():
        told = create_trial(params=trial.sampled, distributions=distributions, value=trial.value)
        study.add_trial(told)
    assert ask(plan, state, 77) == study.ask(distributions).params


def test_cmaes_is_refused_where_it_means_nothing(make_plan):
    two = Goal((Objective("a", "min"), Objective("b", "min")))
    with pytest.raises(SettingsError, match="one objective, not 2"):
        make_plan(sampler="cmaes", goal=two)
    choices = Space("choices", "toy", {"a": Choice((1, 2)), "b": Choice((True, False))})
    with pytest.raises(SettingsError, match="choices only"):
        dataclasses.replace(make_plan(sampler="cmaes"), space=choices)


def test_one_study_makes_the_same_first_draws_as_optuna_itself(make_plan):
    """Before its startup trials are over, TPE is random search with our seed."""
    plan = make_plan(sampler="tpe")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=derive(5, "sampler", 3)))
    trial = study.ask()
    expected = {"x": trial.suggest_float("x", -1, 1), "y": trial.suggest_float("y", -1, 1)}
    assert ask(plan, SweepState(), 3) == expected
