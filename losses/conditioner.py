"""The loss of the conditioner: settings and terms by name. `losses.conditioner_terms` has the
formulas.

Weights are those of the source, multiplied out: it sums 10 (mse + 0.1 mae + 0.05 huber) of the
main latent and 1 (...) of the hierarchical one. Its default has the two squares only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from losses import conditioner_terms as terms
from losses import counts
from losses.balancers.settings import BalancerSettings
from losses.terms import Term, TermSettings
from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class OffSettings(TermSettings):
    """A term that is off unless it is asked for."""

    enabled: bool = setting(False, "false switches the term off, as weight 0 does")


@dataclass(frozen=True, kw_only=True)
class HuberSettings(OffSettings):
    beta: float = setting(
        0.1, "error at which smooth-L1 turns from square to line", low=1e-4, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(OffSettings):
    """What is compared: outputs of fixed random networks, or the latents themselves."""

    kind: str = setting(
        "projection",
        "likeness of prediction and target: cosine after random projections, cosine, or CKA over "
        "the batch",
        choices=("projection", "cosine", "cka"),
    )
    widths: tuple[int, ...] = setting(
        (16, 8), "hidden width of each random network of kind projection", low=1, high=1024
    )
    seed: int = setting(0, "the random networks are drawn from", low=0, high=2**31 - 1)

    def check(self) -> None:
        if not self.widths:
            raise SettingsError(
                "perceptual widths must name at least one network, not (). Use 16,8, or "
                "kind=cosine for none."
            )


@dataclass(frozen=True, kw_only=True)
class SpectralSettings(OffSettings):
    iterations: int = setting(
        3, "power iterations for the largest singular value of a map", low=1, high=50
    )


@dataclass(frozen=True, kw_only=True)
class ConsistencySettings(OffSettings):
    teacher: str = setting(
        "same",
        "who predicts from the other view: the network itself, or its moving average "
        "(train.ema_decay)",
        choices=("same", "ema"),
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    label_smoothing: float = setting(
        0.0,
        "share by which the terms mse, mae and huber draw latent targets to 0",
        low=0.0,
        high=0.5,
    )
    main_mse: TermSettings = field(default_factory=lambda: TermSettings(weight=10.0))
    hier_mse: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0))
    main_mae: OffSettings = field(default_factory=lambda: OffSettings(weight=1.0))
    hier_mae: OffSettings = field(default_factory=lambda: OffSettings(weight=0.1))
    main_huber: HuberSettings = field(default_factory=lambda: HuberSettings(weight=0.5))
    hier_huber: HuberSettings = field(default_factory=lambda: HuberSettings(weight=0.05))
    main_perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.1)
    )
    hier_perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.05)
    )
    decoded: OffSettings = field(default_factory=lambda: OffSettings(weight=1.0))
    consistency: ConsistencySettings = field(
        default_factory=lambda: ConsistencySettings(weight=0.1)
    )
    spectral: SpectralSettings = field(default_factory=lambda: SpectralSettings(weight=1e-4))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


_SMOOTHED = "loss.label_smoothing"


def _of(kind: str) -> dict[str, Term]:
    """The terms of one kind of latent, `main` or `hier`."""
    values, perceptual = counts.values_of(kind), f"loss.{kind}_perceptual"
    return {
        f"{kind}_mse": Term(functools.partial(terms.squared, kind), values, reads=(_SMOOTHED,)),
        f"{kind}_mae": Term(functools.partial(terms.absolute, kind), values, reads=(_SMOOTHED,)),
        f"{kind}_huber": Term(
            functools.partial(terms.smooth_l1, kind),
            values,
            reads=(_SMOOTHED, f"loss.{kind}_huber.beta"),
        ),
        f"{kind}_perceptual": Term(
            functools.partial(terms.perceptual, kind),
            functools.partial(terms.perceptual_count, kind),
            reads=(f"{perceptual}.kind", f"{perceptual}.widths", f"{perceptual}.seed"),
        ),
    }


TERMS: dict[str, Term] = {
    **_of("main"),
    **_of("hier"),
    "decoded": Term(terms.decoded, counts.samples_of("main")),
    "consistency": Term(terms.consistency, counts.marked("paired_valid")),
    "spectral": Term(
        terms.spectral, counts.samples_of("main"), reads=("loss.spectral.iterations",)
    ),
}

NEED_DECODER = ("decoded",)
"""Terms that read a decoded field: a system without a decoder leaves them out of its Composite."""
