"""A population's sweep, its lineage, and the schedule that `train` repeats from a file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from ray_jobs import analyze
from ray_jobs.engine.trial import SweepContext, _fit
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from ray_jobs.train import main
from ray_jobs.training.timeline import parts_of
from results.frame import load_sweep
from results.lineage import export_schedule, lineage
from results.store import EventLog, ReportWriter, SweepError
from search.decider import Decider
from search.jobs import Job
from settings.files import read_settings_file, write_settings
from settings.flat import flatten
from settings.resolve import resolve
from settings.schema import SettingsError
from settings.timeline import Stretch
from trainables.checkpoints.changeable import check_changeable
from trainables.conditioner.system import Conditioner
from trainables.configured import Configured
from trainables.hdr_patch.system import HdrPatch
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_on_one_thread")]

TOY = "trainables.toy:Toy"
SPACE = """
optimizer.lr: {log_uniform: [0.01, 1.0]}
loss.absolute.weight: {log_uniform: [0.01, 10.0]}
optimizer.schedule: {choice: [constant, cosine]}
optimizer.final: {uniform: [0.0, 1.0], when: {optimizer.schedule: [cosine]}}
"""
SETTINGS = ("train.steps=24", "train.report_every=2", "train.tensorboard=false", "data.noise=0.5")


def options(root, **changes):
    (root / "space.yaml").write_text(SPACE)
    given = {"space": str(root / "space.yaml"), "overrides": SETTINGS, "trials": 6}
    given |= {"sampler": "random", "scheduler": "pbt", "grace": 4, "seed": 5}
    return SweepOptions(system=TOY, **{**given, **changes})


def sweep(directory, setup, slots, cut=None):
    """Runs a sweep in this process, segment by segment as Ray's actors do; of those that are
    handed out the last one is trained first, so that sources run ahead of who copies them.

    Args:
        cut: a step at which segments of trial 2 are cut short once, and begun again.
    """
    directory.mkdir()
    (directory / "sweep.json").write_text(json.dumps(setup.document))
    (directory / "lock").write_text(json.dumps({"session": "here"}))
    log = EventLog(directory / "log.jsonl")
    decider = Decider(setup.plan, log.append)
    log.append("started", session="here")
    context = SweepContext(
        system=TOY,
        settings=dict(setup.document["settings"]),
        directory=str(directory),
        cache=str(directory / "cache"),
        session="here",
        objective=(setup.plan.metric, setup.plan.mode),
        columns=setup.plan.goal.columns,
        workers=1,
        cpus=1.0,
        gpus=0.0,
        lends_checkpoints=True,
    )
    waiting = []
    while True:
        while len(waiting) < slots and isinstance(job := decider.next(), Job):
            decider.hand_out(job)
            waiting.append(job)
        if not waiting:
            return decider.state
        job = waiting.pop()
        run = segment(context, job, setup.plan.metric)
        if cut is not None and job.trial == 2 and job.stop_step > cut:
            half = replace(job, stop_step=job.stop_step - 2)
            run, cut = segment(context, half, setup.plan.metric), None
            decider.ended(job, run.step, run.values, state="interrupted")
            continue
        decider.reported(job, run.step, run.values)
        decider.ended(job, run.step, run.values)


def segment(context, job, metric):
    last = SimpleNamespace(step=0, values={})

    def heard(report):
        last.step, last.values = int(report["step"]), {metric: report[metric]}

    keys = ("trial", "segment", "seed", "stop_step", "resume", "start")
    payload = {
        "context": asdict(context),
        "job": {key: getattr(job, key) for key in keys},
        "sampled": dict(job.sampled),
    }
    _fit(payload, LocalRun, {"on_report": heard})
    return last


@pytest.fixture(scope="module")
def swept(tmp_path_factory, module_on_one_thread):
    """Six members on three slots."""
    root = tmp_path_factory.mktemp("pbt")
    setup = new_setup(options(root))
    state = sweep(root / "sweep", setup, slots=3)
    return SimpleNamespace(root=root, directory=root / "sweep", setup=setup, state=state)


def reports(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "segment")} for row in lines]


def chained(directory, stages):
    """What the stages of a lineage have reported, one after the other."""
    found = []
    for stage in stages:
        own = reports(directory / f"reports/{stage.trial:04d}.jsonl")
        found += [row for row in own if stage.from_step < row["step"] <= stage.to_step]
    return found


def run(file, directory, *arguments):
    return main([TOY, "--settings", str(file), "--dir", str(directory), "--no-ray", *arguments])


class TestLineage:
    def test_every_member_is_trained_to_its_end_and_some_copied(self, swept):
        trials = swept.state.trials.values()
        assert [trial.status for trial in trials] == ["complete"] * 6
        assert sum(span.start is not None for trial in trials for span in trial.spans.values()) > 2

    def test_its_stages_cover_the_training_and_say_who_it_was(self, swept):
        for number, record in swept.state.trials.items():
            stages = lineage(swept.directory, number)
            assert stages[0].from_step == 0 and stages[-1].to_step == 24
            assert all(a.to_step == b.from_step for a, b in pairwise(stages))
            assert stages[-1].trial == number
            assert stages[-1].settings == record.sampled
            for before, after in pairwise(stages):
                copied = swept.state.trials[after.trial].spans[after.from_step].start
                assert copied == (before.trial, before.to_step)

    def test_reports_have_every_step_once(self, swept):
        for number in range(6):
            rows = reports(swept.directory / f"reports/{number:04d}.jsonl")
            assert [row["step"] for row in rows] == list(range(2, 25, 2))

    def test_slots_and_interruptions_change_no_number(self, swept, tmp_path):
        sweep(tmp_path / "again", swept.setup, slots=6, cut=8)
        for number in range(6):
            name = f"reports/{number:04d}.jsonl"
            assert reports(tmp_path / "again" / name) == reports(swept.directory / name)

    def test_unknown_trials_are_refused(self, swept):
        with pytest.raises(SweepError, match=r"has no trial 17\. Its trials: 0, 1"):
            lineage(swept.directory, 17)


class TestReplay:
    def test_the_file_trains_the_same_numbers(self, swept, tmp_path):
        """Of every member, with the weights that it took over: each report, bit by bit."""
        lengths = []
        for number in swept.state.trials:
            file = tmp_path / f"{number}.yaml"
            stages = export_schedule(swept.directory, number, file)
            assert run(file, tmp_path / str(number)) == 0
            assert reports(tmp_path / f"{number}/reports.jsonl") == chained(
                swept.directory, stages
            )
            lengths.append(len(stages))
        assert max(lengths) > 1, "no member has copied another: the test shows nothing"

    def test_the_file_reads_back(self, swept, tmp_path):
        for suffix in ("yaml", "json"):
            stages = export_schedule(swept.directory, 0, tmp_path / f"found.{suffix}")
            found = read_settings_file(tmp_path / f"found.{suffix}")
            assert [stretch.until for stretch in found.timeline] == [s.to_step for s in stages]
            for stretch, stage in zip(found.timeline, stages, strict=True):
                assert stretch.values == {"train.seed": stage.seed, **stage.settings}
            assert found.values == read_settings_file(tmp_path / "found.yaml").values
            assert found.about.startswith("schedule of trial 0 of the sweep sweep: to step")

    def test_cut_short_and_resumed_it_is_the_same(self, swept, tmp_path):
        number = max(range(6), key=lambda n: len(lineage(swept.directory, n)))
        export_schedule(swept.directory, number, tmp_path / "found.yaml")
        assert run(tmp_path / "found.yaml", tmp_path / "whole") == 0
        whole = reports(tmp_path / "whole/reports.jsonl")
        timeline = read_settings_file(tmp_path / "found.yaml").timeline
        ends = [stretch.until for stretch in timeline]
        for stop in {ends[0], ends[0] + 2, 22}:
            killed = tmp_path / f"killed-{stop}"
            train_until(stop, tmp_path / "found.yaml", killed)
            assert len(reports(killed / "reports.jsonl")) == stop // 2
            assert main([TOY, "--dir", str(killed), "--no-ray", "--resume"]) == 0
            assert reports(killed / "reports.jsonl") == whole

    def test_another_seed_trains_the_same_schedule(self, swept, tmp_path):
        number = max(range(6), key=lambda n: len(lineage(swept.directory, n)))
        export_schedule(swept.directory, number, tmp_path / "found.yaml")
        assert run(tmp_path / "found.yaml", tmp_path / "a", "train.seed=77") == 0
        assert run(tmp_path / "found.yaml", tmp_path / "b") == 0
        one, other = (reports(tmp_path / f"{name}/reports.jsonl") for name in "ab")
        assert [row["train.lr"] for row in one] == [row["train.lr"] for row in other]
        assert [row["val.mse"] for row in one] != [row["val.mse"] for row in other]

    def test_an_unfinished_trial_has_no_schedule(self, swept, tmp_path):
        lines = (swept.directory / "log.jsonl").read_text().splitlines()
        half = next(i for i, line in enumerate(lines) if '"stop_step":16' in line)
        (tmp_path / "log.jsonl").write_text("\n".join(lines[:half]) + "\n")
        (tmp_path / "sweep.json").write_text((swept.directory / "sweep.json").read_text())
        with pytest.raises(SweepError, match="a schedule is that of a whole training"):
            export_schedule(tmp_path, 0, tmp_path / "none.yaml")


class TestExport:
    """By the verb."""

    def test_the_best_or_one_by_its_number(self, swept, tmp_path, capsys):
        frame = load_sweep(swept.directory)
        best = frame.loc[frame["is_best"], "trial"].item()
        for given, number in (([], best), (["--trial", "best"], best), (["--trial", "0"], 0)):
            assert export(swept, tmp_path / "found.yaml", *given) == 0
            assert f"Schedule of trial {number} (" in capsys.readouterr().out
            about = read_settings_file(tmp_path / "found.yaml").about
            assert about.startswith(f"schedule of trial {number} of the sweep")

    @pytest.mark.parametrize(
        ("name", "trial", "says"),
        [
            ("found.txt", "0", "found.txt: a settings file ends in"),
            ("found.yaml", "17", "--trial is best or one of 0 .. 5, not '17'."),
            ("found.yaml", "-1", "--trial is best or one of 0 .. 5, not '-1'."),
        ],
    )
    def test_what_it_refuses(self, swept, tmp_path, capsys, name, trial, says):
        assert export(swept, tmp_path / name, f"--trial={trial}") == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("analyze: ") and says in said
        assert not list(tmp_path.iterdir())

    def test_a_trial_is_asked_for_in_vain_without_a_file(self, swept, capsys):
        assert analyze.main([str(swept.directory), "--trial", "0"]) == 2
        assert "name its file with --export-schedule" in capsys.readouterr().err


def export(swept, file, *arguments):
    given = [str(swept.directory), "--no-page", "--export-schedule", str(file)]
    return analyze.main([*given, *arguments])


def train_until(stop, file, directory):
    """What `train` leaves that is killed after its checkpoint of step `stop`."""
    system = load_system(TOY)
    resolved = resolve(system.Settings, TOY, file=file, with_timeline=True)
    flat = flatten(resolved.settings)
    write_settings(directory / "settings.json", flat, timeline=resolved.timeline)
    begin = 0
    for part in parts_of(system, resolved):
        if begin < stop:
            run = LocalRun(
                directory,
                reports=ReportWriter(directory / "reports.jsonl"),
                objective=("val.mse", "min"),
                resume=begin > 0,
                stop_step=min(part.stop_step, stop),
            )
            fit(system, part.settings, run, None)
        begin = part.stop_step


class TestTimelineOfOnesOwn:
    BASE = ("train.steps=12", "train.report_every=4", "train.tensorboard=false")

    def file(self, tmp_path, *stretches):
        path = tmp_path / "own.yaml"
        write_settings(path, {"data.noise": 0.3}, timeline=[Stretch(*s) for s in stretches])
        return path

    def test_each_stretch_has_its_settings(self, tmp_path):
        path = self.file(tmp_path, (4, {"optimizer.lr": 0.3}), (12, {"optimizer.lr": 0.02}))
        assert run(path, tmp_path / "run", *self.BASE) == 0
        rows = reports(tmp_path / "run/reports.jsonl")
        assert [(row["step"], row["train.lr"]) for row in rows] == [
            (4, 0.3),
            (8, 0.02),
            (12, 0.02),
        ]

    def test_an_override_holds_throughout(self, tmp_path):
        path = self.file(tmp_path, (4, {"optimizer.lr": 0.3}), (12, {"optimizer.lr": 0.02}))
        assert run(path, tmp_path / "run", *self.BASE, "optimizer.lr=0.1") == 0
        assert {row["train.lr"] for row in reports(tmp_path / "run/reports.jsonl")} == {0.1}

    @pytest.mark.parametrize(
        ("stretches", "words"),
        [
            ([(4, {"optimizer.lr": 0.3})], "ends at step 4, and train.steps is 12"),
            ([(12, {"model.dropout": 0.3})], "model.dropout cannot change"),
            ([(12, {"optimizer.lr": 99.0})], "optimizer.lr"),
            ([(12, {"optimizer.rate": 0.1})], "there is no setting 'optimizer.rate'"),
            ([(8, {}), (8, {})], "a whole number above 8"),
        ],
    )
    def test_what_it_cannot_say(self, tmp_path, capsys, stretches, words):
        path = self.file(tmp_path, *stretches)
        assert run(path, tmp_path / "run", *self.BASE) == 2
        assert words in capsys.readouterr().err

    def test_a_sweep_does_not_follow_one(self, tmp_path):
        path = self.file(tmp_path, (24, {"optimizer.lr": 0.3}))
        with pytest.raises(SettingsError, match="follows and nothing else"):
            new_setup(options(tmp_path, file=str(path), scheduler="none"))


class TestChangeable:
    def test_pbt_refuses_what_a_checkpoint_is_built_on(self, tmp_path):
        (tmp_path / "wide.yaml").write_text(
            "model.dropout: {uniform: [0.0, 0.5]}\ntrain.batch_size: {choice: [4, 8]}\n"
            "optimizer.lr: {uniform: [0.1, 0.2]}\n"
        )
        given = replace(options(tmp_path), space=str(tmp_path / "wide.yaml"))
        with pytest.raises(SettingsError, match=r"model\.dropout, train\.batch_size cannot") as e:
            new_setup(given)
        may = "loss.*, optimizer.*, train.finite_check_every"
        assert f"What may: {may}, but for optimizer.kind" in str(e.value)

    @pytest.mark.parametrize(
        ("system", "allowed", "refused"),
        [
            (HdrPatch(), ["loss.hole.weight", "optimizer.lr", "loss.l1.enabled"], "hdr.mask"),
            (HdrPatch(), ["train.finite_check_every"], "train.batch_size"),
            (Conditioner(), ["augment.noise_sigma", "optimizer.beta1"], "model.dropout"),
            (load_system("trainables.toy:ToyGan"), ["critic.hinge.weight"], "optimizer.kind"),
        ],
    )
    def test_by_system(self, system, allowed, refused):
        settings = system.Settings()
        assert set(allowed) <= set(flatten(settings))
        check_changeable(allowed, Configured(system, settings), "pbt")
        with pytest.raises(SettingsError, match=refused):
            check_changeable([*allowed, refused], Configured(system, settings), "pbt")

    def test_terms_stay_on_or_off_under_a_balancer(self):
        from settings.flat import replace as changed

        system = load_system(TOY)
        key, settings = "loss.absolute.enabled", system.Settings()
        check_changeable([key], Configured(system, settings), "pbt")
        balanced = changed(settings, {"loss.balancer.kind": "uncertainty"})
        with pytest.raises(SettingsError, match=key):
            check_changeable([key], Configured(system, balanced), "pbt")
        check_changeable(["loss.balancer.lr"], Configured(system, balanced), "pbt")
