"""The terms of the conditioner, pure functions that sum over values, or over samples where said,
and their settings.

Shapes: B samples, M main latent size, K hierarchical codes of size h; `main`, `paired_main`
[B, M] and `hier`, `paired_hier` [B, K, h]; `field`, `target_field` [B, T, N]; `feature_i`
[B, C, H, W]; `paired_valid` [B] in {0, 1}. A "kind of latent" is `main` or `hier`. Targets are
scaled to a range around 0, and predictions lie in [-1, 1].
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import counts
from losses.balancers.settings import BalancerSettings
from losses.terms import Tensors, TermSettings
from models.fields.latent_projection import LatentProjections
from settings.schema import Settings, SettingsError, setting

NORM_FLOOR = 1e-6
"""Least norm of a vector whose direction is compared."""

TINY = 1e-12
"""Least square that a ratio divides by."""


# Settings


@dataclass(frozen=True, kw_only=True)
class OffSettings(TermSettings):
    """Settings of a term that is off by default."""

    enabled: bool = setting(False, "false switches the term off, as weight 0 does")


@dataclass(frozen=True, kw_only=True)
class HuberSettings(OffSettings):
    beta: float = setting(
        0.1, "error at which smooth-L1 turns from square to line", low=1e-4, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(OffSettings):
    """What is compared: outputs of fixed random networks, or the latents themselves."""

    kind: str = setting(
        "projection",
        "likeness of prediction and target: cosine after random projections, cosine, or CKA over "
        "the batch",
        choices=("projection", "cosine", "cka"),
    )
    widths: tuple[int, ...] = setting(
        (16, 8), "hidden width of each random network of kind projection", low=1, high=1024
    )
    start: str = setting(
        "he",
        "how their weights are drawn: N(0, 2 / inputs), or as torch draws a linear layer's, the "
        "source's, whose cosine distances are some 30 times smaller",
        choices=("he", "torch"),
    )
    seed: int = setting(0, "the random networks are drawn from", low=0, high=2**31 - 1)

    def check(self) -> None:
        if not self.widths:
            raise SettingsError(
                "perceptual widths must name at least one network, not (). Use 16,8, or "
                "kind=cosine for none."
            )


@dataclass(frozen=True, kw_only=True)
class SpectralSettings(OffSettings):
    kind: str = setting(
        "stable_rank",
        "of the feature maps: the inverse stable rank of each sample's, or the sum of their "
        "squares over the batch, the source's",
        choices=("stable_rank", "energy"),
    )
    iterations: int = setting(
        3,
        "power iterations of kind stable_rank for the largest singular value of a map",
        low=1,
        high=50,
    )


@dataclass(frozen=True, kw_only=True)
class ConsistencySettings(OffSettings):
    teacher: str = setting(
        "same",
        "who predicts from the other view: the network itself, or its moving average "
        "(train.ema_decay)",
        choices=("same", "ema"),
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """Weights are those of the source, multiplied out: it sums 10 (mse + 0.1 mae + 0.05 huber) of
    the main latent and 1 (...) of the hierarchical one. Its default has the two squared errors
    only.
    """

    label_smoothing: float = setting(
        0.0,
        "share by which the terms mse, mae and huber draw latent targets to 0",
        low=0.0,
        high=0.5,
    )
    main_mse: TermSettings = field(default_factory=lambda: TermSettings(weight=10.0))
    hier_mse: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0))
    main_mae: OffSettings = field(default_factory=lambda: OffSettings(weight=1.0))
    hier_mae: OffSettings = field(default_factory=lambda: OffSettings(weight=0.1))
    main_huber: HuberSettings = field(default_factory=lambda: HuberSettings(weight=0.5))
    hier_huber: HuberSettings = field(default_factory=lambda: HuberSettings(weight=0.05))
    main_perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.1)
    )
    hier_perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.05)
    )
    decoded: OffSettings = field(default_factory=lambda: OffSettings(weight=1.0))
    consistency: ConsistencySettings = field(
        default_factory=lambda: ConsistencySettings(weight=0.1)
    )
    spectral: SpectralSettings = field(default_factory=lambda: SpectralSettings(weight=1e-4))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


class ConditionerTree(Protocol):
    """What the terms read of a system's settings."""

    @property
    def loss(self) -> LossSettings: ...


# The prediction


