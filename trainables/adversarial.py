"""A critic beside a network that makes images: its module, its phase, and what the two phases hand
each other. The node of its settings is `discriminator`, that of its loss `critic`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from losses.adversarial import CriticSettings, CriticTree, critic_terms
from losses.composite import Composite
from losses.terms import Tensors
from models.discriminator import (
    DiscriminatorSettings,
    build_discriminator,
    judge_both,
    least_side,
)
from settings.schema import SettingsError
from trainables.parts import Modules, Phase

CRITIC = "discriminator"
"""The name of the module."""

Views = Callable[[Tensors, Tensors, Any], tuple[Tensor, Tensor]]
"""`views(prediction, batch, settings)`: the images as the critic sees them, made and real."""


class GanTree(CriticTree, Protocol):
    """What is read here of a tree, which has `critic_optimizer` besides."""

    @property
    def critic(self) -> CriticSettings: ...


def check_critic(settings: DiscriminatorSettings, side: int, key: str) -> None:
    """Refuses a critic for which images are too small.

    Args:
        side: the shortest one, in pixels.
        key: the setting that decides it.
    """
    least = least_side(settings)
    if settings.enabled and side < least:
        raise SettingsError(
            f"a critic with discriminator.layers={settings.layers} needs {least} px or more a "
            f"side, not {side} ({key}). Lower the one or raise the other."
        )


def critic_modules(
    settings: DiscriminatorSettings, channels: int, dims: int
) -> dict[str, nn.Module]:
    """The critic by its name, initialised from the current random state; none where it is off."""
    if not settings.enabled:
        return {}
    return {CRITIC: build_discriminator(settings, channels, dims)}


def phases_with_critic(
    maker: Phase, views: Views, made: str, samples: str, settings: GanTree
) -> list[Phase]:
    """The maker's phase alone where the critic is off; else with the term `adversarial` of its
    composite heard, followed by the critic's phase.

    Args:
        maker: the phase of the network that makes the images, as it is without a critic.
        made: the tensor of its prediction that `views` reads: the critic judges what was made in
            the same step, without a second forward.
        samples: the tensor of the batch whose samples are counted.
    """
    if not settings.discriminator.enabled:
        return [maker]
    game = _Game(maker, views, made)
    heard = dataclasses.replace(
        maker, forward=game.ask, shares_outputs=(made,), without={"adversarial": maker.forward}
    )
    composite = Composite(critic_terms(samples), settings.critic, "critic")
    critic = Phase(
        "critic", (CRITIC,), game.judge, composite, "critic_optimizer", ignores_updates=True
    )
    return [heard, critic]


@dataclass(frozen=True)
class _Game:
    maker: Phase
    views: Views
    made: str

    def ask(self, modules: Modules, batch: Tensors, settings: object) -> dict[str, Tensor]:
        """The maker's prediction, and what the critic says of it."""
        prediction = self.maker.forward(modules, batch, settings)
        made, _ = self.views(prediction, batch, settings)
        return {**prediction, "fake_logits": modules[CRITIC](made)}

    def judge(self, modules: Modules, batch: Tensors, settings: object) -> dict[str, Tensor]:
        """What the critic says of the real images, and of those that were just made."""
        prediction = {self.made: batch[f"{self.maker.name}.{self.made}"]}
        made, real = self.views(prediction, batch, settings)
        return judge_both(modules[CRITIC], real, made)
