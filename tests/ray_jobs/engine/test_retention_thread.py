"""What a sweep leaves on disk under each `--keep-checkpoints`, and who hears of it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict

import pytest

from ray_jobs import evaluate, generate, train
from ray_jobs.engine import trial as segments
from ray_jobs.engine.driver import Driver
from ray_jobs.engine.retention_thread import RetentionThread
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.jobs import Job
from search.objectives import Goal, Objective
from search.options import RUNGS, Retention
from search.optuna.mirror import Mirror
from search.plan import POPULATIONS, Plan
from search_spaces.domains import LogUniform
from search_spaces.space import Space
from settings.flat import flatten
from settings.paths import SweepPaths
from settings.stop_reasons import STOP_REASON
from trainables.checkpoints import checkpoint
from trainables.run import LocalRun, decision_part
from trainables.toy import Toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SETTINGS = {"train.steps": 18, "train.report_every": 2, "train.tensorboard": False}
TOY = "trainables.toy:Toy"


class Sweep:
    """A sweep of real trainings in this process, without Ray: its driver hands out segments, each
    is trained to its end, and the driver looks at the disk as after a second of Tune's loop.
    """

    def __init__(self, directory, keep="all", settings=None, **planned):
        space = Space("rate", "toy", {"optimizer.lr": LogUniform(1e-3, 1.0)})
        options = {"trials": 12, "seed": 3, "sampler": "random", "scheduler": "brackets"}
        goal = Goal((Objective("val.mse", "min"),))
        self.plan = Plan(
            space=space, goal=goal, steps=18, report_every=2, **{**options, **planned}
        )
        self.directory, self.paths, self.said = directory, SweepPaths(directory), []
        directory.mkdir(exist_ok=True)
        self.paths.lock.write_text(json.dumps({"session": "s"}))
        context = SweepContext(
            system=TOY,
            settings={**flatten(Toy.Settings()), **SETTINGS, **(settings or {})},
            directory=str(directory),
            cache=str(directory),
            session="s",
            objective=("val.mse", "min"),
            columns=("val.mse",),
            workers=1,
            cpus=1.0,
            gpus=0.0,
            lends_checkpoints=self.plan.scheduler in POPULATIONS,
            rungs=self.plan.rungs,
            keeps_rungs=keep == RUNGS,
        )
        self.owner = True
        self.driver = Driver(
            plan=self.plan,
            context=context,
            log=EventLog(self.paths.log),
            mirror=Mirror(directory / "journal.log", self.plan, "rate"),
            max_concurrent=1,
            preflight=lambda sampled: [],
            still_owner=lambda: self.owner,
        )
        self.retention = RetentionThread(Retention.parse(keep), self.driver, self.said.append)

    def run(self, segments=math.inf):
        """All segments that are left, or some."""
        while segments and isinstance(job := self.driver.next("only"), Job):
            self.train(job)
            self.retention.look()
            segments -= 1
        if segments:
            self.driver.decider.record("finished")
        self.retention.close()
        return self

    def train(self, job):
        def tell(report):
            part = decision_part(report, ("val.mse",))
            told = (int(part["step"]), part["values"], 1.0, time.time())
            if self.driver.reported("only", *told, str(part.get(STOP_REASON, ""))):
                raise SystemExit

        fields = {key: getattr(job, key) for key in ("trial", "segment", "seed", "stop_step")}
        fields |= {"resume": job.resume, "start": job.start, "rungs": []}
        payload = {"context": asdict(self.driver.context), "job": fields, "sampled": job.sampled}
        with contextlib.suppress(SystemExit):
            segments._fit(payload, LocalRun, {"on_report": tell})
        self.driver.ended("only", failed=False)

    def left(self):
        """Trial -> the steps of its checkpoints."""
        folders = {n: self.paths.trial(n).checkpoints for n in self.driver.state.trials}
        return {
            number: [checkpoint.step_of(path) for path in checkpoint.available(folder)]
            for number, folder in folders.items()
        }

    def numbers(self, *states):
        return {n for n, t in self.driver.state.trials.items() if t.status in states}

    def bytes(self):
        files = self.paths.trials.glob("*/checkpoints/*/*")
        return sum(file.stat().st_size for file in files)

    def decided(self):
        unequal = ("time", "seconds")
        events = self.driver.log.read()
        return [{k: v for k, v in event.items() if k not in unequal} for event in events]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, module_on_one_thread):
    """Sweeps of 12 trials, by what they keep and their scheduler."""

    def made(keep, scheduler):
        if (keep, scheduler) not in done:
            directory = tmp_path_factory.mktemp("sweep") / "it"
            done[keep, scheduler] = Sweep(directory, keep, scheduler=scheduler).run()
        return done[keep, scheduler]

    done = {}
    return made


SCHEDULERS = pytest.mark.parametrize(
    "scheduler", ["asha", pytest.param("brackets", marks=pytest.mark.slow)]
)


@SCHEDULERS
def test_it_changes_no_decision_and_no_number(swept, scheduler):
    whole = swept("all", scheduler)
    assert len(whole.numbers("complete")) >= 2 and len(whole.numbers("paused", "stopped")) >= 3
    for keep in ("best:2", "rungs"):
        found = swept(keep, scheduler)
        assert found.decided() == whole.decided()
        assert not found.said


@SCHEDULERS
def test_all_leaves_what_the_trials_leave(swept, scheduler):
    sweep = swept("all", scheduler)
    assert not list(sweep.directory.rglob(checkpoint.REMOVED))
    assert sweep.retention._thread is None
    assert {len(steps) for n, steps in sweep.left().items() if n in sweep.numbers("complete")} <= {
        2,
        3,
    }


@SCHEDULERS
def test_the_best_alone_keep_theirs(swept, scheduler):
    sweep, whole = swept("best:2", scheduler), swept("all", scheduler)
    left, trials = sweep.left(), sweep.driver.state.trials
    complete = sorted(sweep.numbers("complete"), key=lambda n: trials[n].value)
    for number in complete[:2]:
        best = best_step(sweep, number)
        assert left[number] == sorted({best, 18})
    assert not any(left[number] for number in complete[2:])
    assert not any(left[number] for number in sweep.numbers("stopped"))
    for number in sweep.numbers("paused"):
        assert left[number] == sorted({best_step(sweep, number), trials[number].step})
    assert sweep.bytes() < (0.8 if scheduler == "brackets" else 0.2) * whole.bytes()


@SCHEDULERS
def test_rungs_are_kept_with_the_best_and_the_newest(swept, scheduler):
    sweep = swept("rungs", scheduler)
    assert sweep.plan.rungs == (2, 6)
    for number, steps in sweep.left().items():
        reached = sweep.driver.state.trials[number].step
        rungs = {rung for rung in sweep.plan.rungs if rung <= reached}
        assert steps == sorted({*rungs, reached, best_step(sweep, number)})


def best_step(sweep, number):
    lines = sweep.paths.reports_of(number).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return min(rows, key=lambda row: row["val.mse"])["step"]


@SCHEDULERS
def test_reports_without_a_checkpoint_change_no_decision(swept, tmp_path, scheduler):
    """Every third report has one, and every rung."""
    often = {"train.checkpoint_every": 3}
    rare = Sweep(tmp_path / "rare", settings=often, scheduler=scheduler).run()
    assert rare.decided() == swept("all", scheduler).decided()
    trials = rare.driver.state.trials
    assert all(steps[-1] == trials[number].step for number, steps in rare.left().items())


@pytest.mark.slow
def test_a_population_is_left_alone_until_its_end(tmp_path):
    """Members copy each other, also those that have ended."""
    planned = {"scheduler": "pbt", "trials": 6, "grace": 4}
    whole = Sweep(tmp_path / "whole", **planned).run()
    kept = Sweep(tmp_path / "kept", "best:1", {"train.checkpoint_every": 3}, **planned).run()
    assert kept.decided() == whole.decided()
    assert any(event.get("from") for event in whole.decided())
    assert sum(bool(steps) for steps in kept.left().values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["all", "best:1"])
def test_a_population_that_has_ended_may_grow(tmp_path, keep):
    """The first members have given most of their checkpoints up, or all."""
    planned = {"scheduler": "pbt", "grace": 4}
    Sweep(tmp_path / "sweep", keep, trials=6, **planned).run()
    grown = Sweep(tmp_path / "sweep", keep, trials=12, **planned)
    grown.driver.decider.record("resumed")
    grown.run()
    assert grown.numbers("complete") == set(range(12))
    assert any(event.get("from") and event["trial"] >= 6 for event in grown.decided())


def test_what_a_killed_driver_has_left_is_deleted_by_the_next(swept, tmp_path):
    """The driver before ended without deleting anything: under `all`, which is the most."""
    directory = tmp_path / "sweep"
    Sweep(directory, scheduler="asha").run(segments=9)
    resumed = Sweep(directory, "best:2", scheduler="asha")
    resumed.driver.decider.record("resumed")
    resumed.run()
    assert resumed.left() == swept("best:2", "asha").left()


def test_a_sweep_that_is_done_may_keep_less_by_a_resume(swept, tmp_path):
    """It has nothing to train, and Tune's loop may not turn once."""
    directory = tmp_path / "sweep"
    done = Sweep(directory, scheduler="asha").run()
    resumed = Sweep(directory, "best:1", scheduler="asha")
    resumed.driver.decider.record("resumed")
    resumed.run()
    (best,) = (number for number, steps in resumed.left().items() if steps)
    trials = done.driver.state.trials
    assert best == min(done.numbers("complete"), key=lambda number: trials[number].value)


