"""The verbs `solvers` and `optimal_steps`, on a diffusion of a few steps."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ray_jobs import optimal_steps, solvers, train
from ray_jobs.solver_figure import figure
from trainables.diffusion.system import Diffusion

TOY = "trainables.toy:Toy"

pytestmark = pytest.mark.usefixtures("one_thread")


KINDS = {"rflow": (), "ddpm": ("strategy.ddpm.steps=40", "strategy.ddpm.prediction=v")}


@pytest.fixture(scope="module")
def trainings(shared_cache, tmp_path_factory):
    """`trainings(kind)`: a training of 4 steps with large ones, so that its flow bends."""
    folder, made = tmp_path_factory.mktemp("solvers"), {}
    small = [
        f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in Diffusion.small.items()
    ]
    quiet = ("train.tensorboard=false", "train.figures=false", "train.test=false")
    length = ("train.steps=4", "train.report_every=4", "optimizer.lr=0.03", "--no-ray")

    def of(kind):
        if kind not in made:
            made[kind] = folder / kind
            given = (f"strategy.kind={kind}", *KINDS[kind], "--dir", str(made[kind]))
            before = torch.get_num_threads()
            torch.set_num_threads(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
                assert train.main(["diffusion", *small, *quiet, *length, *given]) == 0
            torch.set_num_threads(before)
        return made[kind]

    return of


@pytest.fixture
def trained(trainings):
    return trainings("rflow")


def run(verb, trained, output, *arguments):
    given = ["--checkpoint", str(trained), "--output", str(output), "--count", "2"]
    return verb.main([*given, *map(str, arguments)])


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def without_times(path):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows_of(path)]


FEW = ("--solvers", "euler,rk4,torchdiffeq:bosh3,monai", "--steps", "4,8", "--tolerances", "1e-2")


@pytest.mark.slow
def test_a_row_for_each_solver_and_number_with_a_table_and_a_figure(trained, tmp_path, capsys):
    pytest.importorskip("torchdiffeq")
    assert run(solvers, trained, tmp_path / "out", *FEW) == 0
    rows = rows_of(tmp_path / "out" / "solvers.csv")
    assert [(row["solver"], row["steps"], row["tolerance"]) for row in rows] == [
        *[("euler", "4", ""), ("euler", "8", ""), ("rk4", "4", ""), ("rk4", "8", "")],
        *[("torchdiffeq:bosh3", "", "0.01"), ("monai", "4", ""), ("monai", "8", "")],
    ]
    values = {(row["solver"], row["steps"]): row for row in rows}
    evaluations = {key: float(row["evaluations_per_sample"]) for key, row in values.items()}
    assert evaluations["euler", "8"] == 8
    assert evaluations["rk4", "4"] == 16
    errors = {key: float(row["error"]) for key, row in values.items()}
    assert errors["euler", "8"] < 0.7 * errors["euler", "4"]
    assert errors["rk4", "4"] < 0.3 * errors["euler", "4"]
    assert all(float(row["standard_error"]) > 0.0 for row in rows)
    assert all(float(row["seconds_per_sample"]) > 0.0 for row in rows)
    said = capsys.readouterr().out
    assert "2 samples, compared with rk4, 200 steps" in said
    assert len([line for line in said.splitlines() if line.startswith("euler")]) == 2
    with Image.open(tmp_path / "out" / "solvers.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 5
    for seed, is_equal in (("0", True), ("1", False)):
        assert run(solvers, trained, tmp_path / seed, *FEW, "--seed", seed) == 0
        again = without_times(tmp_path / seed / "solvers.csv")
        assert (again == without_times(tmp_path / "out" / "solvers.csv")) == is_equal


@pytest.mark.slow
def test_the_least_number_of_steps_within_a_tolerance(trainings, tmp_path, capsys):
    trained = trainings("ddpm")
    capsys.readouterr()
    asked = ("--low", "2", "--high", "12", "--repeats", "2", "--golden")
    assert run(optimal_steps, trained, tmp_path / "a", *asked, "--tolerance", "0") == 0
    said = capsys.readouterr().out
    assert "chosen: 12 steps" in said
    assert "golden section on the first repeat: 12 steps" in said
    rows = rows_of(tmp_path / "a" / "optimal_steps.csv")
    assert [row["steps"] for row in rows if row["is_best"] == "1"] == ["12"]
    assert {"2", "11", "12"} <= {row["steps"] for row in rows}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True), "the error falls with the steps"
    wide = 0.5 * (scores[0] - scores[-1])
    found = {}
    for name in "bc":
        more = ("--tolerance", wide, "--grid", "--json")
        assert run(optimal_steps, trained, tmp_path / name, *asked, *more) == 0
        found[name] = json.loads(capsys.readouterr().out)
    files = [(tmp_path / name / "optimal_steps.csv").read_bytes() for name in "bc"]
    assert files[0] == files[1]
    assert found["b"]["rows"] == found["c"]["rows"]
    every = {row["steps"]: row["score"] for row in found["b"]["rows"]}
    assert list(every) == list(range(2, 13))
    within = [steps for steps, score in every.items() if score <= every[12] + wide]
    assert found["b"]["steps"] == min(within) < 12
    assert found["b"]["golden_section"] == 12


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (solvers, ("sampling.steps=3",), "sampling.steps is what the solvers differ in"),
        (solvers, ("sampling.rflow.solver=heun",), "is what the solvers differ in"),
        (solvers, ("--solvers", "euler,eular"), "--solvers takes some of euler, midpoint"),
        (solvers, ("data.seed=1",), "is part of what was trained"),
        (solvers, ("sampling.restart.enabled=true",), "solvers cannot be compared by it"),
        (optimal_steps, ("sampling.steps=3",), "sampling.steps is what is looked for"),
        (optimal_steps, ("--low", "9", "--high", "9"), "--low lies below --high, not at 9 with 9"),
        (
            optimal_steps,
            ("sampling.rflow.solver=torchdiffeq",),
            "torchdiffeq:dopri5 chooses its steps itself, by a tolerance",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(trained, tmp_path, capsys, verb, given, message):
    assert run(verb, trained, tmp_path / "out", *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [solvers, optimal_steps])
def test_a_system_without_solvers_is_refused(tmp_path, capsys, verb):
    length = ("train.steps=2", "train.report_every=2", "--no-ray")
    assert train.main([TOY, *length, "--dir", str(tmp_path / "toy")]) == 0
    assert run(verb, tmp_path / "toy", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "has no member `solvers`" in said
    assert "diffusion" in said


def test_an_output_that_is_a_file_is_refused(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(solvers, trained, tmp_path / "file") == 2
    assert f"--output {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_figure_has_a_place_for_every_error_but_0():
    row = {"solver": "euler", "evaluations_per_sample": 10.0, "seconds_per_sample": 0.1}
    one = figure([{**row, "error": 1e-3}])
    assert figure([{**row, "error": 0.0}]).size == one.size
    # one decade up to 1e-2, from 10 evaluations to 100: the lower left corner of the frame
    at = np.argwhere((np.asarray(one)[:, :560] == (31, 119, 180)).all(axis=2)).mean(axis=0)
    assert np.abs(at - (440 - 46, 70)).max() < 2
