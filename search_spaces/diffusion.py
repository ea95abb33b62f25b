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

SPACES: Mapping[str, Space] = {"strategy": STRATEGY, "network": NETWORK}
"""The first is the default."""
