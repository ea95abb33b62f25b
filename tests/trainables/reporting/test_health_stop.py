"""Health in a training: its columns and warnings, and the signs that end it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from losses.balancers.base import FixedWeights
from losses.composite import Composite
from metrics.health import SIGNS, HealthSettings
from settings.flat import flatten, replace
from settings.schema import SettingsError
from settings.stop_reasons import HEALTH, PATIENCE, STOP_REASON, HealthStop
from trainables.checkpoints.checkpoint import find, read_meta
from trainables.contract.examined import SHORT
from trainables.hdr_patch.system import HdrPatch
from trainables.loop import fit
from trainables.reporting.watch import Watch, goes_on
from trainables.run import LocalRun
from trainables.toy import Toy, ToyGan, ToySettings

DIVERGING = {
    "optimizer__kind": "sgd",
    "optimizer__lr": 2.0,
    "train__clip_norm": 0.0,
    "train__steps": 16,
    "train__report_every": 2,
}
"""Every step overshoots the minimum by more than it was away from it."""

MOVING = {
    "optimizer__kind": "sgd",
    "optimizer__lr": 0.8,
    "data__noise": 3.0,
    "train__steps": 30,
    "train__report_every": 1,
}
"""The gradient's norm goes up and down with the noise."""

NORM = "train.grad_norm"


@dataclass(frozen=True, kw_only=True)
class WithHealth(ToySettings):
    health: HealthSettings = field(default_factory=HealthSettings)


class Healthy(Toy):
    name = "tests:Healthy"
    Settings = WithHealth


class HealthyGan(ToyGan):
    name = "tests:HealthyGan"
    Settings = WithHealth


class Starving(FixedWeights):
    """A balancer that gives its second term next to nothing."""

    def weights(self, base, step):
        return dict(zip(base, (1.999, 0.001), strict=True))


class Starved(Healthy):
    name = "tests:Starved"

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        balancer = type("Starving", (), dict(vars(FixedWeights)) | dict(vars(Starving)))()
        composite = Composite(phase.composite.terms, settings.loss, balancer=balancer)
        return [type(phase)("model", ("model",), phase.forward, composite)]


# Columns and warnings


def test_health_adds_its_columns_where_the_tree_has_the_node(toys, tmp_path):
    plain = toys.train(ToyGan(), tmp_path / "plain")
    healthy = toys.train(HealthyGan(), tmp_path / "healthy")
    added = set(healthy.report) - set(plain.report)
    assert added == {
        f"health.{phase}{sign}{end}"
        for phase in ("", "critic.")
        for sign in SIGNS
        for end in ("", ".warned")
    }
    assert {k: healthy.report[k] for k in plain.report if k != "seconds"} == (
        toys.without_time(plain.report)
    )
    assert healthy.report["health.gradient_norm_high"] == healthy.report["train.grad_norm"]


def test_a_sign_is_warned_of_once_also_over_a_resume(toys, tmp_path, capsys):
    changes = {"health__gradient_norm_high": 1e-3, "train__report_every": 2}
    toys.train(Healthy(), tmp_path / "part", stop=6, **changes)
    rest = toys.train(Healthy(), tmp_path / "part", resume=True, **changes)
    said = [row for row in capsys.readouterr().err.splitlines() if "grad_norm" in row]
    assert len(said) == 1 and said[0].startswith("warning: step 2: large train.grad_norm of")
    assert rest.report["health.gradient_norm_high.warned"] == 1.0
    whole = toys.train(Healthy(), tmp_path / "whole", **changes)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)


def test_a_planted_term_is_told_once_also_over_a_resume(toys, tmp_path, capsys):
    changes = {"loss__squared__weight": 100.0, "train__report_every": 2}
    toys.train(Healthy(), tmp_path / "part", stop=6, **changes)
    rest = toys.train(Healthy(), tmp_path / "part", resume=True, **changes)
    said = [row for row in capsys.readouterr().err.splitlines() if "its share began at" in row]
    assert len(said) == 1 and said[0].startswith("warning: step 2: loss.squared was most of")
    whole = toys.train(Healthy(), tmp_path / "whole", **changes)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    kept = [read_meta(find(tmp_path / name))["watch"]["first"] for name in ("part", "whole")]
    assert kept[0] == kept[1] == {
        f"loss.{name}": whole.history[0][f"train.loss.{name}"] for name in ("squared", "absolute")
    }
    capsys.readouterr()
    sound = toys.train(Healthy(), tmp_path / "sound", train__report_every=2)
    assert sound.report["health.term_share.warned"] == 0.0
    assert "its share began at" not in capsys.readouterr().err


