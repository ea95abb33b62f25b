from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest

from benchmarks.regret.peers import ETA, PEERS, SHARES, Report, regret_curve, reports, run
from benchmarks.regret.problems import make_problem
from benchmarks.regret.tables import make_table

pytestmark = pytest.mark.slow  # imports Ray Tune; no cluster

BRANIN = make_problem("branin")
WORKERS, BUDGET = 4, 5


@pytest.fixture(scope="module")
def found():
    return {peer: reports(peer, BRANIN, WORKERS, BUDGET, seed=3) for peer in PEERS}


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_a_peer_is_a_function_of_its_seed(peer, found):
    assert reports(peer, BRANIN, WORKERS, BUDGET, seed=3) == found[peer]
    assert reports(peer, BRANIN, WORKERS, BUDGET, seed=4) != found[peer]


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_no_more_than_the_budget_is_spent(peer, found):
    spent: dict[int, int] = {}
    for report in found[peer]:
        spent[report.trial] = report.step  # a trial's last rung is all that it cost
    full = BRANIN.rungs[-1]
    assert sum(spent.values()) <= BUDGET * full
    # What is missing is the part of running trials that is lost: less than a rung's gap a worker.
    assert sum(spent.values()) > BUDGET * full - WORKERS * (full - BRANIN.rungs[-2])
    assert max(report.time for report in found[peer]) <= BUDGET * full / WORKERS


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_no_more_trials_run_at_once_than_there_are_workers(peer, found):
    """Steps that all trials have made by some time fit the time of all workers."""
    steps: dict[int, int] = defaultdict(int)
    for report in found[peer]:
        steps[report.trial] = report.step
        assert sum(steps.values()) <= WORKERS * report.time


@pytest.mark.parametrize("peer", ["random", "tpe", "optuna_search"])
def test_full_length_peers_stop_nothing(peer, found):
    at = Counter(report.step for report in found[peer])
    assert at[BRANIN.rungs[0]] - at[BRANIN.rungs[-1]] <= WORKERS


@pytest.mark.parametrize("peer", ["asha_random", "asha_tpe"])
def test_asha_goes_on_with_the_best_of_each_rung(peer, found):
    """Its rule: a report goes on unless it is worse than the best third of those before it."""
    import numpy as np

    seen: dict[int, list[float]] = defaultdict(list)
    last = {report.trial: report.step for report in found[peer]}
    end = BUDGET * BRANIN.rungs[-1] / WORKERS
    for report in found[peer]:
        before = seen[report.step]
        good = not before or report.value <= np.percentile(before, 100 / ETA) + 1e-12
        before.append(report.value)
        if report.step == BRANIN.rungs[-1]:
            continue
        following = BRANIN.rungs[BRANIN.rungs.index(report.step) + 1]
        if report.time + following - report.step <= end:
            assert (last[report.trial] > report.step) == good


def test_the_samplers_of_optuna_and_of_ray_ask_alike(found):
    """OptunaSearch wraps the same sampler: with the same seed and the same reports it asks for the
    same settings, until the wrapper's reports of running trials tell its sampler more.
    """
    tpe = {report.trial: report.sampled for report in found["tpe"]}
    wrapped = {report.trial: report.sampled for report in found["optuna_search"]}
    assert [tpe[trial] for trial in range(WORKERS)] == [wrapped[trial] for trial in range(WORKERS)]


def test_the_incumbent_is_the_best_at_the_highest_rung():
    """Low values at low rungs do not count against a report at a higher one."""
    settings = [{"x.0": 0.1 * i, "x.1": 0.5} for i in range(4)]
    end = BUDGET * BRANIN.rungs[-1] / WORKERS

    def report(share: float, trial: int, step: int, value: float) -> Report:
        return Report(int(share * end), trial, settings[trial], step, value)

    reports_ = [
        report(0.2, 0, 9, -5.0),
        report(0.4, 1, 27, 3.0),
        report(0.6, 2, 9, -9.0),
        report(0.9, 3, 27, 2.0),
    ]
    expected = [math.inf, *(BRANIN.regret(settings[i]) for i in (0, 1, 3))]
    curve = regret_curve(BRANIN, reports_, WORKERS, BUDGET)
    assert curve == list(zip(SHARES, expected, strict=True))
    assert regret_curve(BRANIN, reversed(reports_), WORKERS, BUDGET) == curve


def test_searching_a_table_asks_one_trial_after_the_other():
    table = make_table("NASBench201/cifar10")
    for peer in ("random", "optuna_search"):
        asked = reports(peer, table, workers=1, budget=20, seed=0)
        assert [report.trial for report in asked] == list(range(20))
        curve = run(peer, table, workers=1, budget=20, seed=0)
        best = [min(report.value for report in asked[:n]) for n in (2, 5, 10, 20)]
        assert curve == list(zip(SHARES, best, strict=True))


@pytest.mark.parametrize(
    ("peer", "workers", "budget", "message"),
    [
        ("hyperband", 4, 5, "asha_random"),
        ("random", 0, 5, "workers"),
        ("random", 64, 0, "Raise the budget"),
    ],
)
def test_what_cannot_run_is_refused(peer, workers, budget, message):
    with pytest.raises(ValueError, match=message):
        run(peer, BRANIN, workers, budget, 0)
