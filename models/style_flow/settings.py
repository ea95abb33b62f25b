"""Settings of the velocity network and of the flow through it."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.integration import SOLVERS
from models.sinusoids import TIME_SCALE
from settings.schema import Settings, SettingsError, setting

VARIANTS = ("base", "plus")
KERNELS = ("base_and_residual", "from_zero")
BEGINNINGS = ("noised", "inverted")
NULLS = ("token", "mean", "mean_at_start")
STEP_RULES = ("grid", "moving")
STARTS = ("noised", "source")
LAYOUTS = ("as_given", "contiguous", "channels_last")

LEVELS = 3
"""Of the UNet; the widths double and the sides halve from one to the next."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The UNet v(x, t, style). The defaults are for a CPU; the document's are base=128 and
    embedding=256, with kernel=from_zero, null=mean_at_start and time_scale=1.
    """

    variant: str = setting(
        "base",
        "plus adds self-attention at the coarsest level and gates on the skip connections, which "
        "the condition opens and closes",
        choices=VARIANTS,
    )
    base: int = setting(
        32, "channels of the finest level, doubled at each below", low=1, high=1024
    )
    embedding: int = setting(
        64, "width of the embeddings of time, style and both; even", low=2, high=4096
    )
    encoder_blocks: int = setting(2, "residual blocks at each level", low=1, high=8)
    decoder_blocks: int = setting(3, "style blocks at each level on the way up", low=1, high=16)
    norm_groups: int = setting(8, "groups of GroupNorm; divides base", low=1, high=128)
    head_width: int = setting(
        32,
        "channels of an attention head of variant=plus; divides 4 x base",
        low=1,
        high=1024,
    )
    kernel: str = setting(
        "base_and_residual",
        "of a style block: the identity and what the condition predicts beside it, or from_zero, "
        "the prediction alone, which is 0 at the start (002-M14)",
        choices=KERNELS,
    )
    kernel_bias: bool = setting(False, "the condition predicts a bias with each kernel")
    null: str = setting(
        "token",
        "the unknown style: a learned token, the mean of the styles' embeddings, or that mean as "
        "it was at the start (002-M13)",
        choices=NULLS,
    )
    time_scale: float = setting(
        TIME_SCALE,
        "factor on t before its sinusoids; with 1 most of them are constant (002-M11)",
        low=1e-3,
        high=1e6,
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels, finest first."""
        return tuple(self.base * 2**level for level in range(LEVELS))

    @property
    def divisor(self) -> int:
        """By which both sides of a latent must be divisible."""
        return 2 ** (LEVELS - 1)

    def check(self) -> None:
        if self.embedding % 2:
            raise SettingsError(
                f"model.embedding must be even, a cosine for each sine, not {self.embedding}."
            )
        if self.base % self.norm_groups:
            raise SettingsError(
                f"model.norm_groups must divide model.base, not {self.norm_groups} of {self.base}."
                " Set it to a divisor."
            )
        if self.variant == "plus" and self.widths[-1] % self.head_width:
            raise SettingsError(
                "model.head_width must divide the channels of the coarsest level, not "
                f"{self.head_width} of {self.widths[-1]}. Set it to a divisor."
            )


@dataclass(frozen=True, kw_only=True)
class FlowSettings(Settings):
    """From a start at t0 to the end point at t = 1, in training."""

    steps: int = setting(4, "of the integration from t0 to 1", low=1, high=1000)
    solver: str = setting("euler", "of the integration", choices=tuple(SOLVERS))
    step_rule: str = setting(
        "grid",
        "grid: steps of (1 - t0) / n, made once; moving: of (1 - t) / n of the t that was "
        "reached, which leaves a share of (1 - 1 / n)^n of the way (002-M10)",
        choices=STEP_RULES,
    )
    start: str = setting(
        "noised",
        "of the state at t0: (1 - t0) noise + t0 source, or the source itself",
        choices=STARTS,
    )
    t0_low: float = setting(0.01, "t0 is uniform between this and t0_high", low=0.0, high=0.999)
    t0_high: float = setting(1.0, "see t0_low", low=0.001, high=1.0)
    bend: float = setting(
        0.0,
        "deviation of smooth random displacements of the source, in training alone",
        unit="cells",
        low=0.0,
        high=64.0,
    )
    checkpointing: bool = setting(
        True, "a step keeps its state alone and is computed again in the backward pass"
    )
    layout: str = setting(
        "as_given", "of the state in memory, where the network takes it (002-M17)", choices=LAYOUTS
    )

    def check(self) -> None:
        if self.t0_low >= self.t0_high:
            raise SettingsError(
                f"flow.t0_low must lie below flow.t0_high, not {self.t0_low:g} and "
                f"{self.t0_high:g}."
            )


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings(Settings):
    """v_u + w(t) (v_c - v_u), classifier-free guidance."""

    start: float = setting(2.0, "w where generation begins", low=0.0, high=100.0)
    end: float = setting(1.0, "w at t = 1; linear in t between", low=0.0, high=100.0)
    rescale: float = setting(
        0.0,
        "share of the guided velocity that gets the deviation of the conditional one (arXiv "
        "2305.08891, equation 16); the document's option is 0.7",
        low=0.0,
        high=1.0,
    )

    @property
    def is_on(self) -> bool:
        """Whether the velocity without a style is asked for at all."""
        return (self.start, self.end) != (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class LangevinSettings(Settings):
    """Noise sigma sqrt(dt) xi after each step that begins at t >= `since`."""

    sigma: float = setting(0.0, "0 adds none; the document's option is 0.1", low=0.0, high=10.0)
    since: float = setting(0.5, "t from which on noise is added", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How a content is taken back to t0 and generated anew from there in another style. The
    document's is begin=inverted with t0=0, which no training from t0 > 0 has learnt.
    """

    begin: str = setting(
        "noised",
        "at t0: (1 - t0) noise + t0 content, as in training; or the content inverted in its own "
        "style, the document's",
        choices=BEGINNINGS,
    )
    t0: float = setting(
        -1.0,
        "where generation begins, 0 is noise alone; -1 takes validation.t0 of the training, "
        "where it was judged",
        low=-1.0,
        high=0.999,
    )
    steps: int = setting(20, "of the generation, from t0 to 1", low=1, high=1000)
    inversion_steps: int = setting(20, "of the inversion, from t = 1 to t0", low=1, high=1000)
    solver: str = setting("euler", "of both", choices=tuple(SOLVERS))
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    langevin: LangevinSettings = field(default_factory=LangevinSettings)

    def check(self) -> None:
        if -1.0 < self.t0 < 0.0:
            raise SettingsError(
                f"sampling.t0 must lie in 0 to 0.999, or be -1 for validation.t0 of the training, "
                f"not {self.t0:g}."
            )

    @property
    def first(self) -> float:
        """t0; 0 where no training is known that would say it."""
        return max(self.t0, 0.0)