def entry(prediction: Tensors, name: str, term: str) -> Tensor:
    """An entry of the prediction in float32.

    Raises:
        ValueError: the forward pass gave none.
    """
    if name not in prediction:
        raise ValueError(
            f"loss.{term} reads {name!r}, which the prediction lacks: the forward makes it where "
            f"the term is on. Set loss.{term}.enabled=false, or let the forward make it."
        )
    return prediction[name].float()


# Regression of the latents: sums over values


def smoothed_target(kind: str, batch: Tensors, settings: ConditionerTree) -> Tensor:
    """(1 - loss.label_smoothing) * target: drawn towards 0, the centre of the range."""
    return (1.0 - settings.loss.label_smoothing) * batch[kind].float()


def squared(kind: str, prediction: Tensors, batch: Tensors, settings: ConditionerTree) -> Tensor:
    latent = entry(prediction, kind, f"{kind}_mse")
    return (latent - smoothed_target(kind, batch, settings)).square().sum()


def absolute(kind: str, prediction: Tensors, batch: Tensors, settings: ConditionerTree) -> Tensor:
    latent = entry(prediction, kind, f"{kind}_mae")
    return (latent - smoothed_target(kind, batch, settings)).abs().sum()


def smooth_l1(kind: str, prediction: Tensors, batch: Tensors, settings: ConditionerTree) -> Tensor:
    """e^2 / (2 beta) where |e| < beta, |e| - beta / 2 above: Huber's loss divided by beta. The
    source calls it Huber (000-M20).
    """
    latent = entry(prediction, kind, f"{kind}_huber")
    target = smoothed_target(kind, batch, settings)
    term: HuberSettings = getattr(settings.loss, f"{kind}_huber")
    return F.smooth_l1_loss(latent, target, reduction="sum", beta=term.beta)


# Likeness of the latents: sums over samples, or one value per batch


def perceptual(
    kind: str, prediction: Tensors, batch: Tensors, settings: ConditionerTree
) -> Tensor:
    """How unlike prediction and target are in direction, in [0, 2]; `perceptual_count` goes with
    it.

    projection: 1 - cos of the outputs of fixed random networks, mean over networks and levels.
    cosine: 1 - cos of the latents themselves (0 is the centre of their range), mean over levels.
    cka: 1 - linear CKA over the samples of the batch, mean over levels; one value per *batch*,
    which depends on how samples are batched.

    Each level is compared with its own: features are on the last axis (000-M3: along axis 1 the
    source compares levels, and its network does not fit). No gradient reaches the targets.
    """
    latent = levels(entry(prediction, kind, f"{kind}_perceptual"))
    target = levels(batch[kind].float()).detach()
    term: PerceptualSettings = getattr(settings.loss, f"{kind}_perceptual")
    if term.kind == "cka":
        return (1.0 - linear_cka(latent, target)).clamp_min(0.0).mean() * (len(latent) > 1)
    if term.kind == "cosine":
        return _unlike(latent, target).mean(dim=1).sum()
    networks = projections(latent.shape[-1], term.widths, term.seed, term.start, latent.device)
    pairs = zip(networks(latent), networks(target), strict=True)
    costs = torch.stack([_unlike(a, b).mean(dim=1) for a, b in pairs])
    return costs.mean(dim=0).sum()


def perceptual_count(kind: str, batch: Tensors, settings: ConditionerTree) -> Tensor:
    """Samples; for CKA 1 a batch of two or more samples, 0 for a batch of one."""
    samples = counts.samples_of(kind)(batch, settings)
    term: PerceptualSettings = getattr(settings.loss, f"{kind}_perceptual")
    return (samples > 1).double() if term.kind == "cka" else samples


def levels(latent: Tensor) -> Tensor:
    """[B, M] -> [B, 1, M]; [B, K, h] as it is."""
    return latent[:, None] if latent.ndim == 2 else latent


