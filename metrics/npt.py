"""The metrics of npt: how near the student is to its teacher, and each converted layer to the one
that it replaces.

Written anew and not by the loss's functions, so that no setting changes what judges. `fidelity_kl`
and `perplexity` are the objectives; both are of the student with all its layers converted that are
to be. Shapes as in `losses.npt.terms`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.metric import Metric, Tensors, mean

Measured = tuple[Tensor, Tensor]

# Of language models: `logits` [B, L, V], at t of the token at t + 1


def log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1)


def nats(logits: Tensor, batch: Tensors) -> Measured:
    """Of the real tokens but the first of each sample, given those before them: the sum [B], and
    how many they are [B].
    """
    logs = log_probabilities(logits[:, :-1])
    of_next = logs.gather(-1, batch["tokens"][:, 1:, None])[..., 0]
    real = batch["mask"][:, 1:]
    return -torch.where(real, of_next, 0.0).sum(dim=1), real.sum(dim=1, dtype=torch.float64)


def nats_of(name: str) -> Callable[[Tensors, Tensors, object], Measured]:
    """`nats` of those logits of the prediction, over all samples."""

    def measure(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
        sums, counts = nats(prediction[name], batch)
        return sums.sum(), counts.sum()

    return measure


def perplexity(sums: Tensor, count: float) -> float:
    """exp of the mean of nats; infinite where that is too large for a number."""
    value = mean(sums, count)
    return math.exp(value) if value < 700.0 or math.isnan(value) else math.inf


def language_metrics() -> list[Metric]:
    """The objective first."""
    measure, text = nats_of("logits"), "cross entropy of the next token, mean over tokens"
    return [
        Metric("nats_per_token", "nat", "min", measure, text),
        Metric("perplexity", "", "min", measure, "exp of nats_per_token", perplexity),
    ]


# Of the student


def fidelity_kl(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """KL(teacher || student) of the next token, in nats: (sum, real tokens)."""
    teacher, student = (log_probabilities(prediction[k]) for k in ("teacher_logits", "logits"))
    kl = (teacher.exp() * (teacher - student)).sum(dim=-1)
    real = batch["mask"]
    return torch.where(real, kl, 0.0).sum(), real.sum(dtype=torch.float64)


def _tokens_of(values: Tensor, batch: Tensors) -> Measured:
    """Of values [B, N, L]: the sum over layers and real tokens, and how many there are."""
    real = batch["mask"][:, None].expand_as(values)
    return torch.where(real, values.double(), 0.0).sum(), real.sum(dtype=torch.float64)


def direct_error(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Of m from its target: squares of both, summed over tokens and layers."""
    m, target = prediction["mlp"].double(), prediction["target"].double()
    squares = ((m - target).square().sum(dim=-1), target.square().sum(dim=-1))
    sums = torch.stack([_tokens_of(square, batch)[0] for square in squares])
    return sums, batch["mask"].sum(dtype=torch.float64)


def share(sums: Tensor, count: float) -> float:
    """The first sum over the second."""
    error, whole = sums.tolist()
    return error / whole if whole > 0.0 else float("nan")


def attention_cosine(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    v_a, a = prediction["encoded"].double(), prediction["attention"].double()
    return _tokens_of(F.cosine_similarity(v_a, a, dim=-1), batch)


def scalar_moments(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Of s of the first pair in each layer: sums of s and of s^2 over tokens [2 N]."""
    s = prediction["scalar"][..., 0].double()
    real = batch["mask"][:, None]
    moments = [torch.where(real, x, 0.0).sum(dim=(0, 2)) for x in (s, s.square())]
    return torch.cat(moments), batch["mask"].sum(dtype=torch.float64)


def least_deviation(sums: Tensor, count: float) -> float:
    """The deviation of s over tokens, of the layer where it is least."""
    if count == 0:
        return float("nan")
    mean, square = sums.view(2, -1) / count
    return float((square - mean.square()).clamp_min(0.0).sqrt().min())


def length(name: str, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Of all pairs, a mean."""
    return _tokens_of(prediction[name].double().norm(dim=-1).mean(dim=-1), batch)


def npt_metrics() -> list[Metric]:
    """The first two are the objectives."""
    lengths = {name: functools.partial(length, name) for name in ("v_a", "v_b")}
    return [
        Metric(
            "fidelity_kl",
            "nat",
            "min",
            fidelity_kl,
            "KL(teacher || student) of the next token, mean over tokens",
        ),
        Metric(
            "perplexity",
            "",
            "min",
            nats_of("logits"),
            "of the student: exp of the mean cross entropy of the next token",
            perplexity,
        ),
        Metric(
            "teacher_perplexity",
            "",
            None,
            nats_of("teacher_logits"),
            "the same of the teacher",
            perplexity,
        ),
        Metric(
            "direct_error",
            "",
            "min",
            direct_error,
            "squared error of what converted layers add, share of the square of what they should",
            share,
        ),
        Metric(
            "attention_cosine",
            "",
            None,
            attention_cosine,
            "cosine between v_a of the first pair and a, mean over tokens and layers",
        ),
        Metric(
            "scalar_std",
            "",
            None,
            scalar_moments,
            "deviation of s over tokens in the converted layer where it is least",
            least_deviation,
        ),
        *(
            Metric(f"{name}_norm", "", None, measure, f"|{name}|, mean over pairs and tokens")
            for name, measure in lengths.items()
        ),
    ]


# Of each converted layer, one sample at a time: token by token [L, ...], without padding


def effective_rank(x: Tensor) -> Tensor:
    """How many directions the rows of x [L, f] spread over: exp of the entropy of their singular
    values as shares of the sum (Roy and Vetterli, EUSIPCO 2007, equation 4); NaN of nothing.
    """
    gram = x.double() @ x.double().T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    shares = singular / singular.sum()
    return torch.special.entr(shares).sum().exp()


def moments(s: Tensor, x: Tensor) -> Tensor:
    """Sums over tokens of s, x, s^2, x^2 and s x, float64 [5]."""
    s, x = s.double(), x.double()
    return torch.stack([s.sum(), x.sum(), s.square().sum(), x.square().sum(), (s * x).sum()])


def deviation_of_moments(sums: Tensor, count: float) -> float:
    """Of s."""
    if not count:
        return math.nan
    mean, square = (float(sums[place]) / count for place in (0, 2))
    return math.sqrt(max(0.0, square - mean**2))


def correlation(sums: Tensor, count: float) -> float:
    """Pearson's, of s and x, mean over layers; sums [N x 5]. NaN where one of them is constant."""
    if not count:
        return math.nan
    s, x, ss, xx, sx = (sums.view(-1, 5) / count).T
    spread = ((ss - s.square()).clamp_min(0.0) * (xx - x.square()).clamp_min(0.0)).sqrt()
    return float(((sx - s * x) / spread).mean())


def importance(attention: Tensor, hidden: Tensor) -> Tensor:
    """How much attention matters for a token, log(|a| / |h|)."""
    a, h = (x.double().norm(dim=-1) + 1e-6 for x in (attention, hidden))
    return torch.log(a / h)
