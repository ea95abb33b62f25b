"""The Composite: a weighted sum in which a term at weight 0 moves nothing and no term is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.composite import Composite
from losses.schedules import ScheduleSettings
from losses.terms import Term, TermSettings
from settings.flat import replace
from settings.schema import Settings, SettingsError


@dataclass(frozen=True, kw_only=True)
class Loss(Settings):
    near: TermSettings = field(default_factory=TermSettings)
    far: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    total: TermSettings = field(default_factory=TermSettings)


def images(batch, settings):
    return torch.tensor(batch["x"].shape[0])


def inside(batch, settings):
    return batch["mask"].sum()


def near(prediction, batch, settings):
    return (prediction["a"] - batch["x"]).square().sum()


def far(prediction, batch, settings):
    return (batch["mask"] * prediction["b"].abs()).sum()


def never(prediction, batch, settings):
    raise AssertionError("a term that is off was computed")


TERMS = {"near": Term(near, images), "far": Term(far, inside)}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator)
    return {"x": x, "mask": (x > 0).float()}


@pytest.fixture
def prediction(batch):
    return {
        "a": (batch["x"] + 1.5).requires_grad_(),
        "b": (batch["x"] * 2.0).requires_grad_(),
    }


@given(st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.integers(0, 200))
def test_the_total_is_the_weighted_sum_of_the_means(first, second, step):
    x = torch.linspace(-1.0, 2.0, 12).view(4, 3)
    batch = {"x": x, "mask": (x > 0).float()}
    prediction = {"a": (x + 1.5).requires_grad_(), "b": (x * 2.0).requires_grad_()}
    loss = replace(
        Loss(),
        {
            "near.weight": first,
            "far.weight": second,
            "far.schedule.kind": "linear",
            "far.schedule.first": 3.0,
            "far.schedule.last": 1.0,
        },
    )
    composite = Composite(TERMS, loss)
    weights = composite.weights(step, 100)
    counts = dict(zip(TERMS, composite.counts(batch, None).tolist(), strict=True))
    weighed = composite.weigh(prediction, batch, None, weights, counts)

    factor = 3.0 - 2.0 * min(step / 100, 1.0)
    mask = x > 0
    by_hand = first * 1.5**2 * 12 / 4 + second * factor * float((2 * x[mask]).mean())
    assert float(weighed.total.detach()) == pytest.approx(by_hand, rel=1e-5, abs=1e-6)
    assert counts == {"near": 4, "far": float(mask.sum())}


def test_the_total_adds_up_over_micro_batches(batch, prediction):
    composite = Composite(TERMS, Loss())
    weights = composite.weights(0, 1)
    counts = dict(zip(TERMS, composite.counts(batch, None).tolist(), strict=True))
    composite.weigh(prediction, batch, None, weights, counts).total.backward()
    whole = {name: value.grad.clone() for name, value in prediction.items()}
    for value in prediction.values():
        value.grad = None
    for part in (slice(0, 1), slice(1, 4)):
        piece = {name: value[part] for name, value in prediction.items()}
        data = {name: value[part] for name, value in batch.items()}
        composite.weigh(piece, data, None, weights, counts).total.backward()
    for name, value in prediction.items():
        torch.testing.assert_close(value.grad, whole[name])


@pytest.mark.parametrize(
    "off",
    [
        {"far.weight": 0.0},
        {"far.enabled": False},
        {"far.schedule.kind": "step", "far.schedule.start": 0.5, "far.schedule.first": 0.0},
    ],
)
def test_a_term_that_is_off_is_not_computed_and_moves_nothing(batch, prediction, off):
    terms = {"near": TERMS["near"], "far": Term(never, inside)}
    composite = Composite(terms, replace(Loss(), off))
    weights = composite.weights(0, 10)
    assert weights["far"] == 0.0
    weighed = composite.weigh(prediction, batch, None, weights, {"near": 4.0, "far": 3.0})
    weighed.total.backward()
    assert set(weighed.sums) == {"near"}
    assert prediction["b"].grad is None
    torch.testing.assert_close(prediction["a"].grad, torch.full((4, 3), 2 * 1.5 / 4))


def test_a_term_with_nothing_to_count_is_left_out(batch, prediction):
    terms = {"near": TERMS["near"], "far": Term(never, inside)}
    composite = Composite(terms, Loss())
    weights = composite.weights(0, 10)
    weighed = composite.weigh(prediction, batch, None, weights, {"near": 4.0, "far": 0.0})
    assert set(weighed.sums) == {"near"}


@pytest.mark.parametrize("count", [0.75, 1e-3, 1e-9])
def test_a_count_below_1_divides_like_any_other(batch, prediction, count):
    """One hole pixel over four workers is a count of a quarter, and areas may be smaller still."""
    composite = Composite(TERMS, Loss())
    weights = composite.weights(0, 10)
    weighed = composite.weigh(prediction, batch, None, weights, {"near": 4.0, "far": count})
    x = batch["x"].double()
    by_hand = 0.5 * float((2 * x[x > 0]).sum()) / count
    assert float(weighed.shares["far"].detach()) == pytest.approx(by_hand, rel=1e-5)
    expected = by_hand + 12 * 1.5**2 / 4
    assert float(weighed.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_all_off_is_a_total_of_zero_with_a_gradient_of_zero(batch, prediction):
    composite = Composite(TERMS, replace(Loss(), {"near.weight": 0.0, "far.weight": 0.0}))
    weights = composite.weights(0, 10)
    weighed = composite.weigh(prediction, batch, None, weights, {"near": 4.0, "far": 3.0})
    weighed.total.backward()
    assert float(weighed.total.detach()) == 0.0 and not weighed.sums
    assert all((value.grad == 0).all() for value in prediction.values())


def test_validation_measures_every_term(batch, prediction):
    composite = Composite(TERMS, replace(Loss(), {"near.weight": 0.0, "far.enabled": False}))
    sums, counts = composite.measure(prediction, batch, None)
    expected = [float(f(prediction, batch, None).detach()) for f in (near, far)]
    assert sums.tolist() == pytest.approx(expected)
    assert sums.dtype == counts.dtype == torch.float64
    assert not sums.requires_grad


def test_counts_come_together_from_two_devices(batch):
    """A size is counted on the CPU, a mask where the batch is. (`meta` needs no GPU.)"""
    there = {"x": batch["x"], "mask": batch["mask"].to("meta")}
    counts = Composite(TERMS, Loss()).counts(there, None)
    assert counts.device.type == "meta"
    assert (counts.shape, counts.dtype) == ((2,), torch.float64)


def test_sums_and_counts_are_on_one_device(batch, prediction):
    """Validation joins them, also where every count was made on the CPU."""
    there = {name: value.detach().to("meta") for name, value in {**batch, **prediction}.items()}
    composite = Composite({"near": Term(near, images)}, Loss())
    sums, counts = composite.measure(there, there, None)
    assert sums.device == counts.device == torch.device("meta")


@pytest.mark.parametrize("name", ["total", "near.weight"])
def test_reserved_names(name):
    with pytest.raises(SettingsError, match="must not be called"):
        Composite({name: TERMS["near"]}, Loss())


def test_a_term_without_settings():
    with pytest.raises(SettingsError, match=r"no settings node critic\.unknown"):
        Composite({"unknown": TERMS["near"]}, Loss(), prefix="critic")


def test_a_balancer_makes_the_weights_from_those_of_the_settings():
    class Halving:
        def weights(self, base, step):
            return {name: weight / 2 for name, weight in base.items()}

        def observe(self, terms, step): ...

        def state_dict(self):
            return {}

        def load_state_dict(self, state): ...

    schedule = ScheduleSettings(kind="warmup", end=1.0)
    loss = Loss(near=TermSettings(weight=8.0, schedule=schedule), far=TermSettings(weight=0.5))
    composite = Composite(TERMS, loss, balancer=Halving())
    assert composite.weights(5, 10) == {"near": 2.0, "far": 0.25}


def test_last_change_is_when_the_last_schedule_of_a_term_that_is_on_has_ended():
    moving = {
        "near.schedule.kind": "warmup",
        "near.schedule.end": 0.2,
        "far.schedule.kind": "step",
        "far.schedule.start": 0.6,
    }
    composite = Composite(TERMS, replace(Loss(), moving))
    assert composite.last_change_steps(50) == {"near": 10, "far": 30}
    weights = [composite.weights(step, 50) for step in (29, 30, 49)]
    assert weights[0] != weights[1] == weights[2]
    for off in ({"far.enabled": False}, {"far.weight": 0.0}):
        assert Composite(TERMS, replace(Loss(), {**moving, **off})).last_change_steps(50) == {
            "near": 10
        }
    assert Composite(TERMS, Loss()).last_change_steps(50) == {"near": 0, "far": 0}
