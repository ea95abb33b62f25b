"""The sweep verb, from its command line to its frame."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import time

import numpy as np
import pandas as pd
import pytest

from ray_jobs import evaluate
from ray_jobs.sweep import main
from results.frame import load_reports, load_sweep
from search_spaces.space import spaces_of
from settings.files import list_presets
from settings.systems import SYSTEMS

OURS = next(iter(SYSTEMS))
"""A system of the repository: it has spaces and presets, which one from outside has not."""

FAILING = """
optimizer.lr: {log_uniform: [0.001, 1.0]}
model.explode: {choice: [0.0, 1.0]}
"""


@pytest.fixture(scope="module")
def swept(shared_place, kit):
    """A sweep with every default but its size; asha stops some of its trials."""
    directory = shared_place / "swept"
    space = shared_place.space()
    shared_place.ran = shared_place.run(
        kit.TOY, "--space", space, "--dir", directory, "--trials", 8, "data.noise=0.2"
    )
    return directory


class TestFinishedSweep:
    def test_ends_well_and_shows_where_everything_is(self, swept, shared_place):
        ran = shared_place.ran
        assert ran.status == 0, ran.text
        assert f"sweep directory: {swept}" in ran.out
        assert "Traceback" not in ran.text, ran.text
        assert not (swept / "lock").exists()

    def test_frame_has_every_trial_under_the_dotted_keys(self, swept):
        frame = load_sweep(swept)
        assert frame["trial"].tolist() == list(range(8))
        assert set(frame["state"]) == {"complete", "stopped"}
        assert frame["is_best"].sum() == 1
        searched = [name for name in frame if name.startswith("config/")]
        assert searched == ["config/optimizer.lr", "config/loss.absolute.weight"]
        assert frame[searched].notna().all(axis=None)
        assert all(frame.loc[frame["state"] == "stopped", "stop_reason"].str.startswith("asha"))

    def test_settings_of_a_trial_are_the_base_and_what_was_sampled(self, swept):
        base = json.loads((swept / "sweep.json").read_text())["settings"]
        assert base["data.noise"] == 0.2
        frame = load_sweep(swept)
        for row in frame.to_dict("records"):
            written = json.loads((swept / f"trials/{row['trial']:04d}/settings.json").read_text())
            sampled = {k: row[f"config/{k}"] for k in ("optimizer.lr", "loss.absolute.weight")}
            assert written == {**base, **sampled, "train.seed": row["seed"]}

    def test_best_checkpoint_evaluates_to_the_reported_value(self, swept, capsys):
        best = load_sweep(swept).query("is_best").iloc[0]
        assert evaluate.main([best["checkpoint"], "--json"]) == 0
        measured = json.loads(capsys.readouterr().out)
        assert measured["step"] == best["steps"]
        assert measured["val.mse"] == pytest.approx(best["value"], rel=1e-6)

    def test_reports_and_log_agree(self, swept, kit):
        reports = load_reports(swept).set_index(["trial", "step"])["val.mse"]
        logged = kit.events(swept, "rung") + kit.events(swept, "ended")
        assert len(logged) > 12
        for event in logged:
            assert reports[event["trial"], event["step"]] == event["value"]

    def test_journal_opens_with_optuna_and_agrees_with_the_frame(self, swept):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(str(swept / "journal.log")))
        study = optuna.load_study(study_name=None, storage=storage)
        frame = load_sweep(swept)
        states = {"complete": "COMPLETE", "stopped": "PRUNED"}
        assert [t.state.name for t in study.trials] == frame["state"].map(states).tolist()
        for trial, row in zip(study.trials, frame.to_dict("records"), strict=True):
            assert trial.params == {k: row[f"config/{k}"] for k in trial.params}
            assert len(trial.params) == 2
        assert study.best_value == frame.loc[frame["is_best"], "value"].item()

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (["train.steps=40"], "settings train.steps: 20 -> 40"),
            (["--seed", "9"], "--seed: 0 -> 9"),
            (["--sampler", "random"], "--sampler: tpe -> random"),
            (["--space", "{other}"], "space domains optimizer.lr high: 1.0 -> 0.5"),
            (["--workers", "2"], "--workers: 1 -> 2"),
        ],
    )
    def test_resume_does_not_become_another_sweep(
        self, swept, shared_place, kit, capsys, change, expected
    ):
        (shared_place / "other").mkdir(exist_ok=True)
        other = shared_place.space(kit.SPACE.replace("1.0]", "0.5]"), "other/space")
        before = (swept / "sweep.json").read_bytes(), (swept / "log.jsonl").read_bytes()
        given = [text.format(other=other) for text in change]
        assert main(["--resume", str(swept), *given]) == 2
        changes = [row for row in capsys.readouterr().err.splitlines() if "->" in row]
        assert [row.strip() for row in changes] == [expected]  # and nothing that was not said
        assert before == ((swept / "sweep.json").read_bytes(), (swept / "log.jsonl").read_bytes())

    def test_a_directory_that_holds_something_is_not_written_over(
        self, swept, shared_place, kit, capsys
    ):
        space = ["--space", str(shared_place.space())]
        assert main([kit.TOY, *space, "--dir", str(swept)]) == 2
        assert "holds a sweep already" in capsys.readouterr().err
        assert main([kit.TOY, *space, "--dir", str(shared_place.path)]) == 2
        assert "is not empty and no sweep" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster(kit):
    """For sweeps that end in a way of their own, but do not look at how their cluster ends."""
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


class TestOnARunningCluster:
    def test_grows_on_resume_and_leaves_what_is_done_alone(self, cluster, kit, sequential):
        swept, grown = sequential.directory, cluster.place / "grown"
        shutil.copytree(swept, grown, ignore=shutil.ignore_patterns("tune"))
        before = kit.decisions(swept)
        fewer = ("--keep-checkpoints", "best:1", "train.checkpoint_every=3")
        options = ("--address", cluster.address, "--max-concurrent", 1, *fewer)
        ran = cluster.place.run("--resume", grown, "--trials", 10, *options)
        assert ran.status == 0, ran.text
        assert kit.decisions(grown)[: len(before)] == before
        assert [e["trial"] for e in kit.events(grown, "handed_out")] == list(range(10))
        pd.testing.assert_frame_equal(
            kit.reports(grown).query("trial < 8"), kit.reports(swept), check_index_type=False
        )
        frame = load_sweep(grown)
        assert (frame["checkpoint"] != "").tolist() == frame["is_best"].tolist()

    def test_one_bad_trial_does_not_end_the_sweep(self, cluster, kit):
        place, directory = cluster.place, cluster.place / "one-bad"
        ran = place.run(
            kit.TOY, "--space", place.space(FAILING, "failing"), "--dir", directory,
            "--address", cluster.address, "--trials", 4, "--max-concurrent", 1,
        )
        found = load_sweep(directory)
        failed = found["config/model.explode"] == 1.0
        assert 0 < failed.sum() < 4
        assert not failed.iloc[-1], "the sweep went on after the last failure"
        assert ran.status == 3, ran.text
        assert f"{failed.sum()} of 4 trials failed" in ran.out
        assert ((found["state"] == "failed") == failed).all()
        for trial, reason in found.loc[failed].set_index("trial")["stop_reason"].items():
            *rest, last = (directory / f"trials/{trial:04d}/error.txt").read_text().splitlines()
            assert last == reason
            assert "squared" in reason or "absolute" in reason  # the term is named
            assert any("Traceback" in line for line in rest)

    def test_failures_in_a_row_end_it_and_say_what_they_share(self, cluster, kit):
        place, directory = cluster.place, cluster.place / "all-bad"
        space = place.space("model.explode: {uniform: [0.9, 1.0]}", "all-bad")
        ran = place.run(
            kit.TOY, "--space", space, "--dir", directory, "--address", cluster.address,
            "--budget", 9, "--max-failed-in-a-row", 2,
        )
        assert ran.status == 1, ran.text
        failed = len(load_sweep(directory))
        assert failed in (2, 3)  # two at a time: the other one is waited for
        assert f"Sweep ended for its failures: {failed} failed." in ran.out
        assert f"ended: {failed} failures in a row, without a report between them." in ran.out
        assert f"{failed} of the {failed} failed trials: " in ran.out
        assert "all of them have" not in ran.out, "two or three draws lie anywhere"
        again = f"--resume {directory} --address {cluster.address} --max-failed-in-a-row 4\n"
        assert again in ran.out and "With --max-failures 1 the trials" in ran.out

    def test_retry_goes_on_from_the_last_checkpoint(self, cluster, kit):
        """The sample that cannot be read comes late in the epoch, and comes again."""
        place, directory = cluster.place, cluster.place / "retried"
        options = ("--trials", 1, "--scheduler", "none", "--max-failures", 1)
        ran = place.run(
            kit.TOY, "--space", place.space(), "--dir", directory, *options,
            "--address", cluster.address,
            "data.fail_at=3", "data.samples=160", "train.report_every=2",
        )
        assert ran.status == 1, ran.text
        assert "1 of 1 trial failed" in ran.out
        segments = [(e["trial"], e["segment"]) for e in kit.events(directory, "handed_out")]
        assert segments == [(0, 0), (0, 1)]
        reasons = set(load_sweep(directory)["stop_reason"])
        assert reasons == {"RuntimeError: sample 3 cannot be read"}
        assert "Traceback" in (directory / "trials/0000/error.txt").read_text()
        seen = load_reports(directory)
        assert len(seen), "no trial came as far as a checkpoint: choose another sample"
        assert (seen["segment"] == 0).any()  # the second segment did not make them again
        reached = seen.groupby("trial")["step"].max()
        for event in kit.events(directory, "ended"):
            assert event["step"] == reached.get(event["trial"], 0)

    def test_time_budget_stops_and_can_be_resumed(self, cluster, kit):
        place, directory = cluster.place, cluster.place / "budget"
        options = ("--trials", 40, "--scheduler", "none", "--time-budget", 4)
        options += ("--max-concurrent", 1)  # one process, which takes seconds to import
        ran = place.run(
            kit.TOY, "--space", place.space(), "--dir", directory, *options,
            "--address", cluster.address, "data.delay_seconds=0.05",
        )
        assert ran.status == 130, ran.text
        assert "time budget of 4 s" in ran.out
        assert f"--resume {directory}" in ran.out
        left = load_sweep(directory)
        assert 0 < len(left) < 40
        assert set(left["state"]) <= {"complete", "interrupted"}

    def test_ctrl_c_lock_and_resume(self, place, cluster, kit, sequential, capsys):
        """Ctrl-C ends a sweep with its own cluster; it goes on on another."""
        directory = place / "sweep"
        slow = [*kit.sequential_options(place, directory), "data.delay_seconds=0.03"]
        running = place.start(kit.TOY, *slow)
        kit.until(lambda: len(kit.events(directory, "ended")) >= 2)
        assert main(["--resume", str(directory)]) == 2
        (refusal,) = capsys.readouterr().err.splitlines()
        assert f"{directory} is being written by process {running.pid} on" in refusal
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole group hears it
        ran = place.finish(running)
        assert ran.status == 130, ran.text
        assert "Traceback" not in ran.text, ran.text
        assert not (directory / "lock").exists()
        line = next(row for row in ran.out.splitlines() if "--resume" in row)
        assert shlex.split(line) == [
            "python", "-m", "ray_jobs.sweep", "--resume", str(directory),
        ]
        gone = {"host": socket.gethostname(), "pid": 2**22 - 1, "since": time.time() - 60}
        (directory / "lock").write_text(json.dumps({**gone, "session": "old"}))
        options = ("--address", cluster.address, "--max-concurrent", 1)
        resumed = cluster.place.run("--resume", directory, *options)
        assert resumed.status == 0, resumed.text
        assert f"took over the lock of process {2**22 - 1}" in resumed.err
        kit.check_each_once(directory, 8)
        kit.check_equal(directory, sequential.directory)


def test_what_others_are_compared_with_is_whole_and_leaves_no_process(sequential):
    """That it would be decided the same twice is shown by all that come to it disturbed, and by
    its simulation.
    """
    assert not sequential.left
    trials = load_sweep(sequential.directory)
    assert {"complete", "stopped"} == set(trials["state"])
    assert np.isfinite(trials["value"]).all()


@pytest.mark.last
class TestRefusals:
    """What can be said before a cluster is asked for is said at once, in words, with status 2."""

    def test_dry_run_starts_nothing(self, place, kit, capsys, monkeypatch):
        monkeypatch.setenv("RAY_TMPDIR", str(place.path))
        monkeypatch.setenv("COLUMNS", "200")
        directory = place / "sweep"
        options = ("--space", str(place.space()), "--dir", str(directory), "--trials", "5")
        assert main([kit.TOY, *options, "--dry-run"]) == 0
        said = capsys.readouterr().out
        for expected in ("val.mse (min)", "5", "optimizer.lr", "0.001", str(directory)):
            assert expected in said
        assert not directory.exists()
        assert not (place / "ray").exists()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("{toy} --space {data} --metric val.noisy", ["val.noisy reads data.*", "val.mse"]),
            ("{toy} --space {space} --metric train.loss.total", ["weight", "val.mse"]),
            ("{toy} --space {space} --metric val.diagnostic", ["without a better direction"]),
            ("{toy} --space {space} --metric val.mze", ["no metric 'val.mze'", "val.mse"]),
            ("{toy} --space {space} --mode max", ["val.mse is better when min"]),
            ("{toy} --space {space} optimiser.lr=1", ["'optimiser.lr'", "optimizer.lr"]),
            ("{toy} --space {space} optimizer.lr=0.1", ["optimizer.lr is searched", "override"]),
            ("{toy} --space {space} train.steps=0", ["train.steps", "1"]),
            ("{toy} --space {unknown}", ["'model.dropot'", "model.dropout"]),
            ("{toy} --space {illegal}", ["model.dropout", "0.9"]),
            ("{toy} --space nowhere.yaml", ["nowhere.yaml", "No such file"]),
            ("{toy}", ["no search space of its own", "YAML"]),
            (f"{OURS} --space other", [f"{OURS} has no space 'other'", *spaces_of(OURS)]),
            (f"{OURS} --preset other", [f"{OURS} has no preset 'other'", *list_presets(OURS)]),
            (f"{OURS}x", [f"there is no system '{OURS}x'", *SYSTEMS]),
            ("{toy} --space {space} --dir s3://bucket/x", ["s3://bucket/x", "not supported"]),
            ("--resume {empty}", ["is not a sweep directory"]),
            ("", ["name a system"]),
        ],
    )
    def test_says_what_is_wrong(self, shared_place, kit, capsys, arguments, expected):
        (shared_place / "empty").mkdir(exist_ok=True)
        named = {
            "toy": kit.TOY,
            "space": shared_place.space(),
            "data": shared_place.space("data.noise: {uniform: [0.0, 1.0]}", "data"),
            "unknown": shared_place.space("model.dropot: {uniform: [0.0, 0.5]}", "unknown"),
            "illegal": shared_place.space("model.dropout: {uniform: [0.0, 2.0]}", "illegal"),
            "empty": shared_place / "empty",
        }
        given = arguments.format(**named).split()
        if "--dir" not in given and "--resume" not in given:
            given += ["--dir", str(shared_place / "refused")]
        assert main(given) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        for part in expected:
            assert part in said.err
        assert not (shared_place / "refused").exists()
