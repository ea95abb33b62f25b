"""The spaces of npt. The ranges are those of its source and around them.

Only ratios of weights matter under Adam, so fidelity is the anchor, at 1: what the others are
compared with is the objective itself. The source's own point has a weight of 10 on `direct`.

Of its tunables the length is in no space: it determines the sweep's rungs and schedules, which are
shares of it. The warm-up is the sweep's own (`optimizer.warmup`). No space opens the layers one by
one: no rung may lie before the last window is over.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Conditions, Domain, LogUniform, Uniform
from search_spaces.space import Space

PROPOSALS = (
    "guidance",
    "adaptive",
    "bottleneck",
    "decomposed",
    "consistency",
    "curriculum",
    "orthogonality",
)
"""One of the source's proposals each, in the order of its phases."""

POINTS = ("right", "document", "stages", "improved", "head", "static", *PROPOSALS)

_ON_OFF = (True, False)
_ANCHOR = {"loss.fidelity.enabled": True, "loss.fidelity.weight": 1.0}


def _on(name: str) -> Conditions:
    return {f"loss.{name}.enabled": (True,)}


def _term(name: str, low: float, high: float) -> dict[str, Domain]:
    """A switch for a term, and its weight where it is on."""
    return {
        f"loss.{name}.enabled": Choice(_ON_OFF),
        f"loss.{name}.weight": LogUniform(low, high, when=_on(name)),
    }


_OLD: dict[str, Domain] = {
    "loss.direct.weight": LogUniform(0.01, 20.0),
    "loss.encoding.weight": LogUniform(0.01, 20.0),
    "loss.regularisation.weight": LogUniform(1e-4, 0.1),
}

# The source's first question, and ours: which of the terms that it proposes help.
WEIGHTS = Space(
    name="weights",
    system="npt",
    domains={
        **_OLD,
        **_term("guidance", 0.01, 5.0),
        **_term("modulation", 0.01, 1.0),
        **_term("orthogonality", 1e-3, 0.1),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    # Few, and none whose weights move for long: a short sweep draws and halves.
    points=("right", "document", "static"),
    fixed=_ANCHOR,
)


def _ramp(name: str, first: float) -> dict[str, Domain]:
    """A weight that is `first` of what it ends as in stage 1, then on a line, or constant."""
    node = f"loss.{name}.schedule"
    on: Conditions = {f"{node}.kind": ("linear",)}
    return {
        f"{node}.kind": Choice(("constant", "linear")),
        f"{node}.first": LogUniform(first, 4.0, when=on),
        f"{node}.start": Uniform(0.0, 0.3, when=on),
        f"{node}.end": Uniform(0.3, 0.6, when=on),
    }


_STAGES: dict[str, Domain] = {
    **_ramp("direct", 0.01),
    **_ramp("encoding", 0.1),
    **_ramp("fidelity", 0.1),
    # Stage 1 has a rate of its own.
    "optimizer.schedule": Choice(("cosine", "constant")),
}
STAGES = Space(
    name="stages",
    system="npt",
    domains={**_STAGES, "optimizer.lr": LogUniform(3e-4, 1e-2)},
    points=("document", "stages", "static"),
    fixed=_ANCHOR,
)

_CONVERTER: dict[str, Domain] = {
    "model.rank": Choice((8, 16, 32, 64, 128, 256, 512, 1024)),
    "model.pairs": Choice((1, 2, 4, 8, 16)),
    "model.gauge": Choice(("none", "unit", "equal")),
    "model.identity": Uniform(0.0, 1.0),
    "model.noise": LogUniform(1e-4, 0.1),
    "model.scale": LogUniform(1e-4, 0.1),
    "model.teacher_share": Uniform(0.0, 1.0),
    "optimizer.rate.converter": LogUniform(0.1, 30.0),
}
CONVERTER = Space(
    name="converter",
    system="npt",
    domains={**_CONVERTER, "optimizer.weight_decay": LogUniform(1e-5, 0.1)},
    points=("right", "head", "static"),
    fixed=_ANCHOR,
)

_BALANCERS = ("fixed", "inverse_gradient", "gradnorm", "uncertainty", "dwa", "relobralo")


def _kinds(*names: str) -> Conditions:
    return {"loss.balancer.kind": names}


_BALANCER: dict[str, Domain] = {
    "loss.balancer.kind": Choice(_BALANCERS),
    "loss.balancer.base": Choice(("ones", "weights"), when=_kinds(*_BALANCERS[1:])),
    "loss.balancer.decay": Uniform(0.9, 0.999, when=_kinds("inverse_gradient", "relobralo")),
    "loss.balancer.alpha": Uniform(0.0, 2.0, when=_kinds("gradnorm")),
}

_PROPOSALS: dict[str, Domain] = {
    **_term("guidance", 0.01, 5.0),
    "loss.guidance.measure": Choice(("pearson", "square"), when=_on("guidance")),
    **_term("variance", 0.01, 1.0),
    "loss.variance.gamma": LogUniform(0.1, 10.0, when=_on("variance")),
    **_term("error_parallel", 0.01, 1.0),
    **_term("error_orthogonal", 0.01, 1.0),
    # In its right form it needs a drawn code.
    "model.bottleneck": Choice(_ON_OFF),
    "loss.bottleneck.enabled": Choice(_ON_OFF, when={"model.bottleneck": (True,)}),
    "loss.bottleneck.weight": Uniform(
        0.0, 1.0, when={"model.bottleneck": (True,), **_on("bottleneck")}
    ),
    "loss.bottleneck.beta": LogUniform(
        1e-4, 0.1, when={"model.bottleneck": (True,), **_on("bottleneck")}
    ),
    **_term("modulation", 0.01, 1.0),
    **_term("orthogonality", 1e-3, 0.1),
    "loss.orthogonality.directions": Choice((1, 4, 10, 32, 64), when=_on("orthogonality")),
    "npt.curriculum.enabled": Choice(_ON_OFF),
    "npt.curriculum.share.end": Uniform(0.05, 0.6, when={"npt.curriculum.enabled": (True,)}),
}

FULL = Space(
    name="full",
    system="npt",
    domains={
        **_OLD,
        **_STAGES,
        **_CONVERTER,
        **_BALANCER,
        **_PROPOSALS,
        "model.gradient": Choice((1.0, 2.0, 10.0)),
        "optimizer.lr": LogUniform(5e-5, 1e-2),
        "optimizer.weight_decay": LogUniform(1e-5, 0.1),
        "train.clip_norm": LogUniform(0.1, 10.0),
    },
    points=POINTS,
    fixed=_ANCHOR,
)

SPACES: Mapping[str, Space] = {
    space.name: space for space in (WEIGHTS, STAGES, CONVERTER, FULL)
}
"""The first is the default."""
