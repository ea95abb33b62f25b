"""The two sides of a GAN against formulas in numpy and MONAI's loss, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.adversarial import (
    CriticSettings,
    adversarial_term,
    critic_sum,
    critic_terms,
    generator_sum,
    idle_critic,
    refuse_late_critic,
)
from losses.balancers.settings import BalancerSettings, make_balancer
from losses.composite import Composite
from losses.terms import TermSettings
from models.discriminator import OBJECTIVES, DiscriminatorSettings
from search.guard import check_objective
from settings.flat import replace
from settings.schema import Settings, SettingsError

SHAPES = [(3, 1, 4, 5), (2, 1, 3, 2, 4)]


@dataclass(frozen=True, kw_only=True)
class OwnLoss(Settings):
    adversarial: TermSettings = field(default_factory=lambda: TermSettings(weight=0.01))


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    loss: OwnLoss = field(default_factory=OwnLoss)
    critic: CriticSettings = field(default_factory=CriticSettings)


def tree(**changes):
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def logits(shape, seed=0):
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_sample(values):
    return values.reshape(len(values), -1).mean(axis=1).sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_the_papers(shape):
    real, fake = logits(shape, 1), logits(shape, 2)
    r, f = real.double().numpy(), fake.double().numpy()
    expected = {
        "least_squares": (((f - 1) ** 2), ((r - 1) ** 2 + f**2) / 2),
        "hinge": (-f, np.maximum(0, 1 - r) + np.maximum(0, 1 + f)),
    }
    assert set(expected) == set(OBJECTIVES)
    for objective, (generator, critic) in expected.items():
        assert float(generator_sum(fake, objective)) == pytest.approx(by_sample(generator))
        assert float(critic_sum(real, fake, objective)) == pytest.approx(by_sample(critic))


@pytest.mark.parametrize("shape", SHAPES)
def test_least_squares_are_monais(shape):
    from monai.losses import PatchAdversarialLoss

    peer = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
    real, fake = logits(shape, 1), logits(shape, 2)
    generator = peer(fake, target_is_real=True, for_discriminator=False)
    critic = 0.5 * (
        peer(real, target_is_real=True, for_discriminator=True)
        + peer(fake, target_is_real=False, for_discriminator=True)
    )
    count = shape[0]
    torch.testing.assert_close(generator_sum(fake, "least_squares") / count, generator)
    torch.testing.assert_close(critic_sum(real, fake, "least_squares") / count, critic)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_sides_pull_apart(objective):
    """The generator raises the score of its patches, the critic lowers it and raises the real."""
    real, fake = (torch.full((2, 1, 3, 3), 0.5, requires_grad=True) for _ in range(2))
    (up,) = torch.autograd.grad(generator_sum(fake, objective), fake)
    assert (up < 0).all()
    for_real, for_fake = torch.autograd.grad(critic_sum(real, fake, objective), (real, fake))
    assert (for_real < 0).all() and (for_fake > 0).all()


def test_a_hinge_critic_rests_beyond_its_margin():
    sure = torch.full((2, 1, 3, 3), 1.5, requires_grad=True)
    total = critic_sum(sure, -sure, "hinge")
    assert float(total.detach()) == 0.0
    assert not torch.autograd.grad(total, sure)[0].any()


@given(cut=st.integers(1, 4), seed=st.integers(0, 50))
def test_the_mean_is_exact_however_a_batch_is_cut(cut, seed):
    settings, term = tree(discriminator__enabled=True), adversarial_term("least_squares", "image")
    fake = logits((5, 1, 3, 3), seed)
    batch = {"image": torch.zeros(5, 1, 2, 2)}
    total, count = term({"fake_logits": fake}, batch, settings)
    parts = [
        term({"fake_logits": fake[piece]}, {"image": batch["image"][piece]}, settings)
        for piece in (slice(cut), slice(cut, None))
    ]
    assert sum(float(c) for _, c in parts) == float(count) == 5.0
    assert sum(float(x) for x, _ in parts) == pytest.approx(float(total), rel=1e-5)


def test_the_terms_follow_the_objective():
    batch = {"image": torch.zeros(3, 1, 2, 2)}
    prediction = {"real_logits": logits((3, 1, 4, 4), 1), "fake_logits": logits((3, 1, 4, 4), 2)}
    for objective in OBJECTIVES:
        settings = tree(discriminator__objective=objective)
        total, count = critic_terms("image")["patch"](prediction, batch, settings)
        expected = critic_sum(prediction["real_logits"], prediction["fake_logits"], objective)
        assert float(total) == float(expected) and float(count) == 3.0
        total, _ = adversarial_term(objective, "image")(prediction, batch, settings)
        assert float(total) == float(generator_sum(prediction["fake_logits"], objective))
    assert Composite(critic_terms("image"), settings.critic, "critic").weights(0, 1) == {
        "patch": 1.0
    }


def test_a_hinge_generator_says_that_it_has_no_lower_bound():
    """A balancer that divides by losses refuses it."""
    bounded, hinge = (adversarial_term(objective, "image") for objective in OBJECTIVES)
    make_balancer(BalancerSettings(kind="uncertainty"), {"adversarial": bounded})
    with pytest.raises(SettingsError, match="no lower bound"):
        make_balancer(BalancerSettings(kind="uncertainty"), {"adversarial": hinge})
    assert float(generator_sum(torch.full((1, 1, 2, 2), 1e6), "hinge")) == -1e6


@pytest.mark.parametrize("searched", ["loss.l1.weight", "optimizer.lr", "model.width"])
def test_no_trial_is_judged_by_its_own_critic(searched):
    terms = {"adversarial": adversarial_term("least_squares", "image")}
    with pytest.raises(SettingsError, match="Never judge a trial"):
        check_objective(["val.loss.adversarial"], [], terms, [searched])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss__adversarial__enabled": False}, None),
        ({}, "there is no critic"),
        ({"discriminator__enabled": True}, None),
        ({"discriminator__enabled": True, "loss__adversarial__enabled": False}, "nothing listens"),
        ({"discriminator__enabled": True, "loss__adversarial__weight": 0.0}, "nothing listens"),
    ],
)
def test_a_critic_without_a_listener_is_found(changes, says):
    found = idle_critic(tree(**changes))
    assert len(found) == (says is not None)
    assert all(says in text for text in found)


LATE = {"critic__patch__schedule__kind": "step", "critic__patch__schedule__start": 0.5}
RAMP = {"loss__adversarial__schedule__kind": "warmup"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        (LATE, "the critic learns from 0.5 of train.steps on (critic.patch), and the network"),
        ({**LATE, **RAMP}, "follows it from 0 on (loss.adversarial)"),
        ({**LATE, **RAMP, "loss__adversarial__schedule__start": 0.4}, "begin no later than 0.4"),
        ({**LATE, **RAMP, "loss__adversarial__schedule__start": 0.4}, "warmup with start=0.5"),
        ({**LATE, **RAMP, "loss__adversarial__schedule__start": 0.5}, None),
        ({**RAMP, "loss__adversarial__schedule__start": 0.4}, None),
        ({"critic__patch__enabled": False}, "the critic learns at no step"),
        ({"critic__patch__weight": 0.0}, "the critic learns at no step"),
        ({**LATE, "discriminator__enabled": False}, None),
        ({**LATE, "loss__adversarial__enabled": False}, None),
        ({**LATE, "loss__adversarial__weight": 0.0}, None),
    ],
)
def test_a_critic_that_begins_after_it_is_followed_is_refused(changes, says):
    settings = tree(**{"discriminator__enabled": True, **changes})
    if says is None:
        refuse_late_critic(settings)
        return
    with pytest.raises(SettingsError) as error:
        refuse_late_critic(settings)
    assert says in str(error.value)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="least_squares, hinge, not 'wasserstein'"):
        generator_sum(logits((1, 1, 2, 2)), "wasserstein")
