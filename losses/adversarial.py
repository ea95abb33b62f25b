"""Adversarial terms: what a network pays for patches that the critic does not take for real, and
what the critic pays for its mistakes.

Logits [B, 1, *p]: B samples, *p the patches, large means real. Every sum is over samples, of the
mean over the patches of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from losses import counts
from losses.schedules import first_position
from losses.terms import Tensors, Term, TermSettings
from models.discriminator import OBJECTIVES, DiscriminatorSettings
from settings.schema import Settings, SettingsError


@dataclass(frozen=True, kw_only=True)
class CriticSettings(Settings):
    """The critic's own loss. A critic begins where the schedule of its term does, which must not
    be after `loss.adversarial` does: see `refuse_late_critic`.
    """

    patch: TermSettings = field(default_factory=TermSettings)


class CriticTree(Protocol):
    """What is read here of the settings of a system that may have a critic."""

    @property
    def discriminator(self) -> DiscriminatorSettings: ...


class AdversarialNode(Protocol):
    @property
    def adversarial(self) -> TermSettings: ...


class AdversarialTree(CriticTree, Protocol):
    @property
    def loss(self) -> AdversarialNode: ...


class CriticNode(Protocol):
    @property
    def critic(self) -> CriticSettings: ...


class GameTree(AdversarialTree, CriticNode, Protocol):
    """Of a system that trains a network against a critic."""


def generator_sum(fake_logits: Tensor, objective: str) -> Tensor:
    """The generator's loss, f the logits of its patches.

    least_squares: (f - 1)^2 (Mao et al. 2017, equation 9 with a = 0, b = c = 1, without its factor
    1/2, which the documented weights do not have either).
    hinge: -f (Miyato et al. 2018, equation 17), which has no lower bound.
    """
    fake = fake_logits.float()
    _check(objective)
    cost = (fake - 1.0).square() if objective == "least_squares" else -fake
    return _sum(cost)


def critic_sum(real_logits: Tensor, fake_logits: Tensor, objective: str) -> Tensor:
    """The critic's loss, r and f the logits of real and generated patches.

    least_squares: ((r - 1)^2 + f^2) / 2 (Mao et al. 2017, equation 9).
    hinge: max(0, 1 - r) + max(0, 1 + f) (Miyato et al. 2018, equation 16).
    """
    real, fake = real_logits.float(), fake_logits.float()
    _check(objective)
    if objective == "least_squares":
        return 0.5 * (_sum((real - 1.0).square()) + _sum(fake.square()))
    return _sum(F.relu(1.0 - real)) + _sum(F.relu(1.0 + fake))


def _sum(cost: Tensor) -> Tensor:
    return cost.flatten(1).mean(dim=1).sum()


def _check(objective: str) -> None:
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is one of {', '.join(OBJECTIVES)}, not {objective!r}.")


def adversarial(prediction: Tensors, batch: Tensors, settings: CriticTree) -> Tensor:
    """`generator_sum` of the prediction's `fake_logits`."""
    return generator_sum(prediction["fake_logits"], settings.discriminator.objective)


def patch(prediction: Tensors, batch: Tensors, settings: CriticTree) -> Tensor:
    """`critic_sum` of the prediction's `real_logits` and `fake_logits`."""
    objective = settings.discriminator.objective
    return critic_sum(prediction["real_logits"], prediction["fake_logits"], objective)


def adversarial_term(objective: str, samples: str) -> Term:
    """The adversarial term of the network that generates the images.

    Its value judges no trial: the critic is trained beside the network, so whatever a search
    changes also changes the critic. The term therefore declares that it reads every key.

    Args:
        samples: the tensor of the batch whose samples are counted.
    """
    unbounded = "the score of a hinge critic may rise without limit"
    return Term(
        adversarial,
        counts.samples_of(samples),
        reads=("*",),
        unbounded=unbounded if objective == "hinge" else "",
        constant_count=True,
    )


def idle_critic(settings: AdversarialTree) -> list[str]:
    """Why critic and adversarial term cannot work as they are set, in words, for the preflight."""
    is_heard = settings.loss.adversarial.is_on
    if is_heard and not settings.discriminator.enabled:
        return [
            "loss.adversarial is on, and there is no critic, so the term is left out. Set "
            "discriminator.enabled=true or loss.adversarial.enabled=false."
        ]
    if settings.discriminator.enabled and not is_heard:
        return [
            "discriminator.enabled=true trains a critic that nothing listens to. Set "
            "loss.adversarial.enabled=true with a weight, or discriminator.enabled=false."
        ]
    return []


def refuse_late_critic(settings: GameTree) -> None:
    """Refuses a critic that begins to learn after its judgement is followed.

    Raises:
        SettingsError: with both positions. For the preflight: what was trained so is read as ever.
    """
    adversarial, patch = settings.loss.adversarial, settings.critic.patch
    if not (settings.discriminator.enabled and adversarial.is_on):
        return
    heard = first_position(adversarial.schedule)
    learns = first_position(patch.schedule) if patch.is_on else math.inf
    if learns <= heard:
        return
    when = f"from {learns:g} of train.steps on" if learns < math.inf else "at no step"
    raise SettingsError(
        f"the critic learns {when} (critic.patch), and the network follows it from {heard:g} on "
        f"(loss.adversarial): until then it would follow an untrained critic. Let critic.patch "
        f"begin no later than {heard:g} (critic.patch.schedule.*; kind=constant begins at 0), or "
        "loss.adversarial later (loss.adversarial.schedule.*)"
        + (f": kind=warmup with start={learns:g}." if learns < math.inf else ".")
    )


def critic_terms(samples: str) -> dict[str, Term]:
    """The terms of the critic's phase."""
    reads = ("discriminator.objective",)
    return {"patch": Term(patch, counts.samples_of(samples), reads=reads, constant_count=True)}
