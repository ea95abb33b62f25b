"""Spaces of the image autoencoders. The ranges are the source's weights, times 10 each way.

Only ratios of weights matter under Adam, so the absolute error is the anchor, at 1. Where the
latent's size is searched, a better image may simply cost more bits: these spaces are judged by
distortion and rate together. The others judge by the system's first metric, the distortion.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, Conditions, Domain, Integer, LogUniform, Uniform
from search_spaces.space import Space
from settings.schema import Value

_RATE = "val.rate_bpp"
_IMAGES, _MASKS = ("val.psnr_quantised_db", _RATE), ("val.dice_quantised", _RATE)

_ON_OFF = (True, False)
_ANCHOR: Mapping[str, Value] = {"loss.l1.enabled": True, "loss.l1.weight": 1.0}
_LISTENS: Conditions = {"loss.adversarial.enabled": (True,)}
_RAMP: Conditions = {**_LISTENS, "loss.adversarial.schedule.kind": ("warmup",)}

_PERCEPTUAL: dict[str, Domain] = {
    "loss.perceptual.enabled": Choice(_ON_OFF),
    "loss.perceptual.weight": LogUniform(1e-4, 1.0, when={"loss.perceptual.enabled": (True,)}),
}

# PSNR is made of squares. At a weight of about ten they are as large as the absolute error.
_SQUARES: dict[str, Domain] = {
    "loss.mse.enabled": Choice(_ON_OFF),
    "loss.mse.weight": LogUniform(1.0, 100.0, when={"loss.mse.enabled": (True,)}),
}

# Every trial has a critic that learns from the first step on, so that all report the same columns
# and no term follows an untrained critic for long; the switch says whether the autoencoder is
# trained against it. The source's is, from the first step on.
_GAN: dict[str, Domain] = {
    "loss.adversarial.enabled": Choice(_ON_OFF),
    "loss.adversarial.weight": LogUniform(1e-3, 0.1, when=_LISTENS),
    "loss.adversarial.schedule.kind": Choice(("constant", "warmup"), when=_LISTENS),
    "loss.adversarial.schedule.start": Uniform(0.0, 0.3, when=_RAMP),
    "loss.adversarial.schedule.end": Uniform(0.3, 0.6, when=_RAMP),
    "critic_optimizer.lr": LogUniform(5e-5, 5e-3, when=_LISTENS),
    "discriminator.objective": Choice(("least_squares", "hinge"), when=_LISTENS),
}
_CRITIC: Mapping[str, Value] = {"discriminator.enabled": True}

# What the source fixes by hand for its VAE: how much of each term, and how fast; and whether there
# is a linear map beside its network.
WEIGHTS = Space(
    name="weights",
    system="compression",
    domains={
        "model.vae.shortcut": Choice(("none", "lapped")),
        "loss.kl.weight": LogUniform(1e-8, 1e-4),
        **_SQUARES,
        **_PERCEPTUAL,
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("document_vae", "lapped"),
    fixed=_ANCHOR,
)

GAN = Space(
    name="gan",
    system="compression",
    domains={
        "loss.kl.weight": LogUniform(1e-8, 1e-4),
        **_PERCEPTUAL,
        **_GAN,
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("document",),
    fixed={**_ANCHOR, **_CRITIC},
)

_QUANTISED: Conditions = {"model.kind": ("vqvae",)}

# How large a codebook is, and how much of it is used.
_CODEBOOK: dict[str, Domain] = {
    "model.vqvae.codes": Choice((128, 256, 512, 1024), when=_QUANTISED),
    "model.vqvae.start": Choice(("normal", "kmeans"), when=_QUANTISED),
    "model.vqvae.revive": Choice(("none", "encoder"), when=_QUANTISED),
    "model.vqvae.revive_below": LogUniform(
        0.01, 0.5, when={**_QUANTISED, "model.vqvae.revive": ("encoder",)}
    ),
}

_KIND: dict[str, Domain] = {
    "model.kind": Choice(("vae", "vqvae", "dcae")),
    "model.vae.latent_channels": Integer(2, 8, when={"model.kind": ("vae",)}),
    **_CODEBOOK,
    "model.vqvae.code_width": Integer(2, 8, when=_QUANTISED),
    "model.dcae.latent_channels": Choice((8, 16, 32, 64), when={"model.kind": ("dcae",)}),
    "loss.kl.weight": LogUniform(1e-8, 1e-4, when={"model.kind": ("vae",)}),
    "loss.vq.weight": LogUniform(0.1, 2.0, when=_QUANTISED),
}

# Which autoencoder, at its demo size.
KINDS = Space(
    name="kinds",
    system="compression",
    domains={**_KIND, **_PERCEPTUAL, "optimizer.lr": LogUniform(3e-4, 1e-2)},
    points=("document_vae", "document_vqvae", "document_dcae"),
    fixed=_ANCHOR,
    metrics=_IMAGES,
)

_WEIGHED: Conditions = {"loss.l1.regional.enabled": (True,)}

# The source's 2.5, 1.8, 1.4, 1.2 by size; its background is 1 here as well.
_DATA: dict[str, Domain] = {
    "augment.kind": Choice(("none", "diffusion", "vae")),
    "loss.l1.regional.enabled": Choice(_ON_OFF),
    **{
        f"loss.l1.regional.{size}": Uniform(1.0, 5.0, when=_WEIGHED)
        for size in ("tiny", "small", "medium", "large")
    },
}

# Augmentation and lesions: what the source switches on and off.
DATA = Space(
    name="augment",
    system="compression",
    domains={**_DATA, "optimizer.lr": LogUniform(3e-4, 1e-2)},
    points=("document_vae", "document_regional"),
    fixed=_ANCHOR,
)

# Lesion masks, whose anchor is the cross entropy. The VQ-VAE is fixed, because the default kind
# takes no masks; the override model.kind=dcae searches the document's other one.
MASKS = Space(
    name="masks",
    system="compression",
    domains={
        **_CODEBOOK,
        "model.dcae.latent_channels": Choice((8, 16, 32, 64), when={"model.kind": ("dcae",)}),
        "loss.vq.weight": LogUniform(0.1, 2.0, when=_QUANTISED),
        "loss.dice.weight": LogUniform(0.1, 10.0),
        "loss.boundary.weight": LogUniform(0.05, 5.0),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("document_masks",),
    fixed={
        "model.kind": "vqvae",
        "model.seg_mode": True,
        "data.group": "seg",
        "loss.bce.enabled": True,
        "loss.bce.weight": 1.0,
    },
    metrics=_MASKS,
)

# Everything, for budgets of many trials.
FULL = Space(
    name="full",
    system="compression",
    domains={
        **_KIND,
        **_PERCEPTUAL,
        **_GAN,
        **_DATA,
        "optimizer.lr": LogUniform(1e-4, 1e-2),
        "optimizer.warmup": Uniform(0.0, 0.1),
        "optimizer.weight_decay": Choice((0.0, 1e-4, 1e-2, 1e-1)),
        "train.batch_size": Choice((4, 8, 16)),
        "train.clip_norm": LogUniform(0.1, 10.0),
    },
    points=("document", "document_vqvae", "document_dcae"),
    fixed={**_ANCHOR, **_CRITIC},
    metrics=_IMAGES,
)

SPACES: Mapping[str, Space] = {
    "weights": WEIGHTS,
    "gan": GAN,
    "kinds": KINDS,
    "augment": DATA,
    "masks": MASKS,
    "full": FULL,
}
