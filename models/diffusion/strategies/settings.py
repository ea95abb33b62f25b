"""Settings of the strategies (how images are noised and what a network predicts of them) and of
sampling. Time t is 0 where an image is clean and 1 where it is noise, in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from models.integration import SOLVERS
from settings.schema import Settings, SettingsError, setting

KINDS = ("rflow", "ddpm")
LAWS = ("logit_normal", "uniform")
PREDICTIONS = ("epsilon", "v")
JITTER_FORMS = ("reflected", "clamped")
LIBRARY = "torchdiffeq"
"""The solver that is one of the library's, by its own name."""

MONAI = "monai"
MONAI_STEPS = 1000
"""Of MONAI's scheduler, between the image and the noise; it samples with as many at most."""

FIXED_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAPTIVE_METHODS = ("adaptive_heun", "bosh3", "dopri5", "dopri8")
"""Of torchdiffeq, by its own names."""


@dataclass(frozen=True, kw_only=True)
class TransformSettings(Settings):
    """The resolution transform r t / (1 + (r - 1) t) of the law of t and of the sampler's grid
    (Esser et al. 2024, equation 23), r = scale (cells / base_cells)^(1 / dims).
    """

    enabled: bool = setting(False, "move times to the noise for sizes above the base")
    base: str = setting(
        "cells",
        "the size at which nothing moves: `base_cells`, or own, the size itself, the document's "
        "form, which never moves anything (001-M5)",
        choices=("cells", "own"),
    )
    base_cells: int = setting(
        4096,
        "cells of the size that the law of t was chosen at: the product of the sides of what is "
        "noised (of the latent, not of its image), without channels; at this size nothing moves",
        low=1,
        high=2**40,
    )
    scale: float = setting(1.0, "factor on the ratio r, at every size", low=0.01, high=100.0)


@dataclass(frozen=True, kw_only=True)
class RflowSettings(Settings):
    """Rectified flow (arXiv 2209.03003): x_t on the line between image and noise."""

    law: str = setting("logit_normal", "of the training's t", choices=LAWS)
    mean: float = setting(0.0, "logit_normal: mean of the logit of t", low=-10.0, high=10.0)
    std: float = setting(
        1.0, "logit_normal: standard deviation of the logit of t", low=0.01, high=10.0
    )
    discrete: bool = setting(False, "t takes the values 1/steps, 2/steps, ..., 1 alone")
    steps: int = setting(1000, "discrete: the number of these values", low=1, high=100_000)
    transform: TransformSettings = field(default_factory=TransformSettings)


@dataclass(frozen=True, kw_only=True)
class DdpmSettings(Settings):
    """Denoising diffusion with the cosine schedule (arXiv 2102.09672, equation 17)."""

    steps: int = setting(1000, "T: t takes the values 1/T, 2/T, ..., 1", low=2, high=100_000)
    prediction: str = setting(
        "epsilon",
        "what the network predicts: the noise, or v = alpha noise - sigma image",
        choices=PREDICTIONS,
    )


@dataclass(frozen=True, kw_only=True)
class CurriculumSettings(Settings):
    """The law of t is rescaled to an interval that grows over the training; its shape stays
    (001-M15: a uniform law in its place changes two things at once).
    """

    enabled: bool = setting(False, "begin with t of an interval, such as the little noise")
    law: str = setting(
        "rescaled",
        "rescaled, the strategy's own; or uniform, the document's form, also after the end",
        choices=("rescaled", "uniform"),
    )
    low_start: float = setting(0.0, "lower end at the start", low=0.0, high=1.0)
    high_start: float = setting(0.3, "upper end at the start", low=0.0, high=1.0)
    low_end: float = setting(0.0, "lower end at the end of the curriculum", low=0.0, high=1.0)
    high_end: float = setting(1.0, "upper end at the end of the curriculum", low=0.0, high=1.0)

    def check(self) -> None:
        for place in ("start", "end"):
            low, high = getattr(self, f"low_{place}"), getattr(self, f"high_{place}")
            if low >= high:
                raise SettingsError(
                    f"strategy.curriculum: low_{place} lies below high_{place}, not at {low} with "
                    f"{high}. Lower low_{place}, or raise high_{place}."
                )


@dataclass(frozen=True, kw_only=True)
class JitterSettings(Settings):
    """Normal noise on the t that was drawn, which stays in [0, 1]."""

    enabled: bool = setting(False, "add noise to t")
    std: float = setting(0.05, "its standard deviation, t being in [0, 1]", low=0.0, high=0.5)
    form: str = setting(
        "reflected",
        "at 0 and 1: reflected, so that none gathers there; or clamped, the document's form, "
        "which leaves t at 0 and at 1 themselves",
        choices=JITTER_FORMS,
    )


