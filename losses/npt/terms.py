"""The terms of npt, pure functions that sum over tokens, and their settings.

Each is a mean over the converted layers, and its count is that of the real tokens; padding pays
nothing (003-M16). What a token's error is divided by, or standardised with, is taken over the real
tokens of its sample, so that no term depends on how samples are cut into batches. A term's `form`
is ours (`right`) or what the document does (`document`), with what is wrong about it.

Shapes: B samples, N converted layers, L tokens, d width, f of the MLP, k pairs, r rank, q
directions, V vocabulary.
Of the prediction, all of the student but for `teacher_logits`:

    logits, teacher_logits      [B, L, V]
    hidden, normed, attention   h, norm(h), a [B, N, L, d]
    mlp, target                 m and a + MLP(norm(h + a)) [B, N, L, d]
    encoded                     v_a of the first pair before the gauge [B, N, L, d]
    v_a, v_b                    [B, N, L, k, d], [B, N, L, k, f]
    scalar                      s = v_a . norm(h) [B, N, L, k]
    change                      of the gate, sum_k s v_b [B, N, L, f]
    true_change                 W_gate (norm(h + a) - norm(h)) [B, N, L, f]
    gate_of_attention           W_gate a [B, N, L, f]
    mu, log_sigma               of the code [B, N, L, r]
    directions                  [B, N, d, q or more], the same in all samples

    kept                        bool [B, N, L]; tokens of the curriculum, absent without one

Of the batch: `mask` bool [B, L], and in a curriculum `schedule.npt.curriculum.share` [B].
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.npt.divergence import chunked_kl
from losses.npt.settings import LossSettings
from losses.terms import Tensors

EPS = 1e-6
"""The document's, beside a root mean square; here within the square."""

VARIANCE_EPS = 1e-4
"""Below the root of a variance (VICReg, arXiv 2105.04906, equation 1)."""


SHARE = "schedule.npt.curriculum.share"
"""In a batch of a training with a curriculum: the share of the tokens that it keeps."""


class NptTree(Protocol):
    """What the terms read of a system's settings."""

    @property
    def loss(self) -> LossSettings: ...


# Sums and means over real tokens


def tokens(batch: Tensors, settings: object) -> Tensor:
    """The real tokens."""
    return batch["mask"].sum(dtype=torch.float64)


def kept_tokens(batch: Tensors, settings: object) -> Tensor:
    """The real tokens, times the share of them that a curriculum keeps: which ones those are, a
    batch does not say, but `prepare` has measured below which |a| so many lie (003-M8: the
    document's mask is by a quantile of the batch, and nothing reads it).
    """
    count = tokens(batch, settings)
    return count * batch[SHARE][0].double() if SHARE in batch else count


def real(batch: Tensors) -> Tensor:
    """Their weight, float32 [B, 1, L]."""
    return batch["mask"].float()[:, None]


def total(values: Tensor, batch: Tensors, prediction: Tensors) -> Tensor:
    """Sum over real tokens, in a curriculum over those that it keeps, of the mean over layers;
    values [B, N, L].
    """
    counted = batch["mask"][:, None]
    if "kept" in prediction:
        counted = counted & prediction["kept"]
    return torch.where(counted, values, 0.0).sum() / values.shape[1]


def sample_mean(values: Tensor, batch: Tensors) -> Tensor:
    """Over the real tokens of each sample, [B, N, L, ...] -> [B, N, 1, ...]."""
    weight = real(batch)
    weight = weight.view(*weight.shape, *[1] * (values.dim() - 3))
    count = weight.sum(dim=2, keepdim=True).clamp_min(1.0)  # of nothing but padding: 0
    return (values * weight).sum(dim=2, keepdim=True) / count


def relative(error: Tensor, size: Tensor, batch: Tensors, form: str) -> Tensor:
    """Squares of an error over the mean square of what it is an error of, both [B, N, L]; the
    document divides by the root of that, which has a unit (003-M10).
    """
    square = sample_mean(size, batch)
    return error / (square.sqrt() + EPS if form == "document" else square + EPS)


