"""Groups of terms that share a weight, and weights of the settings that a balancer multiplies."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from losses.balancers.base import Observed
from losses.balancers.components import components, parse_groups, summed
from losses.balancers.settings import KINDS, BalancerSettings
from losses.composite import Composite
from losses.terms import TermSettings
from settings.flat import replace
from settings.schema import Settings, SettingsError
from trainables.reporting.watch import _balanced

OWN = {"near": 10.0, "far": 2.0, "edge": 0.3}
GROUPS = ("errors=near+edge",)


@dataclass(frozen=True, kw_only=True)
class Loss(Settings):
    near: TermSettings = field(default_factory=lambda: TermSettings(weight=OWN["near"]))
    far: TermSettings = field(default_factory=lambda: TermSettings(weight=OWN["far"]))
    edge: TermSettings = field(default_factory=lambda: TermSettings(weight=OWN["edge"]))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


@pytest.fixture
def make(balancers):
    def build(kind, base="ones", groups=(), **changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        asked = {"kind": kind, "base": base, "groups": groups}
        tree = {f"balancer.{key}": value for key, value in asked.items()}
        return Composite(balancers.terms, replace(Loss(), {**tree, **named}))

    return build


def test_the_documents_weighter_is_that_of_torch(make):
    """n * softmax of as many parameters as components under Adam, which minimises the sum of the
    weighted components; each component is the sum of its terms with their fixed weights.
    """
    made = make("softmax", "weights", GROUPS, balancer__lr=1e-2)
    theta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    adam = torch.optim.Adam([theta], lr=1e-2)
    draws = torch.Generator().manual_seed(0)
    for step in range(60):
        near, far, edge = torch.rand(3, generator=draws, dtype=torch.float64).tolist()
        given = 2.0 * torch.softmax(theta, 0)
        applied = made.weights(step, 100)
        expected = [float(given[i].detach()) for i in (0, 1, 0)]
        for name, weight in zip(OWN, expected, strict=True):
            assert applied[name] == pytest.approx(OWN[name] * weight, rel=1e-6)
        losses = 10.0 * near + 0.3 * edge, 2.0 * far
        adam.zero_grad()
        (given * torch.tensor(losses, dtype=torch.float64)).sum().backward()
        adam.step()
        made.balancer.observe(Observed(dict(zip(("errors", "far"), losses, strict=True))), step)
    assert abs(applied["near"] / 10.0 - 1.0) > 0.1  # it has moved


def test_losses_of_components():
    of = components(parse_groups(GROUPS, OWN), OWN)
    assert of == {"errors": {"near": 10.0, "edge": 0.3}, "far": {"far": 2.0}}
    assert summed(of, {"near": 1.0, "edge": 10.0, "far": 3.0}) == {"errors": 13.0, "far": 6.0}
    assert summed(of, {"edge": 10.0}) == {"errors": 3.0}  # what is not active does not count


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fixed"])
def test_groups_of_one_are_terms(make, balancers, kind):
    plain, grouped = make(kind), make(kind, groups=("a=near", "b=far", "c=edge"))
    for at, (losses, norms) in enumerate(zip(*balancers.course(30), strict=True)):
        if at % plain.balancer.interval == 0:
            plain.balancer.observe(balancers.seen(losses, norms, at), at)
            grouped.balancer.observe(balancers.seen(losses, norms, at, names=("a", "b", "c")), at)
    before, after = plain.weights(20, 40), grouped.weights(20, 40)
    if kind == "magnitude_ratio":  # whose anchor keeps its weight where it is no group
        before["near"] = 1.0
    assert after == pytest.approx(before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fixed"])
def test_with_base_weights_a_weight_is_live_and_multiplies(make, kind):
    one, two = make(kind, "weights"), make(kind, "weights", far__weight=4.0)
    assert two.weights(0, 40)["far"] == pytest.approx(2.0 * one.weights(0, 40)["far"])
    assert one.weights(0, 40)["near"] == pytest.approx(5.0 * one.weights(0, 40)["far"])


def test_inverse_gradients_times_own_weights(make):
    """003's right form: gradients of equal size, times what the settings want of each."""
    free = {"balancer__interval": 1, "balancer__decay": 0.0, "balancer__weight_max": 1e4}
    made = make("inverse_gradient", "weights", **free)
    raw = {"near": 4.0, "far": 1.0, "edge": 0.5}
    weighted = {name: OWN[name] * norm for name, norm in raw.items()}
    made.balancer.observe(Observed(dict.fromkeys(OWN, 1.0), weighted), 0)
    applied = made.weights(1, 10)
    pulls = [applied[name] * norm for name, norm in raw.items()]
    assert pulls == pytest.approx([pulls[0]] * 3)


def test_schedules_multiply_and_off_terms_leave_their_group(make):
    ramp = {"edge__schedule__kind": "linear", "edge__schedule__last": 4.0}
    made = make("softmax", "weights", GROUPS, **ramp)
    assert made.weights(0, 40)["edge"] == 0.0
    assert made.weights(20, 40)["edge"] == pytest.approx(0.3 * 2.0)
    off = make("softmax", "weights", GROUPS, near__enabled=False, edge__enabled=False)
    assert off.weights(0, 40) == {"near": 0.0, "far": 2.0, "edge": 0.0}


def test_the_ratio_of_one_term_alone(make):
    """The document adapts the hierarchical error; all others keep their weights (000-M1)."""
    made = make("magnitude_ratio", balancer__adapts=("far",))
    made.balancer.observe(Observed({"near": 1.0, "far": 0.2, "edge": 1e-6}), 0)
    assert made.weights(1, 40) == pytest.approx({"near": 10.0, "far": 2.5, "edge": 0.3})
    with pytest.raises(SettingsError, match=r"loss\.balancer\.adapts: near is no term"):
        make("magnitude_ratio", balancer__adapts=("near",))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (("errors",), "takes NAME=TERM"),
        (("errors=near+",), "takes NAME=TERM"),
        (("errors=near+middle",), "'middle' in 'errors=near\\+middle' is no term. Terms: near"),
        (("a=near", "b=far+near"), "'near' is in 'a' and in 'b'"),
        (("a=near", "a=far"), "'a' names two groups"),
        (("far=near+edge",), "'far' names a group, and a term that is not in it"),
    ],
)
def test_groups_that_are_none_are_refused(make, groups, message):
    with pytest.raises(SettingsError, match=rf"loss\.balancer\.groups.*{message}"):
        make("dwa", groups=groups)


def test_a_state_belongs_to_its_components(make):
    grouped, plain = make("softmax", "weights", GROUPS), make("softmax", "weights")
    grouped.balancer.observe(Observed({"errors": 1.0, "far": 2.0}), 0)
    again = make("softmax", "weights", GROUPS)
    again.balancer.load_state_dict(grouped.balancer.state_dict())
    assert again.weights(1, 40) == grouped.weights(1, 40)
    with pytest.raises(ValueError, match="over the components"):
        plain.balancer.load_state_dict(grouped.balancer.state_dict())


def test_a_collapse_is_that_of_what_the_balancer_made(make):
    assert _balanced(make("softmax", "weights", GROUPS)) == {"near": 10.0, "far": 2.0}
    assert _balanced(make("softmax")) == dict.fromkeys(OWN, 1.0)
    assert _balanced(make("uncertainty", "weights")) == {}
