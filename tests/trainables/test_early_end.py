"""Trainings that end by themselves: equal after a resume, told once, and for good."""

from __future__ import annotations

import json

import pytest

from metrics.metric import Metric
from results.store import ReportWriter
from settings.schema import SettingsError
from settings.stop_reasons import STOP_REASON, HealthStop
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.run import LocalRun, WorkerRun, decision_part
from trainables.toy import Toy

WORSE = {
    "optimizer__kind": "sgd",
    "optimizer__lr": 0.3,
    "data__noise": 1.0,
    "train__steps": 40,
    "train__report_every": 1,
}
"""The toy moves about its minimum: some validations are better than the best, most are not."""


class Aimless(Toy):
    name = "tests:Aimless"

    def metrics(self, settings, prepared):
        (first, *_) = super().metrics(settings, prepared)
        return [Metric("mse", "", None, first.measure, "no direction")]


def by_hand(values, patience, mode="min"):
    """How many validations a training of these values sees."""
    best, waited = None, 0
    for count, value in enumerate(values, 1):
        if best is None or (value < best if mode == "min" else value > best):
            best, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            return count
    return len(values)


@pytest.mark.parametrize("patience", [2, 4, 9])
def test_patience_counts_validations_without_improvement(toys, tmp_path, patience):
    whole = toys.train(Toy(), tmp_path / "whole", **WORSE)
    values = [report["val.mse"] for report in whole.history]
    expected = by_hand(values, patience)
    assert patience < expected < len(values), "the values end no training: choose another rate"
    ended = toys.train(
        Toy(), tmp_path / "a", objective=("val.mse", "min"), train__patience=patience, **WORSE
    )
    assert len(ended.history) == expected == ended.report["step"]
    best = min(values[:expected])
    reason = ended.report[STOP_REASON]
    assert reason == (
        f"patience: val.mse was best with {best:.6g} at step {values.index(best) + 1}, "
        f"{patience} validations ago"
    )
    assert all(STOP_REASON not in report for report in ended.history[:-1])
    numbers = {key: value for key, value in ended.report.items() if key != STOP_REASON}
    same_step = whole.history[expected - 1]
    assert toys.without_time(numbers) == toys.without_time(same_step)


def test_patience_waits_for_the_runs_objective_in_its_own_direction(toys, tmp_path):
    whole = toys.train(Toy(), tmp_path / "whole", **WORSE)
    values = [report["val.mse"] for report in whole.history]
    ended = toys.train(
        Toy(), tmp_path / "a", objective=("val.mse", "max"), train__patience=3, **WORSE
    )
    assert ended.report["step"] == by_hand(values, 3, "max")
    absent = toys.train(
        Toy(), tmp_path / "b", objective=("val.absent", "min"), train__patience=3, **WORSE
    )
    assert absent.report["step"] == 3
    assert absent.report[STOP_REASON].startswith("patience: val.absent has never had a value")


def test_without_an_objective_patience_waits_for_the_first_metric(toys, tmp_path):
    with_one, without = (
        toys.train(Toy(), tmp_path / str(n), objective=objective, train__patience=2, **WORSE)
        for n, objective in enumerate([("val.mse", "min"), None])
    )
    assert without.report["step"] == with_one.report["step"] < 40
    with pytest.raises(SettingsError, match=r"train\.patience=2.*better direction"):
        toys.train(Aimless(), tmp_path / "aimless", train__patience=2, **WORSE)


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(toys, tmp_path, stop):
    options = {"objective": ("val.mse", "min"), "train__patience": 6, **WORSE}
    whole = toys.train(Toy(), tmp_path / "whole", **options)
    assert 5 < whole.report["step"] < 40
    toys.train(Toy(), tmp_path / "part", stop=stop, **options)
    rest = toys.train(Toy(), tmp_path / "part", resume=True, **options)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    assert rest.history[0]["step"] == stop + 1