def precise(x: Tensor) -> Tensor:
    """In float32, or as wide as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_square(x: Tensor) -> Tensor:
    """[..., n] -> [...]"""
    return precise(x).square().mean(dim=-1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return F.cosine_similarity(precise(x), precise(y), dim=-1)


# The document's four


def direct(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """(m - target)^2, relative to target^2."""
    node, target = settings.loss.direct, prediction["target"]
    error = mean_square(prediction["mlp"] - target)
    return total(relative(error, mean_square(target), batch, node.form), batch, prediction)


def encoding(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """(v_a - a)^2, relative to a^2, and half of 1 - cos(v_a, a)."""
    node, a, v_a = settings.loss.encoding, prediction["attention"], prediction["encoded"]
    error = relative(mean_square(v_a - a), mean_square(a), batch, node.form)
    apart = (1.0 - cosine(v_a, a)).clamp_min(0.0)  # below it by rounding
    return total(error + 0.5 * apart, batch, prediction)


def fidelity(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """T^2 KL(teacher || student) of the next token at temperature T, in nats (arXiv 1503.02531,
    whose T^2 keeps the gradient's size); the document's is the mean square between the logits,
    which depends on their scale and on their sum (003-M14). It is of all tokens, also in a
    curriculum: its layers keep different ones.
    """
    node = settings.loss.fidelity
    student, teacher = prediction["logits"], prediction["teacher_logits"]
    if node.form == "document":
        return total(mean_square(student - teacher)[:, None], batch, {})
    flat = teacher.flatten(0, 1), student.flatten(0, 1)
    kl = chunked_kl(*flat, node.temperature, node.chunk)
    return total(kl.view(batch["mask"].shape)[:, None], batch, {})


def regularisation(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """Mean (s v_b)^2, which no rescaling of the pairs changes (003-M9); the document's is mean
    v_a^2 + mean v_b^2.
    """
    if settings.loss.regularisation.form == "document":
        parts = (mean_square(prediction[name]).mean(dim=-1) for name in ("v_a", "v_b"))
        return total(sum(parts, torch.zeros(())), batch, prediction)
    return total(mean_square(prediction["change"]), batch, prediction)


# The document's seven proposals


def guidance(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """What s of the first pair should tell: how much attention matters for the token,
    log(|a| / |h|), standardised over the sample, without a gradient of its own. By `measure` the
    square between s / scale and that, or 1 - their correlation.

    The document's: sigmoids of s and of |a| / |norm(h)|, which is above 0 and nearly constant
    (003-M3), less a tenth of the variance of s, which has no lower bound (003-M2).
    """
    node, s = settings.loss.guidance, precise(prediction["scalar"][..., 0])
    a, h, normed = (
        precise(prediction[name]).norm(dim=-1) for name in ("attention", "hidden", "normed")
    )
    if node.form == "document":
        error = (torch.sigmoid(s) - torch.sigmoid(a / normed)).square()
        return total(error - 0.1 * variance_of(s, batch), batch, prediction)
    importance = standardised(torch.log((a + EPS) / (h + EPS)), batch).detach()
    if node.measure == "pearson":
        correlation = sample_mean(standardised(s, batch) * importance, batch)
        return total((1.0 - correlation).expand_as(s), batch, prediction)
    return total((s / node.scale - importance).square(), batch, prediction)


def variance_of(x: Tensor, batch: Tensors) -> Tensor:
    """Over the tokens of each sample, [B, N, L, ...] -> [B, N, 1, ...]."""
    return sample_mean((x - sample_mean(x, batch)).square(), batch)


def standardised(x: Tensor, batch: Tensors) -> Tensor:
    return (x - sample_mean(x, batch)) * (variance_of(x, batch) + EPS).rsqrt()


def variance(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """max(0, gamma - std(s)) over the tokens of a sample, a mean over pairs (arXiv 2105.04906,
    equation 1): it keeps s from becoming constant, and asks for no more (003-M2).
    """
    s = precise(prediction["scalar"])
    std = (variance_of(s, batch) + VARIANCE_EPS).sqrt()
    hinge = (settings.loss.variance.gamma - std).clamp_min(0.0).mean(dim=-1)
    return total(hinge.expand(s.shape[:3]), batch, prediction)


def error_parallel(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """The square of the part of m - target along a, relative to target^2: with `error_orthogonal`
    at the same weight it is `direct`. The document's first component is (m - a)^2, for its slice
    is all of m (003-M4).
    """
    if settings.loss.error_parallel.form == "document":
        return total(mean_square(prediction["mlp"] - prediction["attention"]), batch, prediction)
    return _along(prediction, batch, parallel=True)


def error_orthogonal(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """The rest of it. The document's second component is m - m against MLP(norm(h + a)): a
    constant (003-M4).
    """
    if settings.loss.error_orthogonal.form == "document":
        rest = prediction["mlp"] - prediction["mlp"]
        corrected = prediction["target"] - prediction["attention"]
        return total(mean_square(rest - corrected), batch, prediction)
    return _along(prediction, batch, parallel=False)


def _along(prediction: Tensors, batch: Tensors, *, parallel: bool) -> Tensor:
    target = precise(prediction["target"])
    error = precise(prediction["mlp"]) - target
    axis = F.normalize(precise(prediction["attention"]), dim=-1)
    along = (error * axis).sum(dim=-1, keepdim=True) * axis
    part = mean_square(along if parallel else error - along)
    return total(relative(part, mean_square(target), batch, "right"), batch, prediction)


def bottleneck(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """beta KL(N(mu, sigma^2) || N(0, 1)), a mean over the r numbers of the code (where it is
    drawn), and InfoNCE (arXiv 1807.03748, equation 4) by which v_a tells its own a from those of
    the sample's other tokens. The document's is beta |cos(v_a, norm(h))| - |cos(v_a, a)|: no
    information, and against s = v_a . norm(h) (003-M5).
    """
    node, v_a, a = settings.loss.bottleneck, prediction["encoded"], prediction["attention"]
    if node.form == "document":
        of_h = cosine(v_a, prediction["normed"]).abs()
        return total(node.beta * of_h - cosine(v_a, a).abs(), batch, prediction)
    cost = info_nce(v_a, a, batch, node.temperature)
    if "log_sigma" in prediction:
        mu, log_sigma = precise(prediction["mu"]), precise(prediction["log_sigma"])
        kl = 0.5 * (mu.square() + (2.0 * log_sigma).exp() - 2.0 * log_sigma - 1.0).mean(dim=-1)
        cost = cost + node.beta * kl
    return total(cost, batch, prediction)


def info_nce(x: Tensor, y: Tensor, batch: Tensors, temperature: float) -> Tensor:
    """-log of the share of y's own token in the soft-max over the tokens of the sample of
    cos(x, y) / temperature; [B, N, L, d] -> [B, N, L].
    """
    x, y = (F.normalize(precise(v), dim=-1) for v in (x, y))
    scores = x @ y.mT / temperature
    matches = scores.diagonal(dim1=-2, dim2=-1)
    scores = scores.masked_fill(~batch["mask"][:, None, None], torch.finfo(scores.dtype).min)
    return torch.logsumexp(scores, dim=-1) - matches


def modulation(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """(sum_k s v_b - W_gate (norm(h + a) - norm(h)))^2, relative to the latter's square: what
    attention changes about the gate, which v_b alone does not know (003-M7).

    The document's consistency: (v_b - its mean over tokens)^2 + 1 - cos(v_b, W_gate a), a mean
    over pairs. Its other form, `strength`: (sum_k s v_b - W_gate a)^2.
    """
    node, change = settings.loss.modulation, prediction["change"]
    if node.form == "strength":
        return total(mean_square(change - prediction["gate_of_attention"]), batch, prediction)
    if node.form == "document":
        v_b = precise(prediction["v_b"])
        spread = mean_square(v_b - sample_mean(v_b, batch)).mean(dim=-1)
        aligned = cosine(v_b, prediction["gate_of_attention"][..., None, :]).mean(dim=-1)
        return total(spread + 1.0 - aligned, batch, prediction)
    true = prediction["true_change"]
    error = relative(mean_square(change - true), mean_square(true), batch, "right")
    return total(error, batch, prediction)


def orthogonality(prediction: Tensors, batch: Tensors, settings: NptTree) -> Tensor:
    """The square of the projection of v_a / |v_a| on the q directions in which norm(h) of the
    teacher spreads most, a mean over pairs: 0 to 1.

    The document's: a hundredth of the mean square of v_a's coordinates along the q first
    singular vectors of norm(h) itself, not centred; here of the sample's, with `@ v` for its
    `@ v.T`, which raises (003-M6). A short v_a fulfils it.
    """
    v_a = precise(prediction["v_a"])
    if settings.loss.orthogonality.form == "document":
        h = precise(prediction["normed"]) * real(batch)[..., None]
        vectors = torch.linalg.svd(h.detach(), full_matrices=False).Vh.mT
        along = v_a @ vectors[..., : settings.loss.orthogonality.directions][:, :, None]
        return total(0.01 * mean_square(along).mean(dim=-1), batch, prediction)
    directions = prediction["directions"][..., : settings.loss.orthogonality.directions]
    along = F.normalize(v_a, dim=-1) @ directions[:, :, None]
    return total(along.square().sum(dim=-1).mean(dim=-1), batch, prediction)
