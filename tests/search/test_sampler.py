from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.log import SweepState
from search.sampler import ask, history
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Point, Space

ROOT = Path(__file__).resolve().parents[2]

CONDITIONAL = Space(
    "conditional",
    "toy",
    {
        "mode": Choice(("absolute", "learnable")),
        "cap": Uniform(4.0, 22.0, when={"mode": ("absolute",)}),
        "start": Uniform(2.0, 16.0, step=0.5, when={"mode": ("learnable",)}),
        "rgb": Choice((True, False), when={"mode": ("learnable",)}),
        "weight": LogUniform(0.1, 10.0),
        "width": Integer(8, 32, step=8),
        "widths": Choice(((1, 2), (1, 2, 3), (4,))),
    },
)


def score(sampled, step=None):
    mode = abs(sampled["cap"] - 10) if "cap" in sampled else abs(sampled["start"] - 9.5) + 2
    return mode + sampled["width"] / 32 + len(sampled["widths"])


@pytest.fixture(scope="module")
def conditional_plan(make_plan):
    import dataclasses

    return dataclasses.replace(make_plan(trials=30, sampler="tpe"), space=CONDITIONAL)


def test_conditional_draws_hold_exactly_the_active_keys(conditional_plan, executor):
    run = executor(conditional_plan, score).run()
    modes = set()
    for record in run.state.trials.values():
        assert tuple(record.sampled) == CONDITIONAL.active(record.sampled)
        assert all(CONDITIONAL.domains[k].contains(v) for k, v in record.sampled.items())
        assert isinstance(record.sampled["widths"], tuple)
        modes.add(record.sampled["mode"])
    assert modes == {"absolute", "learnable"}


def test_every_draw_is_a_function_of_the_log(conditional_plan, executor):
    run = executor(conditional_plan, score).run(concurrent=4)
    log = json.loads(json.dumps(run.log))
    for index, event in enumerate(log):
        if event["event"] == "handed_out" and event["trial"] % 5 == 4:
            before = SweepState(log[:index])
            drawn = ask(conditional_plan, before, event["trial"])
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
tools, here = module("conftest"), module("test_sampler")
plan = dataclasses.replace(tools.plane(trials=30, sampler="tpe"), space=here.CONDITIONAL)
print(json.dumps(tools.Executor(plan, here.score).run(concurrent=3).log))
"""


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


def test_another_seed_draws_something_else(make_plan):
    first = ask(make_plan(seed=1), SweepState(), 0)
    assert ask(make_plan(seed=1), SweepState(), 0) == first
    assert ask(make_plan(seed=2), SweepState(), 0) != first
    assert ask(make_plan(seed=1), SweepState(), 1) != first


def test_random_search_does_not_look_at_the_log(make_plan, executor):
    plan = make_plan(sampler="random")
    state = executor(plan).run().state
    assert ask(plan, state, 40) == ask(plan, SweepState(), 40)


def test_what_the_sampler_is_told(make_plan, executor):
    points = (
        Point("outside", {"x": 9.0, "y": 0.0}, ("x",)),
        Point("inside", {"x": 0.5, "y": 0.0}),
    )
    plan = make_plan(
        trials=9, points=points, mode="max", scheduler="asha", eta=2, grace=10, max_failures=0
    )
    run = executor(plan)
    for _ in range(9):
        run.hand_out()
    for trial in range(9):
        run.write(event="rung", trial=trial, segment=0, step=10, value=float(trial))
    run.end(0, "complete", 90, 5.0)
    run.end(1, "complete", 90, 7.0)
    run.end(2, "stopped", 10, 2.0, "asha")
    run.end(3, "failed", 10, None)
    run.end(4, "complete", 90, None)  # null: not finite
    run.end(5, "interrupted", 10, None)
    run.end(6, "stopped", 20, None, "gradient norm")
    told = history(plan, run.state)
    assert next(trial.params["x"] for trial in told) == 0.5  # the point outside is left out
    assert [trial.state for trial in told] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.PRUNED,
        TrialState.RUNNING,
        TrialState.RUNNING,
    ]
    assert told[0].value == 7.0
    assert told[1].intermediate_values == {10: 2.0}
    assert told[5].intermediate_values == {10: 6.0}
    assert all(trial.value is None for trial in told[1:])


def test_a_failed_trial_that_will_try_again_counts_as_running(make_plan, executor):
    run = executor(make_plan(max_failures=1))
    run.hand_out()
    run.end(0, "failed", 0, None)
    assert history(run.plan, run.state)[0].state == TrialState.RUNNING
    run.hand_out()
    run.end(0, "failed", 0, None)
    assert history(run.plan, run.state)[0].state == TrialState.FAIL


@pytest.mark.parametrize("mode", ["min", "max"])
def test_tpe_beats_random_on_a_quadratic(mode, make_plan, executor):
    sign = 1.0 if mode == "min" else -1.0

    def objective(sampled, step=None):
        return sign * ((sampled["x"] - 0.3) ** 2 + (sampled["y"] + 0.2) ** 2)

    best = {}
    for sampler in ("random", "tpe"):
        regrets = []
        for seed in range(10):
            plan = make_plan(trials=40, seed=seed, mode=mode, sampler=sampler, steps=10)
            state = executor(plan, objective).run().state
            regrets.append(min(sign * record.value for record in state.trials.values()))
        best[sampler] = sum(regrets) / len(regrets)
    assert best["tpe"] < 0.5 * best["random"]


def test_one_study_makes_the_same_first_draws_as_optuna_itself(make_plan):
    """Before its startup trials are over, TPE is random search with our seed."""
    from search.seeds import derive

    plan = make_plan(sampler="tpe")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=derive(5, "sampler", 3)))
    trial = study.ask()
    expected = {"x": trial.suggest_float("x", -1, 1), "y": trial.suggest_float("y", -1, 1)}
    assert ask(plan, SweepState(), 3) == expected