@dataclass(frozen=True, kw_only=True)
class MinSnrSettings(Settings):
    """Loss weights by the signal-to-noise ratio SNR = alpha^2 / sigma^2 (arXiv 2303.09556)."""

    enabled: bool = setting(
        False, "the squared error of the clean estimate counts min(SNR, gamma) times"
    )
    gamma: float = setting(5.0, "SNR above which the weight grows no more", low=0.1, high=100.0)


@dataclass(frozen=True, kw_only=True)
class StrategySettings(Settings):
    """How samples are noised and what is predicted; only the node of `kind` is read."""

    kind: str = setting("rflow", "rectified flow, or denoising diffusion", choices=KINDS)
    rflow: RflowSettings = field(default_factory=RflowSettings)
    ddpm: DdpmSettings = field(default_factory=DdpmSettings)
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)
    jitter: JitterSettings = field(default_factory=JitterSettings)
    min_snr: MinSnrSettings = field(default_factory=MinSnrSettings)


@dataclass(frozen=True, kw_only=True)
class LibrarySettings(Settings):
    """A solver of torchdiffeq, by its own name."""

    method: str = setting(
        "dopri5",
        "adaptive: adaptive_heun, bosh3, dopri5, dopri8, which take as many steps as the "
        "tolerances ask for, each sample its own; the others take `steps` (its rk4 is Kutta's "
        "3/8 rule)",
        choices=(*FIXED_METHODS, *ADAPTIVE_METHODS),
    )
    rtol: float = setting(1e-5, "adaptive: relative tolerance of a step", low=1e-12, high=1.0)
    atol: float = setting(1e-5, "adaptive: absolute tolerance of a step", low=1e-12, high=1.0)


@dataclass(frozen=True, kw_only=True)
class FlowSamplingSettings(Settings):
    """Of rflow: how the ordinary differential equation is solved."""

    solver: str = setting(
        "euler",
        "explicit Runge-Kutta method; or monai, the Euler steps of its RFlowScheduler, the "
        "document's sampler, whose steps do not sum to 1 (001-M6)",
        choices=(*SOLVERS, LIBRARY, MONAI),
    )
    torchdiffeq: LibrarySettings = field(default_factory=LibrarySettings)


@dataclass(frozen=True, kw_only=True)
class DiffusionSamplingSettings(Settings):
    """Of ddpm."""

    solver: str = setting(
        "ddim",
        "ddim (arXiv 2010.02502, equation 12), or ancestral (arXiv 2006.11239, algorithm 2), "
        "which is ddim with eta = 1",
        choices=("ddim", "ancestral"),
    )
    eta: float = setting(
        0.0, "ddim: share of the ancestral sampler's noise; 0 draws none", low=0.0, high=1.0
    )
    first_log_snr: float = setting(
        -8.0,
        "prediction=epsilon: the log-SNR that sampling begins at. Below it the clean estimate "
        "divides the network's error by alpha, .018 at -8 and 5e-5 at t = 1",
        low=-30.0,
        high=0.0,
    )
    clip: bool = setting(False, "keep the clean estimate of each step in the range of the data")


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings(Settings):
    """Classifier-free guidance (arXiv 2207.12598): p_u + w (p_c - p_u)."""

    start: float = setting(1.0, "w at t = 1, the noise; 1 is no guidance", low=0.0, high=100.0)
    end: float = setting(1.0, "w at t = 0; between them it is linear in t", low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class RestartSettings(Settings):
    """Restart sampling (arXiv 2306.14878): noise is added from t = low back to t = high, and the
    way from there is gone again.
    """

    enabled: bool = setting(False, "restart on the way")
    low: float = setting(0.1, "t that noise is added at", low=0.001, high=0.99)
    high: float = setting(0.33, "t that it leads back to", low=0.001, high=0.999)
    rounds: int = setting(2, "how often", low=1, high=1000)
    steps: int = setting(5, "steps from high to low, each time", low=1, high=10_000)

    def check(self) -> None:
        if self.low >= self.high:
            raise SettingsError(
                f"sampling.restart.low lies below sampling.restart.high, not at {self.low} with "
                f"{self.high}. Lower it, or raise high."
            )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How images are made of noise; of rflow and ddpm the strategy's node is read."""

    steps: int = setting(50, "from noise to image", low=1, high=100_000)
    rflow: FlowSamplingSettings = field(default_factory=FlowSamplingSettings)
    ddpm: DiffusionSamplingSettings = field(default_factory=DiffusionSamplingSettings)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    restart: RestartSettings = field(default_factory=RestartSettings)

    def check(self) -> None:
        if self.rflow.solver == MONAI and self.restart.enabled:
            raise SettingsError(
                "sampling.rflow.solver=monai takes the steps of the library's own grid, which has "
                "no restarts. Set sampling.restart.enabled=false, or take another solver."
            )
        if self.rflow.solver == MONAI and self.steps > MONAI_STEPS:
            raise SettingsError(
                f"sampling.rflow.solver=monai has at most {MONAI_STEPS} steps, not {self.steps}. "
                "Lower sampling.steps, or take another solver."
            )
