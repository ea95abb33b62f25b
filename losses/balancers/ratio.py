"""Balancers whose weights follow from ratios of losses or of gradient norms, by a formula.

Legend: i a term, L_i its loss, g_i its unweighted gradient, K the number of terms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from losses.balancers.base import TINY, Needs, Observed, TermBalancer, mean, normalised

RATIO_LIMIT = 10.0
"""Largest growth of a loss that counts: a hinge that rises from 0 would take all the weight."""


def softmax_weights(logits: Mapping[str, float]) -> dict[str, float]:
    """K * softmax: positive weights with sum K."""
    highest = max(logits.values())
    return normalised({name: math.exp(value - highest) for name, value in logits.items()})


def growth(now: float, before: float) -> float:
    return min((now + TINY) / (before + TINY), RATIO_LIMIT)


class DynamicWeightAverage(TermBalancer):
    """DWA (Liu et al. 2019, "End-to-End Multi-Task Learning with Attention"):
    w_i(t) = K softmax_i(r_i(t - 1) / T), r_i(t - 1) = L_i(t - 1) / L_i(t - 2).

    L_i(t) is the mean over `interval` steps, as the paper's over an epoch; r_i is 1 until there
    are two of them, and stays where a term had nothing to count in a whole interval.
    """

    kind = "dwa"

    def __init__(self, names: Sequence[str], interval: int, temperature: float) -> None:
        super().__init__(names)
        self.averaged_steps, self.temperature = interval, temperature
        self.steps = 0
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.previous: dict[str, float] = {}
        self.ratios: dict[str, float] = {}

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        logits = {name: self.ratios.get(name, 1.0) / self.temperature for name in active}
        return softmax_weights(logits)

    def observe(self, observed: Observed, step: int) -> None:
        for name, loss in observed.losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        if self.steps < self.averaged_steps:
            return
        for name, total in self.sums.items():
            average = total / self.counts[name]
            if name in self.previous:
                self.ratios[name] = growth(average, self.previous[name])
            self.previous[name] = average
        self.steps, self.sums, self.counts = 0, {}, {}

    def _state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "previous": dict(self.previous),
            "ratios": dict(self.ratios),
        }


class RelativeLossBalancing(TermBalancer):
    """ReLoBRaLo (Bischof & Kraus 2021, "Multi-Objective Loss Balancing for Physics-Informed Deep
    Learning"), with a = `decay`:

        bal_i(t, u) = K softmax_i(L_i(t) / (T L_i(u)))
        w_i(t) = a h_i(t) + (1 - a) bal_i(t, t - 1)
        h_i(t) = bal_i(t, 0) with probability `lookback`, else w_i(t - 1)

    The paper's rho is 1 - `lookback`. t counts observations; one draw serves all terms.
    """

    kind = "relobralo"

    def __init__(
        self,
        names: Sequence[str],
        interval: int,
        temperature: float,
        decay: float,
        lookback: float,
    ) -> None:
        super().__init__(names)
        self.interval = interval
        self.temperature, self.decay, self.lookback = temperature, decay, lookback
        self.values: dict[str, float] = dict.fromkeys(names, 1.0)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        return normalised({name: self.values[name] for name in active})

    def observe(self, observed: Observed, step: int) -> None:
        losses = {name: x for name, x in observed.losses.items() if name in self.last}
        if losses:
            looks_back = random.Random(observed.seed).random() < self.lookback
            history = self._relative(losses, self.first) if looks_back else self.values
            recent = self._relative(losses, self.last)
            for name in losses:
                self.values[name] = self.decay * history[name] + (1.0 - self.decay) * recent[name]
        for name, loss in observed.losses.items():
            self.first.setdefault(name, loss)
            self.last[name] = loss

    def _relative(
        self, losses: Mapping[str, float], reference: Mapping[str, float]
    ) -> dict[str, float]:
        return softmax_weights(
            {name: growth(x, reference[name]) / self.temperature for name, x in losses.items()}
        )

    def _state(self) -> dict[str, Any]:
        return {"values": dict(self.values), "first": dict(self.first), "last": dict(self.last)}


class InverseGradient(TermBalancer):
    """w_i = mean_j(n_j) / n_i with n_i a moving average of ||g_i||, held within 1 / `weight_max`
    to `weight_max`, then normalised to sum K: every term contributes a gradient of the same size.

    003-M1: a loss differentiated with respect to itself has gradient 1 and all weights become
    equal; the gradient is that of the shared parameters. The average starts at the first norm, so
    it has no bias to correct.
    """

    kind = "inverse_gradient"
    equalises = True
    needs: Needs = "gradients"

    def __init__(
        self, names: Sequence[str], interval: int, decay: float, weight_max: float
    ) -> None:
        super().__init__(names)
        self.interval, self.decay, self.weight_max = interval, decay, weight_max
        self.averages: dict[str, float] = {}

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        norms = {name: self.averages[name] for name in active if name in self.averages}
        if not norms:
            return dict.fromkeys(active, 1.0)
        middle = mean(norms.values()) or TINY
        values = {name: middle / max(norms.get(name, middle), TINY * middle) for name in active}
        low, high = 1.0 / self.weight_max, self.weight_max
        return normalised({name: min(max(x, low), high) for name, x in values.items()})

    def observe(self, observed: Observed, step: int) -> None:
        for name, norm in observed.norms.items():
            before = self.averages.get(name, norm)
            self.averages[name] = self.decay * before + (1.0 - self.decay) * norm

    def _state(self) -> dict[str, Any]:
        return {"averages": dict(self.averages)}


class MagnitudeRatio(TermBalancer):
    """w_i = clamp(`ratio` * L_anchor / L_i, 1, `ratio_max`); the anchor, the first term that is
    on, keeps its own weight, and so does every term that is not among `adapts`, where it names
    some (the document adapts the hierarchical error alone).

    000-M1: without the upper limit a small L_i gets a weight in the thousands, which its share of
    the loss hides; and the ratio is a plain number, no part of the graph. It is that of the step
    before, and 1 until both terms were seen in one step.
    """

    kind = "magnitude_ratio"

    def __init__(
        self, names: Sequence[str], ratio: float, ratio_max: float, adapts: Sequence[str] = ()
    ) -> None:
        super().__init__(names)
        self.ratio, self.ratio_max = ratio, ratio_max
        self.anchor = self.names[0] if self.names else ""
        self.adapted = frozenset(adapts or self.names) - {self.anchor}
        self.keeps_weight_of = frozenset(self.names) - self.adapted
        self.values: dict[str, float] = dict.fromkeys(names, 1.0)

    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        return {name: self.values[name] for name in active}

    def observe(self, observed: Observed, step: int) -> None:
        anchor = observed.losses.get(self.anchor)
        if anchor is None:
            return
        for name, loss in observed.losses.items():
            if name in self.adapted:
                ratio = self.ratio * anchor / (loss + TINY)
                self.values[name] = min(max(ratio, 1.0), self.ratio_max)

    def _state(self) -> dict[str, Any]:
        return {"values": dict(self.values)}
