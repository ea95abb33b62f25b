"""The space of style transfer: how much style, how much is asked of the velocity, how the flow is
integrated in training. Judged by style and content together, for each is bought by the other.

Only ratios of weights matter under Adam, so the content term is the anchor, at 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Domain, Integer, LogUniform, Uniform
from search_spaces.space import Space

_ON_OFF = (True, False)


def _term(name: str, low: float, high: float) -> dict[str, Domain]:
    """A switch for a term, and its weight where it is on."""
    on = {f"loss.{name}.enabled": (True,)}
    return {
        f"loss.{name}.enabled": Choice(_ON_OFF),
        f"loss.{name}.weight": LogUniform(low, high, when=on),
    }


WEIGHTS = Space(
    name="weights",
    system="style_flow",
    domains={
        "loss.swd.weight": LogUniform(0.1, 200.0),
        **_term("velocity", 1e-3, 1.0),
        **_term("divergence", 1e-3, 0.1),
        "flow.steps": Integer(2, 8),
        "flow.t0_low": Uniform(0.0, 0.7),
        "label_drop.share": Uniform(0.0, 0.3),
        "optimizer.lr": LogUniform(1e-4, 1e-2),
    },
    points=("right", "document"),
    fixed={
        "loss.swd.enabled": True,
        "loss.ssm.enabled": True,
        "loss.ssm.weight": 1.0,
    },
    metrics=("val.swd_target", "val.content_distance"),
)

SPACES: Mapping[str, Space] = {"weights": WEIGHTS}
"""The first is the default."""
