"""The pre-flight check of a sweep's jobs: asked once for what it cannot tell apart, and always
with the answer that a fresh check would give.
"""

from __future__ import annotations

import random

import pytest

from ray_jobs.engine import preflight
from ray_jobs.engine.preflight import Preflight
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search.simulator import simulate
from settings.flat import replace
from settings.schema import SettingsError
from trainables.configured import Configured
from trainables.parts import Finding
from trainables.system import load_system
from trainables.toy import Toy


class Careful(Toy):
    """What it reads depends on what it has read before."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def preflight(self, settings, prepared):
        self.asked += 1
        if settings.model.dropout > 0.5:
            raise SettingsError(f"dropout {settings.model.dropout:g} drops too much")
        if settings.data.noise > 1.0:
            return [Finding(f"{prepared}: noise {settings.data.noise:g}", settings.data.noise > 5)]
        if settings.data.samples == 3:
            raise RuntimeError("the disk is busy")
        return []


@pytest.fixture
def careful():
    return Careful()


@pytest.fixture
def check(careful):
    return Preflight(Configured(careful, careful.Settings()), "here")


def test_it_is_asked_anew_where_something_that_it_read_differs_and_nowhere_else(careful, check):
    for _ in range(2):
        assert check({"data.noise": 2.0}) == ["here: noise 2"]
        assert check({"data.noise": 2.0, "optimizer.lr": 0.5, "data.samples": 9}) == [
            "here: noise 2"
        ]
    assert careful.asked == 1
    assert check({"data.noise": 6.0}) == ["hopeless: here: noise 6"]
    assert check({"data.noise": 0.5}) == []
    assert check({"data.noise": 0.5, "optimizer.lr": 0.5}) == []
    assert careful.asked == 3
    assert check({"data.noise": 0.5, "data.samples": 9}) == []
    assert careful.asked == 4


def test_a_draw_that_was_refused_is_refused_again(careful, check):
    for rate in (0.1, 0.2, 0.3):
        with pytest.raises(SettingsError, match=r"dropout 0\.75 drops too much"):
            check({"model.dropout": 0.75, "optimizer.lr": rate})
    assert careful.asked == 1


@pytest.mark.parametrize("name", ["hdr_patch", "compression"])
def test_a_draw_whose_critic_begins_late_is_refused_and_the_others_are_not(name, tmp_path):
    """Of a space over both starts, in which a draw may have them in the wrong order."""
    fixed = {
        "discriminator.enabled": True,
        "loss.adversarial.enabled": True,
        "loss.adversarial.schedule.kind": "step",
        "critic.patch.schedule.kind": "step",
    }
    system = load_system(name)
    configured = Configured(system, replace(system.Settings(), {**system.small, **fixed}))
    is_asked = name == "hdr_patch"  # the other's check looks at no data
    prepared = system.prepare(configured.settings, tmp_path) if is_asked else None
    check = Preflight(configured, prepared)
    heard, learns = "loss.adversarial.schedule.start", "critic.patch.schedule.start"
    for _ in range(2):
        assert check({heard: 0.3, learns: 0.2}) == []
        with pytest.raises(SettingsError, match=r"learns from 0\.3 .* from 0\.2 on"):
            check({heard: 0.2, learns: 0.3})
        assert check({heard: 0.2, learns: 0.3, "loss.adversarial.enabled": False})


def test_a_value_that_breaks_a_rule_is_refused_whatever_is_known_of_the_others(careful, check):
    assert check({}) == []
    with pytest.raises(SettingsError, match=r"optimizer\.lr"):
        check({"optimizer.lr": -1.0})
    assert careful.asked == 1


def test_a_check_that_failed_is_made_again(careful, check):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the disk is busy"):
            check({"data.samples": 3})
    assert careful.asked == 2


def test_a_caller_may_keep_and_change_what_it_is_told(check):
    check({"data.noise": 2.0}).append("more")
    assert check({"data.noise": 2.0}) == ["here: noise 2"]


def test_what_was_not_asked_for_longest_is_forgotten(careful, check, monkeypatch):
    monkeypatch.setattr(preflight, "REMEMBERED", 3)
    noises = (2.0, 3.0, 4.0)
    for noise in (*noises, 2.0):
        check({"data.noise": noise})
    assert careful.asked == 3
    check({"data.noise": 5.0})  # in place of 3
    check({"data.noise": 2.0})
    check({"data.noise": 4.0})
    assert careful.asked == 4
    check({"data.noise": 3.0})
    assert careful.asked == 5


@pytest.mark.parametrize("name", ["hdr_patch", "compression", "conditioner", "toy"])
def test_every_answer_is_that_of_a_fresh_check(name, tmp_path):
    """Of each system over draws of its widest space, each asked for twice and in disorder."""
    if name == "toy":
        setup = Configured(Toy(), Toy().Settings())
        draws = [{"model.explode": explode} for explode in (0.0, 0.5, 1.0, 0.0)]
        prepared = None
    else:
        options = SweepOptions(
            system=name, space="full", trials=30, sampler="random", scheduler="none"
        )
        of_sweep = new_setup(options)
        events = simulate(of_sweep.plan, lambda job, step: {}, workers=1).events
        draws = [event["sampled"] for event in events if event["event"] == "handed_out"]
        setup = of_sweep.configured
        prepared = None
        if name != "compression":
            setup = setup.under(setup.system.small)
            prepared = setup.system.prepare(setup.settings, tmp_path)
    check, asked = Preflight(setup, prepared), [*draws, *draws]
    random.Random(0).shuffle(asked)
    told = set()
    for sampled in asked:
        trial = setup.under(sampled)
        fresh = [
            f"{'hopeless: ' if finding.hopeless else ''}{finding.text}"
            for finding in trial.system.preflight(trial.settings, prepared)
        ]
        assert check(sampled) == fresh
        told.add(tuple(fresh))
    assert len(told) > 1
