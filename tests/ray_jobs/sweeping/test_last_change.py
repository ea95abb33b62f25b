"""From where on a sweep may compare its trials: the worst case over all that it can draw."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.sweeping.last_change import LastChange, extremes, last_change
from search_spaces.domains import Choice, LogUniform, Uniform
from search_spaces.space import Point, Space, spaces_of
from settings.flat import flatten, replace
from trainables.configured import Configured
from trainables.system import load_system
from trainables.toy import Toy, ToyGan

LR = {"optimizer.lr": LogUniform(1e-3, 1.0)}


def made(changes=None, domains=None, system=None):
    """(configured system, bound space) of a training of 100 steps."""
    system = system or ToyGan()
    tree = replace(system.Settings(), {"train.steps": 100, **(changes or {})})
    space = Space("own", system.name, {**LR, **(domains or {})})
    return Configured(system, tree), space.bind(flatten(tree))


def test_nothing_moves_by_default():
    assert last_change(*made()) == LastChange(0, "")


def test_the_latest_term_of_all_phases_decides():
    near = {"loss.squared.schedule.kind": "warmup", "loss.squared.schedule.end": 0.2}
    far = {"critic.hinge.schedule.kind": "step", "critic.hinge.schedule.start": 0.4}
    assert last_change(*made(near)) == LastChange(20, "loss.squared.schedule")
    assert last_change(*made({**near, **far})) == LastChange(40, "critic.hinge.schedule")
    assert last_change(*made({**near, **far}, system=Toy())).step == 20
    assert last_change(*made({**near, **far, "critic.hinge.enabled": False})).step == 20


def test_warm_ups_of_every_optimizer_count_and_decays_do_not():
    assert last_change(*made({"optimizer.schedule": "cosine"})).step == 0
    assert last_change(*made({"optimizer.warmup": 0.045})) == LastChange(5, "optimizer.warmup")
    found = last_change(*made({"critic_optimizer.warmup": 0.1}))
    assert found == LastChange(10, "critic_optimizer.warmup")
    assert last_change(*made(domains={"optimizer.warmup": Uniform(0.0, 0.3)})).step == 30


def test_an_annealing_to_the_end_leaves_no_room():
    decay = {"loss.squared.schedule.kind": "cosine", "loss.squared.schedule.first": 1.0}
    found = last_change(*made({**decay, "loss.squared.schedule.last": 0.1}))
    assert found == LastChange(100, "loss.squared.schedule")
    said = found.note(100, 10)
    assert "no rung is possible" in said
    assert "loss.squared.schedule changes until step 100 of 100" in said


def test_what_is_said():
    assert LastChange(0, "").note(100, 10) == ""
    # no rung lies before the first
    assert LastChange(10, "optimizer.warmup").note(100, 10) == ""
    said = LastChange(11, "optimizer.warmup").note(100, 10)
    assert said == "no rung before step 20: optimizer.warmup changes until step 11"
    assert "no rung is possible" in LastChange(91, "optimizer.warmup").note(100, 10)


def test_the_worst_that_the_space_can_draw_counts():
    kind = {"loss.absolute.schedule.kind": "linear", "loss.absolute.schedule.end": 0.1}
    end = {"loss.absolute.schedule.end": Uniform(0.1, 0.7)}
    assert last_change(*made(kind, end)) == LastChange(70, "loss.absolute.schedule")
    off = {**kind, "loss.absolute.enabled": False}
    assert last_change(*made(off, end)).step == 0
    switch = {"loss.absolute.enabled": Choice((True, False))}
    assert last_change(*made(off, {**end, **switch})).step == 70
    weight = {"loss.absolute.weight": Uniform(0.0, 1.0)}
    assert last_change(*made({**kind, "loss.absolute.weight": 0.0}, weight)).step == 10


def test_only_what_is_active_together_counts():
    """With a schedule of kind warmup the end is 0.1 .. 0.4; the 1.0 of the settings is never
    drawn with it.
    """
    key = "loss.absolute.schedule"
    domains = {
        f"{key}.kind": Choice(("constant", "warmup")),
        f"{key}.end": Uniform(0.1, 0.4, when={f"{key}.kind": ("warmup",)}),
    }
    assert last_change(*made(domains=domains)).step == 40
    balancer = {"loss.balancer.kind": Choice(("fixed", "uncertainty", "dwa"))}
    ends = {f"{key}.end": Uniform(0.1, 0.4, when={"loss.balancer.kind": ("dwa", "fixed")})}
    found = last_change(*made({f"{key}.kind": "warmup", f"{key}.end": 0.6}, {**balancer, **ends}))
    assert found.step == 60  # with uncertainty it is the settings' own


def test_draws_that_no_trial_can_have_are_left_out():
    key = "loss.absolute.schedule"
    domains = {f"{key}.start": Choice((0.2, 0.5)), f"{key}.end": Choice((0.4, 0.45))}
    assert last_change(*made({f"{key}.kind": "linear"}, domains)).step == 45


def test_documented_points_count():
    configured, space = made()
    point = Point("paper", {"loss.squared.schedule.kind": "warmup", "optimizer.lr": 0.1})
    found = last_change(configured, space, [point])
    assert found == LastChange(100, "loss.squared.schedule of point paper")
    warm = Point("paper", {"optimizer.warmup": 0.5})
    assert last_change(configured, space, [warm]).step == 50


_KEY = "loss.absolute.schedule"
_DOMAINS = {
    f"{_KEY}.kind": Choice(("constant", "step", "linear", "cosine", "warmup")),
    f"{_KEY}.start": Uniform(0.0, 0.3, when={f"{_KEY}.kind": ("step", "linear")}),
    f"{_KEY}.end": Uniform(0.3, 0.8, when={f"{_KEY}.kind": ("linear", "cosine", "warmup")}),
    f"{_KEY}.first": Choice((0.0, 1.0)),
    "loss.absolute.enabled": Choice((True, False)),
    "critic_optimizer.warmup": Uniform(0.0, 0.5),
}


@pytest.mark.slow
@given(st.sets(st.sampled_from(sorted(_DOMAINS)), min_size=1), st.integers(0, 10**6))
@settings(max_examples=2 * settings.default.max_examples)
def test_no_trial_settles_later(keys, seed):
    domains = {key: _DOMAINS[key] for key in keys}
    domains = {key: d for key, d in domains.items() if not d.when or f"{_KEY}.kind" in keys}
    rng = random.Random(seed)
    base = {f"{_KEY}.kind": "linear", f"{_KEY}.end": 0.4, "train.steps": 1000}
    configured, space = made(base, domains)
    tree, fixed = configured.settings, Space("none", configured.system.name, LR)
    bound = last_change(configured, space)
    latest = 0
    for _ in range(20):
        drawn = {}
        for key in space.order():
            if space.is_active(key, {**flatten(tree), **drawn}, drawn):
                domain = space.domains[key]
                low, high = domain.ends[0], domain.ends[-1]
                many = domain.ends if isinstance(domain, Choice) else (rng.uniform(low, high),)
                drawn[key] = rng.choice(many)
        latest = max(latest, last_change(configured.under(drawn), fixed).step)
    assert latest <= bound.step


def test_extremes_are_the_ends_of_what_is_active():
    domains = {
        "a": Choice(("x", "y", "z")),
        "b": Uniform(0.0, 1.0, when={"a": ("y",)}),
        "c": Uniform(0.0, 1.0),
    }
    space = Space("own", "toy", domains)
    assert extremes(space, ["b"], {}) == [
        {"a": "x"},
        {"a": "y", "b": 0.0},
        {"a": "y", "b": 1.0},
        {"a": "z"},
    ]
    assert extremes(space, ["nothing"], {}) == [{}]


def test_shipped_spaces_have_room_for_rungs(described):
    system = load_system(described.NAME)
    limits = getattr(described, "CHANGES_UNTIL", {})
    for space in spaces_of(described.NAME).values():
        tree = replace(system.Settings(), space.fixed)
        bound = space.bind(flatten(tree))
        limit = limits.get(space.name, 0.1) * tree.train.steps
        assert last_change(Configured(system, tree), bound).step <= limit
