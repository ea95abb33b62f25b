"""`generate` of systems that draw: the same files from the same seed, by one process or by two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from models.draws import hash63
from ray_jobs import generate, train
from ray_jobs.generation import merged
from trainables.request import Request

TOYS = Path(__file__).parents[1] / "trainables/seams"
SHORT = ("train.steps=2", "train.report_every=1", "train.tensorboard=false", "--no-ray")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, module_on_one_thread):
    """A folder with a training of each toy, by its name."""
    folder = tmp_path_factory.mktemp("generation")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOYS)
        for name in ("Drawn", "Blind"):
            made = [f"generate_toy:{name}", *SHORT, "--dir", str(folder / name)]
            assert train.main(made) == 0
        yield folder


def run(training, *arguments):
    return generate.main([str(argument) for argument in ("--checkpoint", training, *arguments)])


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def samples(folder, count):
    return np.stack([np.load(folder / f"{index}.npy") for index in range(count)])


def test_equal_seeds_give_equal_bytes_and_another_batch_size_equal_numbers(
    trained, tmp_path, capsys
):
    made = ("--count", 10, "--seed", 3, "--json", "--output")
    found = {}
    for name, more in {
        "once": (),
        "again": (),
        "large": ("--batch-size", 10),
        "other": ("solver.kind=heun", "steps=5"),
    }.items():
        assert run(trained / "Drawn", *more, *made, tmp_path / name) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert files(tmp_path / "once") == files(tmp_path / "again")
    once, large = (samples(tmp_path / name, 10) for name in ("once", "large"))
    np.testing.assert_allclose(once, large, rtol=0.0, atol=1e-5)
    assert found["once"]["samples"] == 10 and "empty" not in found["once"]
    assert found["once"]["mean"] == pytest.approx(once.mean(), abs=1e-6)
    assert len(np.unique(once[:, 0])) == 10, "each sample has a seed of its own"
    assert np.abs(samples(tmp_path / "other", 10) - once).max() > 1e-3
    assert run(trained / "Drawn", "--count", 10, "--output", tmp_path / "seed") == 0
    assert np.abs(samples(tmp_path / "seed", 10) - once).max() > 1e-3


def test_with_inputs_the_samples_are_of_each(trained, tmp_path):
    (tmp_path / "given").write_text("0\n5\n")
    made = ("--input", tmp_path / "given", "--count", 3, "--output", tmp_path / "out")
    assert run(trained / "Drawn", *made, "steps=1") == 0
    found = samples(tmp_path / "out", 6)
    assert run(trained / "Drawn", "--count", 6, "--output", tmp_path / "none", "steps=1") == 0
    plain = samples(tmp_path / "none", 6)
    assert np.array_equal(found[:3], plain[:3])
    assert (found[3:] - plain[3:]).mean() > 4.0


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(trained, tmp_path, capsys):
    made = ("--count", 21, "--batch-size", 3, "--json", "--output")
    assert run(trained / "Drawn", *made, tmp_path / "one") == 0
    one = json.loads(capsys.readouterr().out)
    assert run(trained / "Drawn", "--workers", 2, *made, tmp_path / "two") == 0
    two = json.loads(capsys.readouterr().out)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "two")) == 21
    assert len({path.read_text() for path in (tmp_path / "two").glob("*.pid")}) == 2
    assert (two["samples"], two["mean"]) == (21, pytest.approx(one["mean"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "option, said",
    [
        ("solver.die_at=3", "process 1 of 2 has failed, and the others were ended"),
        ("solver.fail_at=3", "were ended: ValueError: sample 3 cannot be drawn. What they had"),
    ],
)
def test_a_process_that_fails_ends_the_others_and_is_told(
    trained, tmp_path, capsys, option, said
):
    made = ("--count", 4, "--batch-size", 2, "--workers", 2, "--output", tmp_path / "out")
    assert run(trained / "Drawn", option, "solver.wait_seconds=60", *made) == 2
    error = capsys.readouterr().err
    assert said in error and ("SIGKILL" in error) == ("die" in option)
    started = [int(path.read_text()) for path in (tmp_path / "out").glob("*.pid")]
    assert started and not any(psutil.pid_exists(pid) for pid in started)


@pytest.mark.slow
def test_no_process_outlives_the_command(trained, tmp_path):
    """Also one that was started in the background of a script, and hears no SIGINT."""
    out = tmp_path / "out"
    words = [sys.executable, "-m", "ray_jobs.generate", "--checkpoint", trained / "Drawn"]
    options = ["--count", "8", "--workers", "2", "--output", out, "solver.wait_seconds=60"]
    path = os.pathsep.join([str(TOYS.parents[2]), str(TOYS)])
    running = subprocess.Popen(
        [*map(str, words), *map(str, options)],
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        while running.poll() is None and not (out / "0.pid").exists():
            time.sleep(0.1)
        time.sleep(0.2)
        started = psutil.Process(int((out / "0.pid").read_text()))
    finally:
        running.kill()
        running.wait()
    gone, left = psutil.wait_procs([started], timeout=30)
    assert gone and not left


def test_batches_are_dealt_out_whole_and_seeds_follow_the_index(tmp_path):
    def dealt(**changes):
        request = Request(**{"target": tmp_path, "count": 2, "batch_size": 4, "seed": 9} | changes)
        return [(list(indices), seeds.tolist()) for indices, seeds in request.batches(inputs=5)]

    whole = dealt()
    assert [indices for indices, _ in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shares = [dealt(rank=rank, world=2) for rank in range(2)]
    assert shares == [whole[::2], whole[1::2]]
    assert dealt(rank=3, world=4) == []
    seeds = [seed for _, part in whole for seed in part]
    assert seeds == [seed for _, part in dealt(batch_size=3) for seed in part]
    assert len(set(seeds)) == 10 and not set(seeds) & {hash63(9, n) for n in range(10)}


def test_counts_are_added_up_and_means_are_over_all():
    parts = [{"n": 2, "mean": (6.0, 2), "none": (0.0, 0)}, {"n": 3.0, "mean": [1.0, 3]}, {}]
    assert merged(parts) == {"n": 5.0, "mean": 1.4}


@pytest.mark.parametrize(
    "system, arguments, said",
    [
        ("Blind", ("--input", "x"), "takes no inputs, for it draws what it generates"),
        ("Drawn", ("--prompt", "x"), "goes on from no text. Leave out --prompt"),
        ("Drawn", ("--input", "no"), "--input no does not exist"),
        ("Drawn", ("steps=0",), "steps must lie in 1 .. 100, not 0"),
        ("Drawn", ("solver.kind=rk4",), "solver.kind takes one of euler | heun"),
        ("Drawn", ("guidanc=1",), "guidanc is no setting; generate takes train.external, steps "),
        ("Drawn", ("train.seed=1",), "train.seed is part of what was trained; generate takes "),
        ("Blind", ("steps=1",), "steps is no setting; generate takes train.external."),
    ],
)
def test_what_a_system_does_not_take_is_refused(
    trained, tmp_path, capsys, system, arguments, said
):
    assert run(trained / system, *arguments, "--output", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