def test_who_has_lost_the_sweep_deletes_nothing(tmp_path):
    directory = tmp_path / "sweep"
    before = Sweep(directory, scheduler="asha").run(segments=9).left()
    lost = Sweep(directory, "best:1", scheduler="asha")
    lost.owner = False
    lost.retention.look()
    lost.retention.close()
    assert lost.left() == before
    (said,) = lost.said
    assert said.endswith("no checkpoint any more (another process has taken this sweep over).")


def test_a_checkpoint_that_cannot_be_deleted_is_told_once(tmp_path):
    """A file stands where the folder of a checkpoint that is being deleted would go."""
    directory = tmp_path / "sweep"
    sweep = Sweep(directory, scheduler="asha").run(segments=9)
    again = Sweep(directory, "best:1", scheduler="asha")
    for folder in sweep.paths.trials.glob("*/checkpoints"):
        (folder / ".removed-x").write_text("")
    again.retention.look()
    again.retention.close()
    (said,) = again.said
    assert said.startswith("--keep-checkpoints best:1: a checkpoint could not be deleted (")


def test_a_storage_that_stumbles_is_told_and_the_rest_is_deleted(tmp_path):
    """The first look at the lock fails. Emulated: no file system here stumbles on request."""
    directory = tmp_path / "sweep"
    before = Sweep(directory, scheduler="asha").run(segments=9).left()
    again = Sweep(directory, "best:1", scheduler="asha")
    problems = [OSError(116, "Stale file handle")]

    def still_owner():
        if problems:
            raise problems.pop()
        return True

    again.driver.still_owner = still_owner
    again.retention.look()
    again.retention.close()
    (said,) = again.said
    assert "could not be deleted ([Errno 116] Stale file handle). A resume deletes it." in said
    assert sum(map(len, again.left().values())) < sum(map(len, before.values()))


