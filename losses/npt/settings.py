"""The settings of the terms of npt."""

from __future__ import annotations

from dataclasses import dataclass, field

from losses.balancers.settings import BalancerSettings
from losses.terms import TermSettings
from settings.schema import Settings, SettingsError, setting

FORMS = ("right", "document")


@dataclass(frozen=True, kw_only=True)
class FormedSettings(TermSettings):
    form: str = setting("right", "ours, or the document's", choices=FORMS)


@dataclass(frozen=True, kw_only=True)
class FidelitySettings(FormedSettings):
    temperature: float = setting(
        1.0, "T, by which both sides' logits are divided; of form=right", low=0.1, high=100.0
    )
    chunk: int = setting(
        1024, "tokens whose probabilities are in memory at once; of form=right", low=1
    )


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings(FormedSettings):
    measure: str = setting(
        "pearson",
        "of form=right: 1 - the correlation of s with the importance of attention, or the square "
        "between s / scale and it",
        choices=("pearson", "square"),
    )
    scale: float = setting(1.0, "of s, where measure=square", low=1e-6, high=1e6)


@dataclass(frozen=True, kw_only=True)
class VarianceSettings(TermSettings):
    gamma: float = setting(
        1.0, "deviation of s over tokens above which nothing is paid", low=1e-6, high=1e3
    )


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings(FormedSettings):
    beta: float = setting(0.01, "of the divergence, or of |cos(v_a, norm(h))|", low=0.0, high=1e3)
    temperature: float = setting(
        0.1, "that cosines are divided by; of form=right", low=1e-3, high=10.0
    )


@dataclass(frozen=True, kw_only=True)
class ModulationSettings(TermSettings):
    form: str = setting(
        "right",
        "against the true change of the gate; the document's consistency of v_b; or strength, "
        "against W_gate a",
        choices=(*FORMS, "strength"),
    )


@dataclass(frozen=True, kw_only=True)
class OrthogonalitySettings(FormedSettings):
    directions: int = setting(10, "q, of the largest spread of norm(h)", low=1, high=64)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """Of 003: four terms that it has, and a term for each of its proposals, off by default."""

    direct: FormedSettings = field(default_factory=FormedSettings)
    encoding: FormedSettings = field(default_factory=lambda: FormedSettings(weight=0.1))
    fidelity: FidelitySettings = field(default_factory=FidelitySettings)
    regularisation: FormedSettings = field(default_factory=lambda: FormedSettings(weight=1e-3))
    guidance: GuidanceSettings = field(
        default_factory=lambda: GuidanceSettings(weight=0.1, enabled=False)
    )
    variance: VarianceSettings = field(
        default_factory=lambda: VarianceSettings(weight=0.1, enabled=False)
    )
    error_parallel: FormedSettings = field(
        default_factory=lambda: FormedSettings(weight=0.5, enabled=False)
    )
    error_orthogonal: FormedSettings = field(
        default_factory=lambda: FormedSettings(weight=0.5, enabled=False)
    )
    bottleneck: BottleneckSettings = field(
        default_factory=lambda: BottleneckSettings(weight=0.5, enabled=False)
    )
    modulation: ModulationSettings = field(
        default_factory=lambda: ModulationSettings(enabled=False)
    )
    orthogonality: OrthogonalitySettings = field(
        default_factory=lambda: OrthogonalitySettings(weight=0.01, enabled=False)
    )
    balancer: BalancerSettings = field(default_factory=BalancerSettings)

    def check(self) -> None:
        if self.guidance.form == "document" and self.variance.is_on:
            raise SettingsError(
                "loss.guidance.form=document has a variance of its own, and loss.variance is on. "
                "Set loss.variance.enabled=false, or loss.guidance.form=right."
            )