def test_a_balancer_that_starves_a_term_is_caught(toys, tmp_path, capsys):
    starved = toys.train(Starved(), tmp_path / "a")
    assert starved.report["health.weight_collapse"] == pytest.approx(0.001)
    assert starved.report["health.weight_collapse.warned"] == 1.0
    assert "weight collapse of loss.absolute" in capsys.readouterr().err
    fixed = toys.train(Healthy(), tmp_path / "b", loss__absolute__weight=1e-4)
    assert fixed.report["health.weight_collapse"] is None, "the user's own weights are meant"
    assert "weight collapse" not in capsys.readouterr().err


def test_the_documents_softmax_weighter_is_caught(toys, tmp_path, capsys):
    """000-M8: learned soft-max weights minimise sum(w L), so all weight goes to the smallest."""
    changes = {"loss__balancer__kind": "softmax", "loss__balancer__lr": 0.3}
    changes |= {"train__steps": 60, "train__report_every": 20, "loss__squared__weight": 1.0}
    caught = toys.train(Healthy(), tmp_path / "a", **changes)
    assert caught.report["health.weight_collapse.warned"] == 1.0
    assert "weight collapse of loss." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm", "inverse_gradient"])
def test_weights_that_bring_terms_to_one_size_do_not_collapse(toys, tmp_path, kind):
    """A large loss has a small weight there by design."""
    changes = {"loss__balancer__kind": kind, "loss__balancer__lr": 0.3}
    report = toys.train(Healthy(), tmp_path, **changes).report
    assert report["health.weight_collapse"] is None


# Stopping


def by_hand(values, threshold, in_a_row):
    """The index of the report at which the value has been above so many times in a row."""
    return next(
        last
        for last in range(in_a_row - 1, len(values))
        if all(value > threshold for value in values[last - in_a_row + 1 : last + 1])
    )


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_divergent_gradient_ends_at_its_step_with_its_text(toys, tmp_path, stop_after):
    whole = toys.train(Healthy(), tmp_path / "whole", **DIVERGING)
    assert whole.report["step"] == 16, "nothing is stopped unless it is asked for"
    norms = [report[NORM] for report in whole.history]
    index = by_hand(norms, 50.0, stop_after)
    assert stop_after <= index < len(norms) - 1, "choose another rate"
    rule = {"health__stop": ("gradient_norm_high",), "health__stop_after": stop_after}
    ended = toys.train(Healthy(), tmp_path / "a", **rule, **DIVERGING)
    step = 2 * (index + 1)
    assert ended.report[STOP_REASON] == (
        f"health: gradient_norm_high {norms[index]:.6g} > 50 at step {step}"
    )
    assert len(ended.history) == index + 1
    assert all(STOP_REASON not in report for report in ended.history[:-1])
    numbers = {key: value for key, value in ended.report.items() if key != STOP_REASON}
    assert toys.without_time(numbers) == toys.without_time(whole.history[index])