def _unlike(latent: Tensor, target: Tensor) -> Tensor:
    cosine = F.cosine_similarity(latent, target, dim=-1, eps=NORM_FLOOR)
    return (1.0 - cosine).clamp_min(0.0)  # rounding goes below


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment over the samples (Kornblith et al. 2019, section 3):
    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of columns centred over the batch, in [0, 1].

    Args:
        x, y: [B, K, size].

    Returns:
        [K]; 0 where a level does not vary over the batch.
    """
    x, y = _centred(x), _centred(y)
    between = _gram_square(y, x)
    return between / torch.sqrt((_gram_square(x, x) * _gram_square(y, y)).clamp_min(TINY))


def _centred(x: Tensor) -> Tensor:
    """[B, K, size] -> [K, B, size], mean 0 over B and norm 1 per level."""
    x = (x - x.mean(dim=0)).transpose(0, 1)
    return x / (x.flatten(1).norm(dim=1)[:, None, None] + NORM_FLOOR)


def _gram_square(x: Tensor, y: Tensor) -> Tensor:
    return (x.transpose(1, 2) @ y).square().sum(dim=(1, 2))


@functools.cache
def projections(
    size: int, widths: tuple[int, ...], seed: int, start: str, device: torch.device
) -> LatentProjections:
    """The random networks, made once per process and device."""
    return LatentProjections(size, widths, seed, start).to(device)


# Decoded field, consistency, spectra: sums over samples


def decoded(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """|D(z) - D(z*)|^2 / |D(z*)|^2 of each sample, D the frozen decoder, z* the target latents."""
    target = entry(prediction, "target_field", "decoded").detach().flatten(1)
    error = entry(prediction, "field", "decoded").flatten(1) - target
    return (error.square().sum(dim=1) / target.square().sum(dim=1).clamp_min(TINY)).sum()


def consistency(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Mean square between the predictions on two views of one object, main + hierarchical, of the
    samples whose views differ and are not mixed (000-M12: the source compares equal images, or
    a mixture with one of its parts). The other view's prediction is the target.
    """
    cost = torch.zeros_like(batch["paired_valid"], dtype=torch.float32)
    for kind in ("main", "hier"):
        view = entry(prediction, kind, "consistency").flatten(1)
        other = entry(prediction, f"paired_{kind}", "consistency").detach().flatten(1)
        cost = cost + (view - other).square().mean(dim=1)
    return (batch["paired_valid"].float() * cost).sum()


def spectral(prediction: Tensors, batch: Tensors, settings: ConditionerTree) -> Tensor:
    """Mean over the maps, A = one sample's map as [C, H W]; `spectral_count` goes with it.

    stable_rank: sigma_max^2 / |A|_F^2, the inverse of the stable rank, between 1 / min(C, H W)
    and 1: small where a map uses many directions.
    energy: the source's sum of all squared singular values of the map of a batch, [B, C H W],
    which is the sum of its squares (000-M5); one value per *batch*, which grows with it.
    """
    names = sorted(name for name in prediction if name.startswith("feature_"))
    if not names:
        entry(prediction, "feature_0", "spectral")
    maps = [entry(prediction, name, "spectral").flatten(2) for name in names]
    if settings.loss.spectral.kind == "energy":
        return torch.stack([a.square().sum() for a in maps]).mean()
    iterations = settings.loss.spectral.iterations
    return torch.stack([top_share(a, iterations) for a in maps]).mean(dim=0).sum()


def spectral_count(batch: Tensors, settings: ConditionerTree) -> Tensor:
    """Samples; for the energy 1."""
    samples = counts.samples_of("main")(batch, settings)
    return torch.ones_like(samples) if settings.loss.spectral.kind == "energy" else samples


def top_share(a: Tensor, iterations: int) -> Tensor:
    """sigma_max^2 / |A|_F^2 of each matrix, [B, C, N] -> [B]; 0 for a matrix of zeros.

    Power iteration from the row with the largest norm, so it is deterministic, scale-free, and
    never below that row's share. The singular vectors are held fixed in the gradient, which is
    exact at convergence, and exists for equal singular values too (000-M23: an SVD's does not).
    """
    with torch.no_grad():
        largest = a.norm(dim=2).argmax(dim=1)
        v = F.normalize(a[torch.arange(len(a), device=a.device), largest], dim=1)
        for _ in range(iterations):
            u = F.normalize(torch.einsum("bcn,bn->bc", a, v), dim=1)
            v = F.normalize(torch.einsum("bcn,bc->bn", a, u), dim=1)
        u = F.normalize(torch.einsum("bcn,bn->bc", a, v), dim=1)
    sigma = torch.einsum("bcn,bc,bn->b", a, u, v)
    return sigma.square() / a.square().sum(dim=(1, 2)).clamp_min(TINY)
