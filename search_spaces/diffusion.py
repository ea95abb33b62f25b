"""Spaces of diffusion. All are judged by the clean estimate at fixed log-SNRs, which every
strategy has; what the network predicts of a noisy image is another quantity in each.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Conditions, Domain, LogUniform, Uniform
from search_spaces.space import Space
from settings.schema import Value

_ON_OFF = (True, False)
_ANCHOR: Mapping[str, Value] = {"loss.mse.enabled": True, "loss.mse.weight": 1.0}

_FLOW: Conditions = {"strategy.kind": ("rflow",)}
_NORMAL: Conditions = {**_FLOW, "strategy.rflow.law": ("logit_normal",)}
_DDPM: Conditions = {"strategy.kind": ("ddpm",)}

# How images are noised, which times are drawn, what is predicted.
STRATEGY = Space(
    name="strategy",
    system="diffusion",
    domains={
        "strategy.kind": Choice(("rflow", "ddpm")),
        "strategy.rflow.law": Choice(("logit_normal", "uniform"), when=_FLOW),
        "strategy.rflow.mean": Uniform(-1.0, 1.0, when=_NORMAL),
        "strategy.rflow.std": Uniform(0.5, 2.5, when=_NORMAL),  # the document's 1, ours 1.8
        "strategy.ddpm.prediction": Choice(("epsilon", "v"), when=_DDPM),
        "strategy.ddpm.steps": Choice((100, 1000), when=_DDPM),
        "strategy.min_snr.enabled": Choice(_ON_OFF),
        "strategy.min_snr.gamma": LogUniform(
            1.0, 20.0, when={"strategy.min_snr.enabled": (True,)}
        ),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("right", "document"),
    fixed=_ANCHOR,
)

_UNET: Conditions = {"model.kind": ("unet",)}
_DIT: Conditions = {"model.kind": ("dit",)}
_UVIT: Conditions = {"model.kind": ("uvit",)}

_NETWORK: dict[str, Domain] = {
    "model.kind": Choice(("unet", "dit", "uvit")),
    "model.unet.res_blocks": Choice((1, 2), when=_UNET),
    "model.dit.patch_size": Choice((2, 4, 8), when=_DIT),
    "model.dit.qk_norm": Choice(_ON_OFF, when=_DIT),
    "model.uvit.patch_size": Choice((2, 4, 8), when=_UVIT),
}

# Which network, at its demo size.
NETWORK = Space(
    name="network",
    system="diffusion",
    domains={
        **_NETWORK,
        "optimizer.lr": LogUniform(3e-4, 1e-2),
        "train.ema_decay": Choice((0.9, 0.99)),
    },
    points=("right",),
    fixed=_ANCHOR,
)

# What a training does so that the network generalises. Switches with ranges of their own.
REGULARISERS = Space(
    name="regularisers",
    system="diffusion",
    domains={
        "regulariser.input_noise.enabled": Choice(_ON_OFF),
        "regulariser.input_noise.std": LogUniform(
            0.02, 0.3, when={"regulariser.input_noise.enabled": (True,)}
        ),
        "regulariser.feature_noise.enabled": Choice(_ON_OFF),
        "regulariser.feature_noise.std": LogUniform(
            0.01, 0.3, when={"regulariser.feature_noise.enabled": (True,)}
        ),
        "regulariser.feature_noise.place": Choice(
            ("encoder", "middle", "decoder"), when={"regulariser.feature_noise.enabled": (True,)}
        ),
        "regulariser.self_conditioning.enabled": Choice(_ON_OFF),
        "strategy.curriculum.enabled": Choice(_ON_OFF),
        "strategy.curriculum.high_start": Uniform(
            0.1, 0.7, when={"strategy.curriculum.enabled": (True,)}
        ),
        "strategy.jitter.enabled": Choice(_ON_OFF),
        "strategy.jitter.std": Uniform(0.01, 0.15, when={"strategy.jitter.enabled": (True,)}),
        "optimizer.noise.eta": Choice((0.0, 0.01, 0.3, 1.0)),
        "optimizer.sam.radius": Choice((0.0, 0.01, 0.05, 0.1)),
        "optimizer.schedule": Choice(("cosine", "constant")),
        "train.ema_decay": Choice((0.9, 0.99)),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("right",),
    fixed=_ANCHOR,
)

_SCORE_AUG: Conditions = {"score_aug.enabled": (True,)}
_NO_SCORE_AUG: Conditions = {"score_aug.enabled": (False,)}
_SDA: Conditions = {**_NO_SCORE_AUG, "loss.sda.enabled": (True,)}

# How samples are transformed, before the noise or after it; the two exclude each other.
AUGMENTATION = Space(
    name="augmentation",
    system="diffusion",
    domains={
        "augment.kind": Choice(("none", "diffusion")),
        "score_aug.enabled": Choice(_ON_OFF),
        "score_aug.kind": Choice(("single", "compose", "v2"), when=_SCORE_AUG),
        "score_aug.translation.enabled": Choice(_ON_OFF, when=_SCORE_AUG),
        "score_aug.cutout.enabled": Choice(_ON_OFF, when=_SCORE_AUG),
        "score_aug.brightness.enabled": Choice(_ON_OFF, when=_SCORE_AUG),
        "loss.sda.enabled": Choice(_ON_OFF, when=_NO_SCORE_AUG),
        "loss.sda.weight": LogUniform(0.1, 2.0, when=_SDA),
        "loss.sda.shift": Uniform(0.0, 0.3, when=_SDA),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("right",),
    fixed=_ANCHOR,
)

_REGIONAL: Conditions = {**_NO_SCORE_AUG, "loss.regional.enabled": (True,)}
_PERCEPTUAL: Conditions = {**_NO_SCORE_AUG, "loss.perceptual.enabled": (True,)}
_CONSISTENCY: Conditions = {"loss.consistency.enabled": (True,)}
_TRANSFORM: Conditions = {**_FLOW, "strategy.rflow.transform.enabled": (True,)}
_SHIFTED: Conditions = {**_SCORE_AUG, "score_aug.translation.enabled": (True,)}
_V2: Conditions = {**_SCORE_AUG, "score_aug.kind": ("v2",)}
_OLDER: Conditions = {**_SCORE_AUG, "score_aug.kind": ("single", "compose")}
_CUT: Conditions = {**_OLDER, "score_aug.cutout.enabled": (True,)}
_AVERAGED: Conditions = {"train.ema_decay": (0.9, 0.99, 0.999)}
_CONDITIONS = ("mask", "mode", "sizes")
_ASAM_RADII = (0.5, 1.0, 2.0)

# What the four spaces leave out of the document's table of tunables.
_FURTHER: dict[str, Domain] = {
    "space.input_scale": LogUniform(0.1, 1.0),  # `right` has 0.25
    "strategy.rflow.transform.enabled": Choice(_ON_OFF, when=_FLOW),
    "strategy.rflow.transform.scale": LogUniform(0.5, 4.0, when=_TRANSFORM),
    "loss.consistency.enabled": Choice(_ON_OFF),
    "loss.consistency.weight": LogUniform(0.01, 1.0, when=_CONSISTENCY),
    "loss.consistency.probability": Uniform(0.1, 1.0, when=_CONSISTENCY),
    "loss.perceptual.enabled": Choice(_ON_OFF, when=_NO_SCORE_AUG),
    "loss.perceptual.weight": LogUniform(1e-4, 1e-2, when=_PERCEPTUAL),
    "loss.regional.enabled": Choice(_ON_OFF, when=_NO_SCORE_AUG),
    "loss.regional.weight": LogUniform(0.1, 1.0, when=_REGIONAL),
    "loss.regional.normalised": Choice(_ON_OFF, when=_REGIONAL),
    # The ranges do not overlap, so that a smaller lesion never weighs less.
    "loss.regional.size.tiny": Uniform(2.2, 5.0, when=_REGIONAL),
    "loss.regional.size.small": Uniform(1.6, 2.2, when=_REGIONAL),
    "loss.regional.size.medium": Uniform(1.3, 1.6, when=_REGIONAL),
    "loss.regional.size.large": Uniform(1.0, 1.3, when=_REGIONAL),
    "loss.sda.probability": Uniform(0.1, 1.0, when=_SDA),
    "score_aug.cutout.enabled": Choice(_ON_OFF, when=_OLDER),  # v2 cuts out whatever it says
    "score_aug.cutout.least": Uniform(0.05, 0.2, when=_CUT),
    "score_aug.cutout.most": Uniform(0.2, 0.5, when=_CUT),
    "score_aug.translation.width": Uniform(0.05, 0.5, when=_SHIFTED),
    "score_aug.translation.height": Uniform(0.05, 0.5, when=_SHIFTED),
    "score_aug.compose_probability": Uniform(
        0.1, 1.0, when={**_SCORE_AUG, "score_aug.kind": ("compose",)}
    ),
    "score_aug.v2.nondestructive": Uniform(0.0, 1.0, when=_V2),
    "score_aug.v2.destructive": Uniform(0.1, 1.0, when=_V2),
    "score_aug.v2.cutout_share": Uniform(0.0, 1.0, when=_V2),
    "regulariser.self_conditioning.probability": Uniform(
        0.1, 1.0, when={"regulariser.self_conditioning.enabled": (True,)}
    ),
    # 10 to 200 of the document's 500 epochs
    "progress.end": Uniform(0.02, 0.4, when={"strategy.curriculum.enabled": (True,)}),
    "optimizer.noise.gamma": Uniform(0.3, 1.1, when={"optimizer.noise.eta": (0.01, 0.3, 1.0)}),
    # ASAM's radii are ten times SAM's (Kwon et al. 2021). A key has one domain, whatever others
    # are, so that of two trials with such a radius one is of SAM.
    "optimizer.sam.radius": Choice((0.0, 0.01, 0.05, 0.1, *_ASAM_RADII)),
    "optimizer.sam.adaptive": Choice(_ON_OFF, when={"optimizer.sam.radius": _ASAM_RADII}),
    "train.ema_decay": Choice((0.0, 0.9, 0.99, 0.999)),
    "train.ema_start": Choice((0, 20, 100), when=_AVERAGED),
    "train.ema_every": Choice((1, 10), when=_AVERAGED),
    "model.dit.size": Choice(("demo", "demo-B", "demo-L"), when=_DIT),
    "model.dit.drop_path": Uniform(0.0, 0.3, when=_DIT),
    "optimizer.lr": LogUniform(1e-4, 1e-2),
    "optimizer.weight_decay": Choice((0.0, 1e-3, 1e-2, 0.1)),
    "train.batch_size": Choice((4, 8, 16)),
    "train.clip_norm": Choice((0.3, 1.0, 3.0)),
    # Read where a condition is on, by a preset or an override.
    **{
        f"condition.{name}.dropout": Uniform(0.0, 0.3, when={f"condition.{name}.enabled": (True,)})
        for name in _CONDITIONS
    },
    "condition.mode.batches": Choice(
        ("mixed", "grouped", "in_turn"), when={"condition.mode.enabled": (True,)}
    ),
    "condition.sizes.entry_width": Choice(
        (16, 32, 64),
        when={"condition.sizes.enabled": (True,), "condition.sizes.enters": ("film", "add")},
    ),
    "condition.sizes.largest": Choice((5, 10, 20), when={"condition.sizes.enabled": (True,)}),
}

# Everything at once: all rows of the table that a training of diffusion has and its objective
# sees. Steps, solver and guidance make images of what was trained; edges of bins and the channels
# of structured latents are prepared before trials begin.
FULL = Space(
    name="full",
    system="diffusion",
    domains={
        **STRATEGY.domains,
        **NETWORK.domains,
        **REGULARISERS.domains,
        **AUGMENTATION.domains,
        **_FURTHER,
    },
    points=("right", "document"),
    fixed=_ANCHOR,
)

SPACES: Mapping[str, Space] = {
    space.name: space for space in (STRATEGY, NETWORK, REGULARISERS, AUGMENTATION, FULL)
}
"""The first is the default."""
