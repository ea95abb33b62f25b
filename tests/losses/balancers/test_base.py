"""What holds for every balancer: switches, schedules, steps without a term, and the state."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.balancers.base import FixedWeights, Observed
from losses.balancers.settings import KINDS, BalancerSettings
from losses.composite import Composite
from losses.terms import TermSettings
from settings.flat import replace
from settings.schema import Settings, SettingsError

NAMES = ("near", "far", "edge")
BALANCED = tuple(kind for kind in KINDS if kind != "fixed")
SUM_IS_COUNT = ("gradnorm", "dwa", "relobralo", "inverse_gradient", "softmax")


@dataclass(frozen=True, kw_only=True)
class Loss(Settings):
    near: TermSettings = field(default_factory=lambda: TermSettings(weight=10.0))
    far: TermSettings = field(default_factory=TermSettings)
    edge: TermSettings = field(default_factory=lambda: TermSettings(weight=0.3))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


@pytest.fixture(scope="session")
def composite(balancers):
    def make(kind, **changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return Composite(balancers.terms, replace(Loss(), {"balancer.kind": kind, **named}))

    return make


def test_magnitude_ratio_has_an_upper_limit_and_keeps_its_anchor(balancers, composite):
    """000-M1: L_main = 1 and L_hier = 1e-4 would give the easy term a weight of 5000."""
    made = composite("magnitude_ratio", edge__enabled=False)
    assert made.weights(0, 10) == {"near": 10.0, "far": 1.0, "edge": 0.0}
    made.balancer.observe(balancers.seen((1.0, 1e-4), names=("near", "far")), 0)
    assert made.weights(1, 10) == {"near": 10.0, "far": 5.0, "edge": 0.0}
    made.balancer.observe(balancers.seen((1e-4, 1.0), names=("near", "far")), 1)
    assert made.weights(2, 10) == {"near": 10.0, "far": 1.0, "edge": 0.0}


@pytest.mark.parametrize("kind", BALANCED)
def test_a_weight_of_the_settings_says_only_whether_the_term_is_on(balancers, composite, kind):
    """000-M11: two knobs on one weight fight. The first term is the anchor of magnitude_ratio."""
    pair = [composite(kind, far__weight=w, edge__weight=2 * w) for w in (0.5, 40.0)]
    for made in pair:
        balancers.follow(made.balancer, 20)
    assert pair[0].weights(20, 40) == pair[1].weights(20, 40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("off", [{"far__enabled": False}, {"far__weight": 0.0}], ids=str)
def test_a_term_that_is_off_gets_no_weight(balancers, composite, kind, off):
    made = composite(kind, **off)
    if kind != "fixed":
        assert made.balancer.names == ("near", "edge")
        balancers.follow(made.balancer, 25)
    found = made.weights(25, 40)
    assert found["far"] == 0.0 and found["near"] > 0.0 and found["edge"] > 0.0
    if kind in SUM_IS_COUNT:
        assert sum(found.values()) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", BALANCED)
def test_schedules_still_multiply(balancers, composite, kind):
    ramp = {"edge__schedule__kind": "linear", "edge__schedule__last": 4.0}
    plain, scheduled = composite(kind), composite(kind, **ramp)
    for made in (plain, scheduled):
        balancers.follow(made.balancer, 30)
    before, after = plain.weights(20, 40), scheduled.weights(20, 40)
    assert after == {**before, "edge": before["edge"] * 2.0}
    start = scheduled.weights(0, 40)
    assert start["edge"] == 0.0
    if kind in SUM_IS_COUNT:
        assert sum(before.values()) == pytest.approx(3.0)
        assert start["near"] + start["far"] == pytest.approx(2.0)


@pytest.mark.parametrize("kind", BALANCED)
def test_a_term_that_was_not_counted_in_a_step_keeps_its_place(balancers, kind):
    balancer = balancers.make(kind, interval=1)
    for step, (losses, norms) in enumerate(zip(*balancers.course(8), strict=True)):
        some = NAMES if step % 3 else NAMES[:2]
        balancer.observe(balancers.seen(losses[: len(some)], norms[: len(some)], step, some), step)
        assert all(0.0 < w < 1e6 for w in balancers.weights(balancer))
    balancer.observe(Observed({}), 8)
    only = balancers.make(kind, interval=1)
    only.observe(balancers.seen((0.5, 0.4), (1.0, 2.0), names=NAMES[:2]), 0)
    assert all(w > 0.0 for w in balancers.weights(only))


@pytest.mark.parametrize("kind", BALANCED)
@pytest.mark.parametrize("names", [(), ("far",)], ids=["none", "one"])
def test_none_and_one_term(balancers, kind, names):
    balancer = balancers.make(kind, names, interval=1)
    balancers.follow(balancer, 5)
    found = balancer.weights({name: float(name in names) for name in NAMES}, 5)
    assert [name for name, w in found.items() if w > 0.0] == list(names)
    if kind in (*SUM_IS_COUNT, "magnitude_ratio"):
        assert sum(found.values()) == pytest.approx(len(names))


@pytest.mark.parametrize("kind", BALANCED)
@given(
    st.lists(
        st.lists(st.floats(0.0, 1e6), min_size=6, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_weights_are_finite_and_not_negative_whatever_is_seen(balancers, kind, rows):
    balancer = balancers.make(kind, interval=1, lr=0.3)
    for step, row in enumerate(rows):
        balancer.observe(balancers.seen(row[:3], row[3:], seed=step), step)
        found = balancers.weights(balancer)
        assert all(math.isfinite(w) and w >= 0.0 for w in found)
        if kind in SUM_IS_COUNT:
            assert sum(found) == pytest.approx(3.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_goes_through_a_file_without_pickled_code(balancers, composite, kind):
    whole, part, rest = (composite(kind, balancer__interval=3) for _ in range(3))
    if kind != "fixed":
        balancers.follow(whole.balancer, 30)
        balancers.follow(part.balancer, 17)
    buffer = io.BytesIO()
    torch.save(part.balancer.state_dict(), buffer)
    buffer.seek(0)
    rest.balancer.load_state_dict(torch.load(buffer, weights_only=True))
    if kind != "fixed":
        balancers.follow(rest.balancer, 30, first=17)
        assert rest.weights(30, 40) != composite(kind).weights(30, 40)
    assert rest.weights(30, 40) == whole.weights(30, 40)


def test_a_state_of_another_kind_or_of_other_terms_is_refused(balancers):
    state = balancers.make("dwa").state_dict()
    with pytest.raises(ValueError, match=r"'dwa'.*settings ask for 'softmax'"):
        balancers.make("softmax").load_state_dict(state)
    with pytest.raises(ValueError, match=r"over \['near', 'far', 'edge'\].*over \['near'\]"):
        balancers.make("dwa", NAMES[:1]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"'fixed' over \[\]"):
        balancers.make("dwa").load_state_dict(FixedWeights().state_dict())


def test_a_term_without_a_lower_bound_is_refused_where_losses_are_compared(balancers):
    hinge = dataclasses.replace(balancers.terms["far"], unbounded="a hinge generator")
    terms = {**balancers.terms, "far": hinge}
    for kind in KINDS:
        loss = replace(Loss(), {"balancer.kind": kind})
        if kind in ("fixed", "inverse_gradient"):
            Composite(terms, loss)
            continue
        with pytest.raises(SettingsError, match=r"'far'.*a hinge generator.*inverse_gradient"):
            Composite(terms, loss)
        Composite(terms, replace(loss, {"far.enabled": False}))


def test_a_composite_without_the_node_or_with_kind_fixed_has_fixed_weights(composite):
    made = composite("fixed")
    assert isinstance(made.balancer, FixedWeights) and made.balancer.needs == "nothing"
    assert made.weights(0, 1) == {"near": 10.0, "far": 1.0, "edge": 0.3}
    assert [k for k in KINDS if composite(k).balancer.kind != k] == []


def test_no_term_can_be_called_balancer(balancers):
    with pytest.raises(SettingsError, match="must not be called 'balancer'"):
        Composite({"balancer": balancers.terms["near"]}, Loss())
