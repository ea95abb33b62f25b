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

FULL = Space(
    name="full",
    system="style_flow",
    domains={
        **WEIGHTS.domains,
        **_term("trajectory", 1e-3, 1.0),
        "loss.swd.projections": Choice((16, 32, 64, 128, 256, 512)),
        # Without patches of one size or another there is nothing to compare, so 3 stays.
        **{f"loss.swd.patch_{size}": Choice(_ON_OFF) for size in (1, 5, 7)},
        "loss.swd.mean_removed": Choice(_ON_OFF),
        "loss.swd.padding": Choice(("none", "reflect")),
        "loss.swd.max_samples": Choice((1024, 2048, 4096, 8192, 0)),
        "loss.swd.group": Choice(("sample", "style")),
        "loss.ssm.max_positions": Choice((64, 128, 256, 512, 1024)),
        "flow.steps": Integer(2, 20),
        "model.variant": Choice(("base", "plus")),
        "optimizer.lr": LogUniform(1e-5, 1e-2),
        "optimizer.weight_decay": LogUniform(1e-6, 0.1),
        "train.clip_norm": LogUniform(0.1, 10.0),
        "train.batch_size": Choice((8, 16, 32, 48)),
    },
    points=WEIGHTS.points,
    fixed=WEIGHTS.fixed,
    metrics=WEIGHTS.metrics,
)
"""Every tunable of the document (002.B) but for the length, which is the sweep's, checkpointing,
which changes no number, and what `generate` has: guidance, Langevin's noise, steps of its own. The
largest batch is its new one of 48 (the old one, 240, is thirty times a trial's cost), and of the
ways of grouping the pooled one is left out, its mistake (002-M7).
"""

SPACES: Mapping[str, Space] = {"weights": WEIGHTS, "full": FULL}
"""The first is the default."""