def test_what_has_ended_is_not_trained_again_and_says_so_again(toys, tmp_path):
    told = []
    tree = toys.settings(Toy, train__patience=2, **WORSE)
    with ReportWriter(tmp_path / "reports.jsonl") as reports:
        first = fit(Toy(), tree, LocalRun(tmp_path, reports=reports), None)
    before = (tmp_path / "reports.jsonl").read_bytes()
    with ReportWriter(tmp_path / "reports.jsonl") as reports:
        run = LocalRun(tmp_path, reports=reports, resume=True, on_report=told.append)
        again = fit(Toy(), tree, run, None)
    assert dict(again) == dict(first) == dict(told[0])
    assert len(told) == 1 and run.history == []
    assert (tmp_path / "reports.jsonl").read_bytes() == before
    last = json.loads(before.splitlines()[-1])
    assert last[STOP_REASON] == first[STOP_REASON]


def test_it_goes_on_once_its_rule_is_changed(toys, tmp_path):
    toys.train(Toy(), tmp_path, train__patience=2, **WORSE)
    on = toys.train(Toy(), tmp_path, resume=True, train__patience=0, **WORSE)
    assert on.report["step"] == 40
    assert STOP_REASON not in on.report


def test_the_last_step_is_an_end_of_its_own(toys, tmp_path):
    options = {"objective": ("val.mse", "min"), "train__patience": 2}
    early = toys.train(Toy(), tmp_path / "a", **options, **WORSE)
    steps = int(early.report["step"])
    changes = {**WORSE, "train__steps": steps}
    done = toys.train(Toy(), tmp_path / "b", **options, **changes)
    assert done.report["step"] == steps
    assert STOP_REASON not in done.report


def test_the_last_checkpoint_of_an_ended_training_is_whole(toys, tmp_path):
    ended = toys.train(Toy(), tmp_path, train__patience=2, **WORSE)
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    assert checkpoint.step_of(newest) == ended.report["step"]
    assert checkpoint.read_meta(newest)["report"][STOP_REASON] == ended.report[STOP_REASON]


def test_overfitting_ends_a_training(toys, tmp_path):
    """One point of the line is learnt, and the line is not."""
    changes = {"data__samples": 1, "data__noise": 0.0, "train__batch_size": 1}
    changes |= {"optimizer__lr": 0.3, "train__steps": 60, "loss__absolute__enabled": False}
    whole = toys.train(Toy(), tmp_path / "whole", **changes)
    ratios = [r["val.loss.squared"] / r["train.loss.squared"] for r in whole.history]
    limit = sorted(ratios)[len(ratios) // 2]
    first = next(i for i, ratio in enumerate(ratios) if ratio > limit)
    ended = toys.train(Toy(), tmp_path / "a", train__overfit_ratio=limit, **changes)
    assert ended.report["step"] == whole.history[first]["step"] < 60
    told = HealthStop.parse(ended.report[STOP_REASON])
    assert (told.name, told.threshold, told.step) == ("overfit_ratio", limit, ended.report["step"])
    assert told.value == pytest.approx(ratios[first], rel=1e-5)
    with pytest.raises(SettingsError, match=r"overfit_ratio must be 0 .* or above 1"):
        toys.settings(Toy, train__overfit_ratio=0.5)


def test_a_decision_hears_of_it(tmp_path):
    report = {"step": 5, "seconds": 1.0, "val.mse": None, STOP_REASON: "patience: x"}
    part = decision_part({**report, "val.loss.squared": 2.0}, ("val.mse", "val.loss.squared"))
    assert part == {
        "step": 5.0,
        "seconds": 1.0,
        "values": {"val.loss.squared": 2.0},
        STOP_REASON: "patience: x",
    }
    assert decision_part({"step": 5, "seconds": 1.0}) == {"step": 5.0, "seconds": 1.0}


class SecondRank(WorkerRun):
    """A rank beside the main one, which nobody decides about."""

    tell = LocalRun.tell


def test_every_rank_ends_at_the_same_step(toys, tmp_path):
    """Also one that writes no files: patience does not hang on the checkpoints."""
    tree = toys.settings(Toy, train__patience=2, **WORSE)
    main = fit(Toy(), tree, LocalRun(tmp_path / "0"), None)
    other = fit(Toy(), tree, SecondRank(tmp_path / "1", rank=1), None)
    assert toys.without_time(other) == toys.without_time(main)
    assert not (tmp_path / "1").exists()
