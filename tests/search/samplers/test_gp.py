from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from search.gp_model import LevelData, LevelModel, LevelPosterior
from search.log import SweepState
from search.samplers.ask import ask
from search.samplers.gp import Encoder, collect
from search.simulator import simulate
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space

pytestmark = pytest.mark.slow


def cloud(n=40, keys=4, levels=3, seed=0):
    draw = np.random.default_rng(seed)
    is_choice = np.arange(keys) % 3 == 2
    features = draw.random((n, keys))
    features[:, is_choice] = draw.integers(0, 3, (n, int(is_choice.sum())))
    level = draw.integers(0, levels, n)
    values = np.sin(5 * features[:, 0]) + 0.3 * features[:, 2] + 0.1 * draw.standard_normal(n)
    return LevelData(features, is_choice, level, np.linspace(0, 1, levels)[level], values)


def kernel(data, parameters, one, other):
    """The formula of the module, term by term."""
    keys = data.features.shape[1]
    lengths, (c, amplitude) = np.exp(parameters[:keys]), np.exp(parameters[keys:-2])
    table = np.zeros((len(one), len(other)))
    for i, (x, z, _) in enumerate(one):
        for j, (y, w, _) in enumerate(other):
            d = [(a != b) if ch else a - b for a, b, ch in zip(x, y, data.is_choice, strict=True)]
            r = math.sqrt(sum((gap / length) ** 2 for gap, length in zip(d, lengths, strict=True)))
            matern = (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)
            table[i, j] = amplitude * matern * math.exp(-abs(z - w) / c)
    return table


def points(data):
    return list(zip(data.features, data.depth, data.levels, strict=True))


def test_the_likelihood_is_that_of_the_formula():
    data = cloud(25)
    posterior = LevelPosterior(data)
    parameters = posterior.prior_mean + 0.3 * np.random.default_rng(1).standard_normal(8)
    low, high = parameters[-2:]
    covariance = kernel(data, parameters, points(data), points(data))
    covariance += 100.0 * (data.levels[:, None] == data.levels[None, :])
    covariance += np.diag(np.exp((1 - data.depth) * low + data.depth * high) + 1e-8)
    assert np.allclose(posterior.covariance(parameters), covariance)
    prior = 0.5 * sum(
        ((parameters - posterior.prior_mean) / np.array([0.7] * 4 + [1, 1, 2, 2])) ** 2
    )
    exact = -multivariate_normal(np.zeros(25), covariance).logpdf(data.values)
    constant = 0.5 * 25 * math.log(2 * math.pi)
    assert posterior(parameters)[0] == pytest.approx(exact - constant + prior)


def test_the_gradient_of_the_posterior():
    posterior = LevelPosterior(cloud())
    for seed in range(3):
        at = posterior.prior_mean + np.random.default_rng(seed).standard_normal(8)
        numeric = approx_fprime(at, lambda p: posterior(p)[0], 1e-6)
        assert posterior(at)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_the_prediction_is_the_conditional_normal():
    data = cloud(30)
    model = LevelModel(data)
    fresh = cloud(7, seed=5).features
    where = [(x, 1.0, 2) for x in fresh]
    covariance = LevelPosterior(data).covariance(model.parameters)
    cross = kernel(data, model.parameters, where, points(data))
    own = kernel(data, model.parameters, where, where)
    mean = cross @ np.linalg.solve(covariance, data.values)
    variance = np.diag(own - cross @ np.linalg.solve(covariance, cross.T))
    assert model.predict(fresh)[0] == pytest.approx(mean, abs=1e-6)
    assert model.predict(fresh)[1] ** 2 == pytest.approx(variance, abs=1e-6)


def test_what_is_expected_moves_no_mean_and_narrows_its_neighbourhood():
    model = LevelModel(cloud(30))
    fresh = cloud(6, seed=5).features
    mean, deviation = model.predict(fresh)
    model.expect(fresh[:2])
    after, narrower = model.predict(fresh)
    assert after == pytest.approx(mean, abs=1e-9)
    assert (narrower <= deviation + 1e-9).all()
    noise = math.exp(model.parameters[-1])
    assert (narrower[:2] ** 2 <= noise + 1e-6).all()


