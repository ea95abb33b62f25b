"""What a training of diffusion does beside its loss so that the network generalises, each a switch
with the document's form beside ours where the two differ.

Shapes: B samples; what is diffused [B, c, *s]; seeds int64 [B].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from models.diffusion.interface import PLACES
from models.draws import draw_normal
from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class InputNoiseSettings(Settings):
    """Input perturbation (arXiv 2301.11706): x_t has more noise than the network is told of."""

    enabled: bool = setting(False, "perturb the noise that is in x_t")
    std: float = setting(0.1, "deviation of what is added to the noise", low=0.0, high=10.0)
    form: str = setting(
        "input",
        "input, x_t alone; or both, the document's form: noise and target together, scaled back "
        "to the deviation of noise, which is the same law as without (001-M3)",
        choices=("input", "both"),
    )


@dataclass(frozen=True, kw_only=True)
class FeatureNoiseSettings(Settings):
    """Normal noise on the features within the network, in training."""

    enabled: bool = setting(False, "perturb features")
    std: float = setting(0.1, "its deviation", low=0.0, high=100.0)
    place: str = setting(
        "middle", "behind which blocks (in the document none: 001-M18)", choices=PLACES
    )


@dataclass(frozen=True, kw_only=True)
class SelfConditioningSettings(Settings):
    """The network's own clean estimate as a further input (arXiv 2208.04202): in training for a
    share of the samples, and 0 for the others; in use always, of a first pass with 0 at the same
    t, so that a prediction is a function of x_t and t. `loss.consistency` is what the document
    has instead (001-M2).
    """

    enabled: bool = setting(False, "the clean estimate is given to the network")
    probability: float = setting(
        0.5, "share of the training samples that are given it", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class RegulariserSettings(Settings):
    """The regularisers that belong to diffusion; those of any training are in `optimizer`,
    `train` and `augment`.
    """

    input_noise: InputNoiseSettings = field(default_factory=InputNoiseSettings)
    feature_noise: FeatureNoiseSettings = field(default_factory=FeatureNoiseSettings)
    self_conditioning: SelfConditioningSettings = field(default_factory=SelfConditioningSettings)


def perturbed_noise(
    settings: InputNoiseSettings, noise: Tensor, seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """(noise in x_t, noise in the target) of a training, [B, c, *s]."""
    if not settings.enabled:
        return noise, noise
    more = noise + settings.std * draw_normal(seeds, "input_noise", noise.shape[1:])
    if settings.form == "input":
        return more, noise
    scaled = more / math.sqrt(1.0 + settings.std**2)
    return scaled, scaled


class FeatureNoise:
    """Noise of one forward, by the samples' seeds, another at every call (`Perturb`)."""

    def __init__(self, settings: FeatureNoiseSettings, seeds: Tensor, forward: int = 0) -> None:
        """Args: forward: its number, where the same x_t is predicted more than once."""
        self.settings, self.seeds, self.forward, self.calls = settings, seeds, forward, 0

    def __call__(self, place: str, features: Tensor) -> Tensor:
        if place != self.settings.place:
            return features
        self.calls += 1
        stream = f"feature_noise {self.forward} {self.calls}"
        noise = draw_normal(self.seeds, stream, features.shape[1:])
        return features + self.settings.std * noise.to(features)

    def check(self) -> None:
        """Refuses a network that has no such place, where nothing would be perturbed (001-M18)."""
        if self.calls == 0:
            raise ValueError(
                f"regulariser.feature_noise.place={self.settings.place} is nowhere in this "
                f"network. Name one that it has, of {', '.join(PLACES)}."
            )
