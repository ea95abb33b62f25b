"""Balancers that learn one number per term by Adam, each with its objective's gradient in closed
form, so no graph is kept and no second backward pass is run (000-M10: one for the weights and one
for the model double the model's gradient).

Legend: i a term, L_i its loss, g_i its unweighted gradient, K the number of terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from losses.balancers.base import Needs, Observed, TermBalancer, mean, normalised
from losses.balancers.ratio import growth, softmax_weights

LOG_VARIANCE_LIMIT = 15.0
"""Bound on |s|: a loss of exactly 0 would drive exp(-s) out of float32 before it rises again."""

WEIGHT_FLOOR = 1e-3
"""Least weight of GradNorm before it is normalised: below 0 a term would be maximised."""


class Scalars:
    """One number per term under Adam (Kingma & Ba 2015, algorithm 1, with its default decays).

    In plain floats: for so few numbers torch's Adam would be a noticeable part of a small step. A
    term without a gradient in a step stays as it is, with its own count of steps.
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    def __init__(self, names: Sequence[str], start: float, lr: float) -> None:
        self.lr = lr
        self.values = dict.fromkeys(names, start)
        self.first, self.second = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        self.steps = dict.fromkeys(names, 0)

    def step(self, gradients: Mapping[str, float]) -> None:
        for name, g in gradients.items():
            self.steps[name] += 1
            m = self.BETA1 * self.first[name] + (1.0 - self.BETA1) * g
            v = self.BETA2 * self.second[name] + (1.0 - self.BETA2) * g * g
            self.first[name], self.second[name] = m, v
            unbiased = m / (1.0 - self.BETA1 ** self.steps[name])
            root = math.sqrt(v / (1.0 - self.BETA2 ** self.steps[name]))
            self.values[name] -= self.lr * unbiased / (root + self.EPS)

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(getattr(self, name)) for name in ("values", "first", "second", "steps")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, numbers in state.items():
            setattr(self, name, dict(numbers))


class LearnedBalancer(TermBalancer):
    """A balancer whose state is its `Scalars`."""

    def __init__(self, names: Sequence[str], start: float, lr: float) -> None:
        super().__init__(names)
        self.scalars = Scalars(names, start, lr)

    def _state(self) -> dict[str, Any]:
        return {"scalars": self.scalars.state_dict()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.scalars.load_state_dict(state["scalars"])


class Uncertainty(LearnedBalancer):
    """w_i = exp(-s_i), where s minimises sum_i exp(-s_i) L_i + s_i (Kendall et al. 2018,
    "Multi-Task Learning Using Uncertainty to Weigh Losses", eq. 7 with s = log sigma^2, for
    regression and up to a factor 1/2).

    The gradient in s_i is 1 - exp(-s_i) L_i, at rest where s_i = log L_i: every product w_i L_i
    becomes 1. The weights have no fixed sum; losses must be positive.
    """

    kind = "uncertainty"
    equalises = True

    def __init__(self, names: Sequence[str], lr: float) -> None:
        super().__init__(names, 0.0, lr)

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        return {name: math.exp(-self.scalars.values[name]) for name in active}

    def observe(self, observed: Observed, step: int) -> None:
        s, limit = self.scalars.values, LOG_VARIANCE_LIMIT
        self.scalars.step(
            {name: 1.0 - math.exp(-s[name]) * loss for name, loss in observed.losses.items()}
        )
        for name in observed.losses:
            s[name] = min(max(s[name], -limit), limit)


class Softmax(LearnedBalancer):
    """w_i = K softmax_i(theta), where theta minimises sum_i w_i L_i, as source document 000 has
    it, with one component for each term that is on (000-M9).

    A negative example (000-M8): all weight flows to the smallest loss, so what is already learnt
    gets the most weight and the rest is switched off. The gradient in theta_i is
    K p_i (L_i - sum_j p_j L_j), p = softmax(theta).
    """

    kind = "softmax"

    def __init__(self, names: Sequence[str], lr: float) -> None:
        super().__init__(names, 0.0, lr)

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        return softmax_weights({name: self.scalars.values[name] for name in active})

    def observe(self, observed: Observed, step: int) -> None:
        if not observed.losses:
            return
        weights = self._balanced(list(observed.losses))
        middle = mean(weights[name] * loss for name, loss in observed.losses.items())
        self.scalars.step(
            {name: weights[name] * (loss - middle) for name, loss in observed.losses.items()}
        )


class GradNorm(LearnedBalancer):
    """GradNorm (Chen et al. 2018, eqs. 1 and 2): w minimises sum_i |w_i ||g_i|| - target_i|, with
    target_i = mean_j(w_j ||g_j||) r_i^alpha taken as constant, and r_i the relative inverse
    training rate: L_i / L_i(0) over its mean. Then w is normalised to sum K.

    So the gradient in w_i is sign(w_i ||g_i|| - target_i) ||g_i||: the norms are enough, and no
    graph of a gradient is made. L_i(0) is the term's first observed loss; growth since then counts
    up to `RATIO_LIMIT`, because a hinge that rises from 0 would take all the weight.
    """

    kind = "gradnorm"
    equalises = True
    needs: Needs = "gradients"

    def __init__(self, names: Sequence[str], interval: int, lr: float, alpha: float) -> None:
        super().__init__(names, 1.0, lr)
        self.interval, self.alpha = interval, alpha
        self.first: dict[str, float] = {}

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        return normalised({name: self.scalars.values[name] for name in active})

    def observe(self, observed: Observed, step: int) -> None:
        if not observed.losses:
            return
        for name, loss in observed.losses.items():
            self.first.setdefault(name, loss)
        weights, norms = self.scalars.values, observed.norms
        rates = {name: growth(loss, self.first[name]) for name, loss in observed.losses.items()}
        pull, rate = mean(weights[name] * norms[name] for name in rates), mean(rates.values())
        gradients = {}
        for name in rates:
            excess = weights[name] * norms[name] - pull * (rates[name] / rate) ** self.alpha
            gradients[name] = math.copysign(norms[name], excess) if excess else 0.0
        self.scalars.step(gradients)
        floored = {name: max(w, WEIGHT_FLOOR) for name, w in weights.items()}
        self.scalars.values = normalised(floored)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "first": dict(self.first)}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.first = dict(state["first"])
