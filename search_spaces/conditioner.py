"""Spaces of the conditioner. The ranges are those of its source and around them.

Only ratios of weights matter under Adam, so the hierarchical squared error is the anchor, at 1,
and the source's 10:1 is a weight of 10 for the main one. Weights are searched only without a
balancer; with one a term is on or off.

The source's range of the targets is `model.reach`, which stretches the network's outputs instead:
targets, terms and metrics keep the units of `vae.reach`, which all trials share. Two of its
tunables are in no space: the length (`train.steps`, its epochs) determines the sweep's rungs and
schedules, and the rules that end a training (`train.patience`, `train.overfit_ratio`) are in
`training` alone: they save time and improve no trial.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Conditions, Domain, Integer, LogUniform, Uniform
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

BALANCERS = (
    "fixed",
    "uncertainty",
    "gradnorm",
    "dwa",
    "relobralo",
    "inverse_gradient",
    "magnitude_ratio",
)
"""All kinds but `softmax`, whose weights collapse; the document's own point uses it."""

_ON_OFF = (True, False)
_FIXED = {"loss.balancer.kind": ("fixed",)}
_ANCHOR = {"loss.hier_mse.enabled": True, "loss.hier_mse.weight": 1.0}


def _term(name: str, low: float, high: float, when: Conditions | None = None) -> dict[str, Domain]:
    """A switch for a term, and its weight, which exists where the term is on and its weight
    applies.
    """
    on = {f"loss.{name}.enabled": (True,)}
    return {
        f"loss.{name}.enabled": Choice(_ON_OFF, when=when or {}),
        f"loss.{name}.weight": LogUniform(low, high, when={**on, **_FIXED}),
    }


# Given latents have no decoder, and the term would be refused.
_DECODED = _term("decoded", 0.1, 30.0, when={"data.kind": ("fields",)})

# The source's first questions: the ratio of the two squared errors, which terms help, and which
# balancer.
WEIGHTS = Space(
    name="weights",
    system="conditioner",
    domains={
        "loss.balancer.kind": Choice(("fixed", "uncertainty", "dwa")),
        "loss.main_mse.weight": LogUniform(0.3, 30.0, when=_FIXED),
        **_DECODED,
        "augment.outer_probability": Uniform(0.0, 1.0),
        "optimizer.lr": LogUniform(3e-4, 2e-2),
    },
    points=("baseline", "document"),
    fixed=_ANCHOR,
)

_MODEL: dict[str, Domain] = {
    "model.filters": Choice(((8, 16, 32, 64), (16, 32, 64, 128), (32, 64, 128, 256))),
    "model.attention": Choice(("none", "soft", "hard")),
    "model.reduction": Integer(4, 16, step=4, when={"model.attention": ("soft", "hard")}),
    "model.norm_groups": Choice((1, 4, 32)),
    "model.pool_size": Choice((1, 2, 4)),
    "model.dropout": Uniform(0.0, 0.3),
    "model.spectral_norm": Choice(_ON_OFF),
    "model.head_gain": LogUniform(0.01, 1.0),
    "model.output_scale": Choice((0.0, 0.1, 1.0)),
    # Half of the latents' numbers, the source's, and more.
    "model.trunk_width": Choice((0, 64, 128, 256)),
    "model.head_width": Choice((0, 64, 128, 256)),
    "model.reach": Uniform(0.5, 0.95),
}


def _kinds(*names: str) -> Conditions:
    return {"loss.balancer.kind": names}


_BALANCER: dict[str, Domain] = {
    "loss.balancer.kind": Choice(BALANCERS),
    "loss.balancer.lr": LogUniform(1e-4, 1e-1, when=_kinds("uncertainty", "gradnorm")),
    "loss.balancer.interval": Integer(
        5, 50, step=5, when=_kinds("gradnorm", "dwa", "relobralo", "inverse_gradient")
    ),
    "loss.balancer.alpha": Uniform(0.0, 3.0, when=_kinds("gradnorm")),
    "loss.balancer.temperature": LogUniform(0.05, 5.0, when=_kinds("dwa", "relobralo")),
    "loss.balancer.decay": Uniform(0.5, 0.999, when=_kinds("relobralo", "inverse_gradient")),
    "loss.balancer.lookback": Uniform(0.0, 0.2, when=_kinds("relobralo")),
    "loss.balancer.weight_max": LogUniform(2.0, 50.0, when=_kinds("inverse_gradient")),
    # The source's "hier = max(1, main / 2 hier)", with the limit that it lacks (000-M1).
    "loss.balancer.ratio": LogUniform(0.1, 2.0, when=_kinds("magnitude_ratio")),
    "loss.balancer.ratio_max": Uniform(2.0, 10.0, when=_kinds("magnitude_ratio")),
}


