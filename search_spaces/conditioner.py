"""Spaces of the conditioner. The ranges are those of its source and around them.

Only ratios of weights matter under Adam, so the hierarchical square is the anchor, at 1, and the
source's 10:1 is the weight 10 of the main one. Weights are searched where they are the weights:
with a balancer a term is on or off.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Domain, Integer, LogUniform, Uniform
from search_spaces.space import Space

POINTS = (
    "baseline",
    "document",
    "small_data",
    "large_data",
    "balanced",
    "robust",
    "semantic",
    "fast",
)
"""The source's configurations; `high_resolution` needs images of its size."""

BALANCERS = ("fixed", "uncertainty", "gradnorm", "dwa", "relobralo", "inverse_gradient")

_ON_OFF = (True, False)
_FIXED = {"loss.balancer.kind": ("fixed",)}
_ANCHOR = {"loss.hier_mse.enabled": True, "loss.hier_mse.weight": 1.0}


def _term(name: str, low: float, high: float) -> dict[str, Domain]:
    """A term as a switch of its own, with a weight that exists where it is on and applied."""
    on = {f"loss.{name}.enabled": (True,)}
    return {
        f"loss.{name}.enabled": Choice(_ON_OFF),
        f"loss.{name}.weight": LogUniform(low, high, when={**on, **_FIXED}),
    }


# What the source asks first: the ratio of the two squares, which terms help, and who weighs them.
WEIGHTS = Space(
    name="weights",
    system="conditioner",
    domains={
        "loss.balancer.kind": Choice(("fixed", "uncertainty", "dwa")),
        "loss.main_mse.weight": LogUniform(0.3, 30.0, when=_FIXED),
        **_term("decoded", 0.1, 30.0),
        "augment.outer_probability": Uniform(0.0, 1.0),
        "optimizer.lr": LogUniform(3e-4, 2e-2),
    },
    points=("baseline", "document"),
    fixed=_ANCHOR,
)

_MODEL: dict[str, Domain] = {
    "model.attention": Choice(("none", "soft", "hard")),
    "model.reduction": Integer(4, 16, step=4, when={"model.attention": ("soft", "hard")}),
    "model.dropout": Uniform(0.0, 0.3),
    "model.spectral_norm": Choice(_ON_OFF),
    "model.head_gain": LogUniform(0.01, 1.0),
    "model.output_scale": Choice((0.0, 0.1, 1.0)),
}

_LOSS: dict[str, Domain] = {
    "loss.balancer.kind": Choice(BALANCERS),
    "loss.balancer.lr": LogUniform(
        1e-4, 1e-1, when={"loss.balancer.kind": ("uncertainty", "gradnorm")}
    ),
    "loss.balancer.interval": Integer(
        5, 50, step=5, when={"loss.balancer.kind": ("gradnorm", "dwa", "relobralo")}
    ),
    "loss.balancer.alpha": Uniform(0.0, 3.0, when={"loss.balancer.kind": ("gradnorm",)}),
    "loss.label_smoothing": Uniform(0.0, 0.2),
    "loss.main_mse.weight": LogUniform(0.3, 30.0, when=_FIXED),
    **_term("main_mae", 0.03, 10.0),
    **_term("hier_mae", 0.03, 10.0),
    **_term("main_huber", 0.03, 10.0),
    **_term("hier_huber", 0.03, 10.0),
    "loss.main_huber.beta": LogUniform(0.01, 1.0, when={"loss.main_huber.enabled": (True,)}),
    "loss.hier_huber.beta": LogUniform(0.01, 1.0, when={"loss.hier_huber.enabled": (True,)}),
    **_term("main_perceptual", 0.005, 0.5),
    **_term("hier_perceptual", 0.005, 0.5),
    "loss.main_perceptual.kind": Choice(
        ("projection", "cosine", "cka"), when={"loss.main_perceptual.enabled": (True,)}
    ),
    "loss.hier_perceptual.kind": Choice(
        ("projection", "cosine", "cka"), when={"loss.hier_perceptual.enabled": (True,)}
    ),
    **_term("decoded", 0.1, 30.0),
    **_term("consistency", 0.005, 0.5),
    **_term("spectral", 1e-6, 1e-2),
}

_AUGMENT: dict[str, Domain] = {
    "augment.outer_probability": Uniform(0.0, 1.0),
    "augment.inner_probability": Uniform(0.0, 1.0),
    "augment.shift_probability": Uniform(0.0, 1.0),
    "augment.rotation_probability": Uniform(0.0, 1.0),
    "augment.scale_probability": Uniform(0.0, 1.0),
    "augment.mixup_probability": Uniform(0.0, 0.5),
    "augment.mixup_alpha": Uniform(0.1, 1.0),
    "augment.noise_probability": Uniform(0.0, 0.5),
    "augment.noise_sigma": Uniform(0.0, 0.1),
}

FULL = Space(
    name="full",
    system="conditioner",
    domains={
        **_MODEL,
        **_LOSS,
        **_AUGMENT,
        "optimizer.lr": LogUniform(1e-5, 1e-2),
        "optimizer.weight_decay": LogUniform(1e-6, 1e-2),
        "optimizer.warmup": Uniform(0.0, 0.05),
    },
    points=POINTS,
    fixed=_ANCHOR,
)

SPACES: Mapping[str, Space] = {"weights": WEIGHTS, "full": FULL}
