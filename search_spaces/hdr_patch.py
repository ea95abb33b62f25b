"""Spaces of the HDR hole-filling network. The ranges are the document's before and after, widened
on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Domain, Integer, LogUniform, Uniform
from search_spaces.space import Space

POINTS = ("before", "document", "prefill")
"""The document's state before its changes, its final recommendation, and ours; its variants are
arms (`benchmarks/arms/hdr_patch.yaml`).
"""

_ON_OFF = (True, False)
_ANCHOR = {"loss.l1.enabled": True, "loss.l1.weight": 1.0}

# The decisive question of 004-M1: how large a cap fills holes, with and without a prefill. The
# bound on |delta| is alpha * log_delta_max, so one of the two stays fixed.
CAPS = Space(
    name="caps",
    system="hdr_patch",
    domains={
        "hdr.prefill": Choice(("zero", "nearest", "push_pull", "median_log")),
        "hdr.cap.log_delta_max": Uniform(4.0, 22.0),
        "loss.log.weight": LogUniform(0.1, 10.0),
        "loss.hole.weight": LogUniform(0.1, 50.0),
        "optimizer.lr": LogUniform(5e-5, 1e-2),
    },
    points=POINTS,
    fixed={
        "hdr.cap.mode": "absolute",
        "hdr.cap.alpha": 1.0,
        "hdr.clamp.enabled": False,
        "loss.log.kind": "smooth_l1",
        "loss.log.beta": 2.0,
        **_ANCHOR,
    },
)


def _term(
    name: str, low: float, high: float, when: Mapping[str, tuple[object, ...]]
) -> dict[str, Domain]:
    """A switch for a term, and its weight, which exists only where the term is on."""
    return {
        f"loss.{name}.enabled": Choice(_ON_OFF, when=when),  # type: ignore[arg-type]
        f"loss.{name}.weight": LogUniform(low, high, when={f"loss.{name}.enabled": (True,)}),
    }


_HEAD: dict[str, Domain] = {
    "hdr.epsilon": LogUniform(1e-8, 1e-2),
    "hdr.prefill": Choice(("zero", "nearest", "push_pull", "median_log")),
    "hdr.mask": Choice(_ON_OFF),
    "hdr.dither": Choice(_ON_OFF),
    "hdr.ring_scale": Uniform(0.0, 1.0),
    "hdr.ring_kernel": Integer(3, 9, step=2),
    "hdr.cap.mode": Choice(("absolute", "proportional", "learnable", "predicted")),
    "hdr.cap.log_delta_max": Uniform(4.0, 22.0, when={"hdr.cap.mode": ("absolute",)}),
    "hdr.cap.alpha": Uniform(0.5, 1.5, when={"hdr.cap.mode": ("absolute",)}),
    "hdr.cap.log_delta_scale": Uniform(0.3, 1.5, when={"hdr.cap.mode": ("proportional",)}),
    # The start must lie inside the bounds in every draw. So the start is searched inside the
    # default bounds where the scale is learnt, and the bounds are searched around the default
    # start where it is predicted per patch.
    "hdr.cap.scale_init": Uniform(2.5, 16.0, when={"hdr.cap.mode": ("learnable",)}),
    "hdr.cap.per_channel": Choice(_ON_OFF, when={"hdr.cap.mode": ("learnable",)}),
    "hdr.cap.scale_low": Uniform(1.0, 4.0, when={"hdr.cap.mode": ("predicted",)}),
    "hdr.cap.scale_high": Uniform(8.0, 20.0, when={"hdr.cap.mode": ("predicted",)}),
    "hdr.clamp.enabled": Choice(_ON_OFF),
    "hdr.clamp.max": Uniform(4.0, 20.0, when={"hdr.clamp.enabled": (True,)}),
}

_LOSS: dict[str, Domain] = {
    "loss.log.weight": LogUniform(0.1, 10.0),
    "loss.log.kind": Choice(("l1", "smooth_l1", "charbonnier")),
    "loss.log.beta": LogUniform(0.05, 10.0, when={"loss.log.kind": ("smooth_l1",)}),
    **_term("hole", 0.1, 50.0, {}),
    **_term("boundary", 0.1, 20.0, {}),
    **_term("edge", 0.1, 20.0, {}),
    # Outside the mask the output is the input, so a term on valid pixels has no gradient while the
    # mask is on.
    **_term("context", 0.1, 20.0, {"hdr.mask": (False,)}),
    # 004-M15: without a prefill, pulling the residual to 0 keeps the hole black.
    **_term("sparsity", 0.01, 1.0, {"hdr.prefill": ("nearest", "push_pull", "median_log")}),
    **_term("range", 0.1, 10.0, {}),
    "loss.range.safe_range": Uniform(4.0, 16.0, when={"loss.range.enabled": (True,)}),
    **_term("wasserstein", 0.02, 2.0, {}),
    **_term("moments", 0.02, 2.0, {}),
    **_term("perceptual", 0.05, 10.0, {}),
    **_term("color", 0.005, 0.5, {}),
}

_LISTENS = {"loss.adversarial.enabled": (True,)}

# Whether a GAN helps, and which. Every trial has a critic, so that all report the same columns;
# `loss.adversarial.enabled` says whether the model is trained against it. In every configuration
# the critic starts before the term does, and the ramp starts before it ends.
GAN = Space(
    name="gan",
    system="hdr_patch",
    domains={
        **_term("adversarial", 1e-3, 1.0, {}),
        "loss.adversarial.schedule.start": Uniform(0.1, 0.16, when=_LISTENS),
        "loss.adversarial.schedule.end": Uniform(0.16, 0.5, when=_LISTENS),
        "critic.patch.schedule.start": Uniform(0.0, 0.1, when=_LISTENS),
        "critic_optimizer.lr": LogUniform(5e-5, 1e-2, when=_LISTENS),
        "discriminator.objective": Choice(("least_squares", "hinge"), when=_LISTENS),
        "discriminator.norm": Choice(("instance", "layer_head", "none"), when=_LISTENS),
        "discriminator.spectral": Choice(_ON_OFF, when=_LISTENS),
        "discriminator.width": Integer(8, 64, step=8, when=_LISTENS),
        "discriminator.layers": Integer(1, 3, when=_LISTENS),
        "optimizer.lr": LogUniform(5e-5, 1e-2),
    },
    points=("prefill", "gan"),
    fixed={
        "discriminator.enabled": True,
        "loss.adversarial.schedule.kind": "warmup",
        "critic.patch.schedule.kind": "step",
        "hdr.prefill": "push_pull",
        "hdr.cap.mode": "absolute",
        "hdr.cap.log_delta_max": 6.0,
        "hdr.cap.alpha": 1.0,
        "hdr.clamp.enabled": False,
        "loss.log.weight": 5.0,
        "loss.log.kind": "smooth_l1",
        "loss.log.beta": 2.0,
        **_ANCHOR,
    },
)

FULL = Space(
    name="full",
    system="hdr_patch",
    domains={**_HEAD, **_LOSS, "optimizer.lr": LogUniform(5e-5, 1e-2)},
    points=POINTS,
    fixed=_ANCHOR,
)

SPACES: Mapping[str, Space] = {"caps": CAPS, "full": FULL, "gan": GAN}