def test_who_reads_one_that_is_gone_hears_which_option_it_was(swept, tmp_path, capsys):
    sweep = swept("best:2", "asha")
    number = min(n for n, steps in sweep.left().items() if not steps)
    folder = sweep.paths.trial(number).root
    gone = folder / "checkpoints/step-00000002"
    made = ["--input", str(tmp_path), "--output", str(tmp_path / "out")]
    for verb, arguments in (
        (evaluate, [str(folder)]),
        (evaluate, [str(gone)]),
        (generate, ["--checkpoint", str(folder), *made]),
        (train, [TOY, "--no-ray", "--dir", str(tmp_path / "new"), f"train.init_from={folder}"]),
    ):
        assert verb.main(arguments) == 2
        said = capsys.readouterr().err
        assert "were deleted by --keep-checkpoints best:2, an option of the sweep" in said
        assert f"--from-sweep {sweep.directory.resolve()} --trial {number:04d} --dir DIR" in said


def test_a_trial_that_goes_on_as_a_training_says_why_it_begins_anew(swept, tmp_path, capsys):
    sweep = swept("best:2", "asha")
    number = min(n for n, steps in sweep.left().items() if not steps)
    folder = tmp_path / "copy"
    (folder / "checkpoints").mkdir(parents=True)
    source = sweep.paths.trial(number)
    for file in (source.settings, source.checkpoints / checkpoint.REMOVED):
        (folder / file.relative_to(source.root)).write_bytes(file.read_bytes())
    assert train.main(["--resume", TOY, "--no-ray", "--dir", str(folder), "train.steps=2"]) == 0
    said = capsys.readouterr().err
    assert "were deleted by --keep-checkpoints best:2" in said
    assert " This starts from step 0" in said
