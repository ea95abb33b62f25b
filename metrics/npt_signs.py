"""The signs that a training of npt is ill: a scalar that does not depend on the token, pairs out
of size, and a v_a that does not say what attention is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from metrics.health import STOP_HELP, HealthSettings
from metrics.health_signs import SIGNS, MeasuredSign
from settings.schema import setting

_V_B = "length of v_b, mean over pairs and tokens,"

_MEASURED = (
    MeasuredSign(
        "scalar_low",
        "val.scalar_std",
        "s is the same for all tokens of a converted layer: its deviation is",
        warns_below=True,
    ),
    MeasuredSign("v_b_low", "val.v_b_norm", f"the gate is hardly changed: {_V_B} is", True),
    MeasuredSign("v_b_high", "val.v_b_norm", f"the gate is changed beyond its size: {_V_B} is"),
    MeasuredSign(
        "cosine_low",
        "val.attention_cosine",
        "v_a does not become a: their cosine after the first stage is",
        warns_below=True,
        since="cosine_since",
    ),
)


@dataclass(frozen=True, kw_only=True)
class NptHealthSettings(HealthSettings):
    """Health thresholds of npt, the document's (003.A)."""

    measured: ClassVar[tuple[MeasuredSign, ...]] = _MEASURED

    scalar_low: float = setting(
        1e-6, "warn below: deviation of s over tokens in the layer where it is least", low=0.0
    )
    v_b_low: float = setting(0.1, "warn below: |v_b|, mean over pairs and tokens", low=0.0)
    v_b_high: float = setting(10.0, "warn above: the same", low=0.0)
    cosine_low: float = setting(
        0.5, "warn below, after the first stage: cosine of v_a and a", low=-1.0, high=1.0
    )
    cosine_since: float = setting(
        0.1, "end of the first stage", unit="of train.steps", low=0.0, high=1.0
    )
    stop: tuple[str, ...] = setting(
        (), STOP_HELP, choices=(*SIGNS, *(sign.name for sign in _MEASURED))
    )

    @property
    def without_pairs(self) -> HealthSettings:
        """The signs of every system alone, for an adapter, which has no pairs."""
        values = {f.name: getattr(self, f.name) for f in fields(HealthSettings)}
        return HealthSettings(**{**values, "stop": tuple(s for s in self.stop if s in SIGNS)})