SPACE = Space(
    "mixed",
    "toy",
    {
        "kind": Choice((True, False)),
        "rate": LogUniform(1e-4, 1e-1),
        "width": Integer(1, 8),
        "when": Uniform(0.0, 1.0, when={"kind": (True,)}),
    },
)


def noisy(job, step):
    """The rate matters at every rung, the noise falls with the step, half the choices are bad."""
    sampled, draw = job.sampled, np.random.default_rng(job.seed + step)
    off = (math.log10(sampled["rate"]) + 2.5) ** 2 + 0.5 * sampled["kind"]
    return {"val.error": off + 0.1 * abs(sampled["width"] - 6) + 3 * draw.normal() / step}


@pytest.fixture
def plan(make_plan):
    made = make_plan(
        sampler="gp", scheduler="brackets", rung_steps=(10, 30), trials=10**6, budget=16.0
    )
    return dataclasses.replace(made, space=SPACE)


def test_it_finds_the_best_in_a_few_trainings(plan):
    best = {}
    for sampler in ("gp", "random"):
        made = dataclasses.replace(plan, sampler=sampler)
        state = simulate(made, noisy, workers=2).state
        full = [state.trials[n] for n in state.rungs[90]]
        sampled = min(full, key=lambda t: t.rungs[90]["val.error"]).sampled
        best[sampler] = noisy(SimpleNamespace(sampled=sampled, seed=0), 10**9)["val.error"]
    assert best["gp"] < 0.5 * best["random"]


def test_features_and_positions(plan):
    encoder = Encoder(plan)
    on = {"kind": True, "rate": 1e-4, "width": 8, "when": 0.25}
    off = {"kind": False, "rate": 1e-1, "width": 1}
    assert encoder.features([on, off]).tolist() == [
        [0.0, 0.0, 0.9375, 0.25],
        [1.0, 1.0, 0.0625, 0.5],
    ]
    for values, position in zip((on, off), encoder.positions([on, off]), strict=True):
        assert encoder.configuration(position) == pytest.approx(values)


def test_what_the_model_is_told(plan):
    """Values about the median of their level; ill ones at the fence, at full length; at most 300,
    and all of the full length among them.
    """
    events = [{"event": "started"}]
    draw = np.random.default_rng(0)
    for trial in range(400):
        job = {"trial": trial, "segment": 0}
        sampled = {"kind": False, "rate": 10 ** draw.uniform(-4, -1), "width": 1 + trial % 8}
        events.append({"event": "handed_out", **job, "sampled": sampled, "seed": 0})
        value = 5.0 + draw.normal() + (1e6 if trial == 7 else 0)
        rung = {"step": 10, "value": value, "values": {"val.error": value}, "judged": True}
        events.append({"event": "rung", **job, **rung})
        end = {"state": "paused", "step": 10, **{k: rung[k] for k in ("value", "values")}}
        if trial < 20:
            end |= {"state": "complete", "step": 90, "holds": [90], "values": {"val.error": 1.0}}
        elif trial < 24:
            end |= {"state": "stopped", "reason": "health: dead"}
        events.append({"event": "ended", **job, **end})
    data, best = collect(plan, SweepState(events), Encoder(plan), np.random.default_rng(1))
    assert len(data.values) == 300
    assert (data.levels == 2).sum() == 24
    assert set(data.depth) == {0.0, 1.0}
    assert np.median(data.values[data.levels == 0]) < 0.5
    assert data.values.max() < 5
    assert (data.values[data.levels == 2] == data.values.max()).sum() == 4
    assert len(best) == 6


def test_running_trials_are_kept_clear_of(plan):
    """Four asks in a row without any result differ, and leave each other room."""
    state = simulate(plan, noisy, workers=1).state
    drawn = []
    for _ in range(4):
        number = max(state.trials) + 1
        drawn.append(ask(plan, state, number))
        job = {"trial": number, "segment": 0, "seed": 0, "sampled": drawn[-1]}
        state.apply({"event": "handed_out", **job})
    places = Encoder(plan).positions(drawn)
    gaps = [np.abs(a - b).max() for i, a in enumerate(places) for b in places[:i]]
    assert min(gaps) > 1e-2
