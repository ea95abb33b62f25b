from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import multi_fidelity, search_efficiency
from benchmarks.regret.bench import OURS, Task, regrets, rows
from benchmarks.regret.peers import SHARES, Curve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def invented(tasks: Sequence[Task]) -> list[Curve]:
    """Curves that tell seed, problem and contender apart."""
    return [
        [
            (share, len(task.problem) + task.seed + (10 if task.contender == OURS else 0) + share)
            for share in SHARES
        ]
        for task in tasks
    ]


def test_regret_is_the_mean_over_problems_for_each_seed():
    bench = next(b for b in search_efficiency.benches() if b.name == "tables/regret")
    found = regrets(bench, (OURS, "random"), 3, invented)
    length = statistics.fmean(len(name) for name in bench.problems)
    assert set(found) == {"@25", "@50", "@100"}
    for ending, share in (("@25", 0.25), ("@100", 1.0)):
        assert found[ending][OURS] == pytest.approx([length + s + 10 + share for s in range(3)])
        assert found[ending]["random"] == pytest.approx([length + s + share for s in range(3)])


def test_rows_have_the_best_peer_beside_ours_and_every_peer_alone():
    found = {OURS: [0.1, 0.3], "random": [0.6, 0.6], "tpe": [0.3, 0.5]}
    by_name = {row.name: row for row in rows("p/100", found)}
    ours = by_name["p/100"]
    assert (ours.value, ours.peer_value) == pytest.approx((0.2, 0.4))
    assert ours.peer == "TPE of Optuna, full length"
    assert ours.ratio == pytest.approx(2)
    error = by_name["p/100/standard_error"]
    assert (error.value, error.peer_value) == pytest.approx((0.1, 0.1))
    assert by_name["p/100/random"].value == pytest.approx(0.6)
    assert by_name["p/100/random/standard_error"].value == 0
    assert len(by_name) == 6


def test_no_regret_and_a_single_seed_are_no_division_by_nothing():
    (ours, peer) = rows("p/100", {OURS: [0.0], "random": [0.5]})
    assert (ours.value, ours.ratio, peer.value) == (0.0, None, 0.5)


def test_the_rows_have_the_names_of_the_documents():
    names = {bench.name for bench in multi_fidelity.benches()}
    assert names >= {
        f"{problem}/{budget}"
        for problem in ("counting_ones", "hartmann3", "hartmann6", "branin", "misleading")
        for budget in (25, 100)
    }
    assert names >= {"counting_ones/100/64_workers", "hartmann6/100/64_workers", "mean/100"}
    efficiency = {
        bench.name + ending for bench in search_efficiency.benches() for ending in bench.shares
    }
    assert efficiency >= {"tables/regret@100", "branin/regret@100", "hartmann6/regret@100"}


def test_plain_functions_have_no_noise_and_their_own_unit():
    plain = search_efficiency.make_plain("branin")
    centre = {"x.0": 0.5, "x.1": 0.5}
    # Branin at (2.5, 7.5), less its optimum.
    assert plain.regret(centre) == pytest.approx(24.129964 - 0.397887, abs=1e-5)
    assert plain.value(centre, 1, 0) == plain.value(centre, 1, 1) == pytest.approx(24.129964)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_rows_as_json():
    """Two processes and one give the same numbers."""
    arguments = ["benchmarks.multi_fidelity", "--json", "--only", "branin/25"]
    arguments += ["--seeds", "2", "--contenders", "random"]
    ran = command(*arguments)
    assert ran.returncode == 0, ran.stderr
    printed = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["name"] for row in printed] == [
        "branin/25/random",
        "branin/25/random/standard_error",
    ]
    assert set(printed[0]) == {"name", "value", "unit", "peer", "peer_value", "ratio"}
    assert command(*arguments, "--processes", "1").stdout == ran.stdout


def test_the_command_refuses_a_row_that_is_not_there():
    ran = command("benchmarks.search_efficiency", "--only", "rosenbrock/*")
    assert ran.returncode == 2
    assert "tables/regret@100" in ran.stderr
