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
        "strategy.rflow.std": Uniform(0.5, 1.5, when=_NORMAL),
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

SPACES: Mapping[str, Space] = {
    space.name: space for space in (STRATEGY, NETWORK, REGULARISERS, AUGMENTATION)
}
"""The first is the default."""