def test_only_reports_in_a_row_count(toys, tmp_path):
    whole = toys.train(Healthy(), tmp_path / "whole", **MOVING)
    norms = [report[NORM] for report in whole.history]
    middle = sorted(norms)[len(norms) // 2]
    index = by_hand(norms, middle, 3)
    assert sum(norm > middle for norm in norms[: index + 1]) > 3, "they come in one row"
    rule = {"health__stop": "gradient_norm_high", "health__stop_after": 3}
    rule |= {"health__gradient_norm_stop": middle, "health__gradient_norm_high": middle / 2}
    ended = toys.train(Healthy(), tmp_path / "a", **rule, **MOVING)
    assert ended.report["step"] == index + 1
    told = HealthStop.parse(ended.report[STOP_REASON])
    assert (told.name, told.threshold) == ("gradient_norm_high", middle)
    assert told.value == pytest.approx(norms[index], rel=1e-5)


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_resumed_training_stops_where_an_undisturbed_one_does(toys, tmp_path, before):
    """Also where the row began before the interruption."""
    rule = {"health__stop": "gradient_norm_high", **DIVERGING}
    whole = toys.train(Healthy(), tmp_path / "whole", **rule)
    stop = int(whole.report["step"]) - 2 * before
    toys.train(Healthy(), tmp_path / "part", stop=stop, **rule)
    rest = toys.train(Healthy(), tmp_path / "part", resume=True, **rule)
    assert rest.history[0]["step"] == stop + 2
    assert toys.without_time(rest.report) == toys.without_time(whole.report)


def test_what_was_stopped_stays_so_until_its_rule_is_changed(toys, tmp_path):
    rule = {"health__stop": "gradient_norm_high", **DIVERGING}
    first = toys.train(Healthy(), tmp_path, **rule)
    again = toys.train(Healthy(), tmp_path, resume=True, **rule)
    assert again.report == first.report and again.history == []
    on = toys.train(Healthy(), tmp_path, resume=True, **{**rule, "health__stop": ()})
    assert on.report["step"] == 16 and STOP_REASON not in on.report


def test_each_end_has_its_own_rule():
    tree = flatten(WithHealth())
    before = {key: list(v) if isinstance(v, tuple) else v for key, v in tree.items()}  # as JSON
    reasons = {PATIENCE: "train.patience", HEALTH: "train.overfit_ratio"}
    for reason, key in reasons.items():
        assert not goes_on(reason, before, tree)
        for other in reasons.values():
            assert goes_on(reason, before, {**tree, other: 7}) == (other == key)
    stopping = {**tree, "health.stop": ("term_share",)}
    assert goes_on(HEALTH, before, stopping) and not goes_on(PATIENCE, before, stopping)
    earlier = {key: v for key, v in before.items() if not key.startswith("health.stop")}
    assert not goes_on(HEALTH, earlier, stopping), "the version before knew no such key"


def test_a_checkpoint_of_the_version_before_has_no_rows(toys, tmp_path):
    system, tree = Healthy(), toys.settings(Healthy)
    declared = system.phases(tree, None), system.metrics(tree, None)
    watch = Watch(tree, *declared, None, tree.health, print)
    watch.load({"best": 1.0, "best_step": 4, "waited": 2})
    kept = {"best": 1.0, "best_step": 4, "waited": 2}
    assert watch.state() == {**kept, "streaks": {}, "first": {}}


def test_who_is_ill_at_the_last_step_is_no_result_either(toys, tmp_path):
    rule = {"health__stop": "gradient_norm_high", **DIVERGING}
    early = toys.train(Healthy(), tmp_path / "a", **rule)
    steps = int(early.report["step"])
    last = toys.train(Healthy(), tmp_path / "b", **{**rule, "train__steps": steps})
    assert last.report[STOP_REASON] == early.report[STOP_REASON]


def test_health_goes_before_patience(toys, tmp_path):
    """Both end at the same report; a result that was ill is none."""
    rule = {"health__stop": "gradient_norm_high", "health__stop_after": 1, "train__patience": 1}
    rule |= {"health__gradient_norm_stop": 0.0, "health__gradient_norm_high": 0.0}
    found = toys.train(Healthy(), tmp_path / "a", objective=("val.mse", "max"), **rule)
    assert found.report[STOP_REASON].startswith("health: gradient_norm_high")
    assert found.report["step"] == 4


def test_a_sign_of_the_second_phase_bears_its_name(toys, tmp_path):
    rule = {"health__stop": "gradient_norm_low", "health__stop_after": 2}
    rule |= {"critic__hinge__weight": 1e-20, "health__gradient_norm_low": 1e-12}
    ended = toys.train(HealthyGan(), tmp_path, **rule)
    reason = str(ended.report[STOP_REASON])
    assert reason.startswith("health: critic.gradient_norm_low ")
    assert reason.endswith(" < 1e-12 at step 8")


@pytest.mark.slow
def test_a_cap_that_cannot_fill_the_holes_ends_the_training(tmp_path):
    """004-M1: over zero-filled holes a cap of 6 reaches a radiance of 4e-4."""
    system, small = (
        HdrPatch(),
        {**HdrPatch.small, **SHORT, "train.report_every": 1, "train.steps": 3},
    )
    rule = {"health.stop": ("cap_unreachable",), "health.stop_after": 2}
    endings = []
    for cap in (6.0, 24.0):
        tree = replace(system.Settings(), {**small, **rule, "hdr.cap.log_delta_max": cap})
        run = LocalRun(tmp_path / f"{cap:.0f}")
        report = fit(system, tree, run, system.prepare(tree, tmp_path))
        endings.append(report.get(STOP_REASON))
        assert report["health.cap_unreachable"] == report["val.unreachable_share"]
        assert report["health.cap_saturation"] == report["val.saturation_share"]
    assert endings == ["health: cap_unreachable 1 > 0.05 at step 2", None]


def test_a_rule_that_cannot_be_meant_is_refused(toys):
    with pytest.raises(SettingsError, match="cap_unreachable"):
        toys.settings(Healthy, health__stop="cap_unreachable")  # it has no cap
    with pytest.raises(SettingsError, match=r"gradient_norm_stop must be at least .*\(100\)"):
        toys.settings(Healthy, health__stop="gradient_norm_high", health__gradient_norm_high=100.0)
    toys.settings(Healthy, health__gradient_norm_high=100.0)