def _likeness(name: str) -> dict[str, Domain]:
    """What a perceptual term compares."""
    on: Conditions = {f"loss.{name}.enabled": (True,)}
    networks: Conditions = {**on, f"loss.{name}.kind": ("projection",)}
    return {
        f"loss.{name}.kind": Choice(("projection", "cosine", "cka"), when=on),
        f"loss.{name}.widths": Choice(((16, 8), (32, 16, 8), (8, 4)), when=networks),
        # The source's are those of torch.
        f"loss.{name}.start": Choice(("he", "torch"), when=networks),
    }


_LOSS: dict[str, Domain] = {
    **_BALANCER,
    "loss.label_smoothing": Uniform(0.0, 0.2),
    # The anchor of magnitude_ratio keeps its weight, which the others are made from.
    "loss.main_mse.weight": LogUniform(0.3, 30.0, when=_kinds("fixed", "magnitude_ratio")),
    **_term("main_mae", 0.03, 10.0),
    **_term("hier_mae", 0.03, 10.0),
    **_term("main_huber", 0.03, 10.0),
    **_term("hier_huber", 0.01, 10.0),
    "loss.main_huber.beta": LogUniform(0.01, 1.0, when={"loss.main_huber.enabled": (True,)}),
    "loss.hier_huber.beta": LogUniform(0.01, 1.0, when={"loss.hier_huber.enabled": (True,)}),
    **_term("main_perceptual", 0.005, 0.5),
    **_term("hier_perceptual", 0.005, 0.5),
    **_likeness("main_perceptual"),
    **_likeness("hier_perceptual"),
    **_DECODED,
    **_term("consistency", 0.005, 0.5),
    "loss.consistency.teacher": Choice(
        ("same", "ema"), when={"loss.consistency.enabled": (True,)}
    ),
    # Without a moving average that teacher does not exist; with one, the average is also what is
    # validated.
    "train.ema_decay": Choice((0.99, 0.995, 0.999), when={"loss.consistency.teacher": ("ema",)}),
    **_term("spectral", 1e-6, 1e-2),
    "loss.spectral.kind": Choice(
        ("stable_rank", "energy"), when={"loss.spectral.enabled": (True,)}
    ),
}

_AUGMENT: dict[str, Domain] = {
    "augment.outer_probability": Uniform(0.0, 1.0),
    "augment.inner_probability": Uniform(0.0, 1.0),
    # Without the symmetry flips give wrong targets (000-M13). On a user's data the sweep shows
    # whether they do, because validation images are never flipped.
    "augment.flip_symmetric": Choice(_ON_OFF),
    "augment.flip_probability": Uniform(0.0, 1.0, when={"augment.flip_symmetric": (True,)}),
    "augment.shift_probability": Uniform(0.0, 1.0),
    "augment.shift_pixels": Integer(0, 4),
    "augment.rotation_probability": Uniform(0.0, 1.0),
    "augment.rotation_degrees": Uniform(0.0, 15.0),
    "augment.scale_probability": Uniform(0.0, 1.0),
    "augment.scale_change": Uniform(0.0, 0.15),
    "augment.mixup_probability": Uniform(0.0, 0.5),
    "augment.mixup_alpha": Uniform(0.1, 1.0),
    "augment.noise_probability": Uniform(0.0, 0.5),
    "augment.noise_sigma": Uniform(0.0, 0.1),
}

_OPTIMIZER: dict[str, Domain] = {
    "optimizer.lr": LogUniform(1e-5, 1e-2),
    "optimizer.weight_decay": LogUniform(1e-6, 1e-2),
    "optimizer.warmup": Uniform(0.0, 0.05),
    "optimizer.final": LogUniform(1e-5, 1e-1),
    "train.batch_size": Choice((8, 16, 32, 64, 128)),
    "train.clip_norm": LogUniform(0.1, 10.0),
}

FULL = Space(
    name="full",
    system="conditioner",
    domains={**_MODEL, **_LOSS, **_AUGMENT, **_OPTIMIZER},
    points=POINTS,
    fixed=_ANCHOR,
)

# How the network is trained, with a fixed loss.
TRAINING = Space(
    name="training",
    system="conditioner",
    domains={
        **_OPTIMIZER,
        "train.overfit_ratio": LogUniform(2.0, 1000.0),
        "train.patience": Choice((0, 10, 30, 100, 500)),
    },
    points=("baseline",),
)

SPACES: Mapping[str, Space] = {"weights": WEIGHTS, "full": FULL, "training": TRAINING}
