"""The update rules for parameters in bf16, with state in fp32 and nothing lost to rounding.

A number in bf16 has 8 bits. An update below half of its last one, 2^-9 to 2^-8 of the weight, is
rounded away: at a learning rate of 1e-4 that of nearly every weight above 0.05. torch keeps the
moments in the precision of the parameters as well, where 0.999 v rounds to v, so that the second
moment never falls. Here the moments are fp32 and the sum is compensated (Zamirai et al. 2020,
"Revisiting BFloat16 Training", section 4: by stochastic rounding or by Kahan's summation):

    exact = w + c;  exact <- rule(exact, gradient);  w <- round(exact);  c <- exact - w

Kahan's c would be in bf16 and round what it holds. This one is the lower 16 bits of `exact`
themselves, which take as much memory and lose nothing (split SGD, Kalamkar et al. 2020,
"Optimizing Deep Learning Recommender Systems' Training On CPU Cluster Architectures"): w + c is an
fp32 number to the bit, and follows the rule as fp32 parameters follow it whose gradients are taken
at their rounded values. Nothing is drawn, so a resume needs no place in a stream, and the ranks
agree. Of a parameter there are 14 bytes: 2 of itself, its gradient and c, 4 of each of Adam's two
moments. In fp32 there are 16; stochastic rounding would take 12.

Of the libraries, `optimi` 0.3.3 and `pytorch_optimizer` 4.1 have Kahan's sum with moments in bf16.
`torchao` 0.18 rounds stochastically from the generator of the process, which decides nothing here;
its moments are bf16 too, it compiles each step, and refuses a learning rate that is a float. The
rule is therefore torch's own, applied to one parameter at a time: more than the largest one is
never in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

LOWER = "lower_bits"
"""Of the state of a parameter: c."""

_HALF = 1 << 15
"""Of the last bit of bf16, as the bits of fp32 count it."""


def join(upper: Tensor, lower: Tensor) -> Tensor:
    """The fp32 numbers whose rounded values, in bf16, and further bits, in int16, these are."""
    bits = upper.detach().view(torch.int16).to(torch.int32) << 16
    return (bits + lower).view(torch.float32)


def split(exact: Tensor, upper: Tensor, lower: Tensor) -> None:
    """Puts fp32 numbers into both halves: `upper` is rounded to nearest, from half on away from 0.

    What is not a number is cut off instead: CUDA's, with all bits set, would be rounded to -0.
    """
    bits = exact.view(torch.int32)
    rounded = torch.where(exact.isnan(), bits, bits + _HALF) >> 16
    upper.detach().view(torch.int16).copy_(rounded)
    lower.copy_(bits - (rounded << 16))


class Compensated(torch.optim.Optimizer):
    """`AdamW`, `Adam` or `SGD` of torch over parameters some of which are in bf16; the others are
    updated as torch does.

    Args:
        kind: as `OptimizerSettings.kind`.
        betas: of the two moments; SGD has the first one, its momentum.
    """

    def __init__(
        self, groups: list[dict], kind: str, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if parameter.dtype != torch.bfloat16:
            self._apply(parameter, gradient, state, group)
            return
        if LOWER not in state:
            state[LOWER] = torch.zeros_like(parameter, dtype=torch.int16)
        exact = join(parameter, state[LOWER])
        self._apply(exact, gradient.float(), state, group)
        split(exact, parameter, state[LOWER])

    def _apply(
        self, exact: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Updates `exact` and the state by torch's rule."""
        beta1, beta2 = group["betas"]
        numbers = {"lr": group["lr"], "weight_decay": group["weight_decay"], "maximize": False}
        if self.kind == "sgd":
            momenta = [state.get("momentum_buffer")]
            options = {"momentum": beta1, "dampening": 0.0, "nesterov": False}
            sgd([exact], [gradient], momenta, **options, **numbers)
            if momenta[0] is not None:
                state["momentum_buffer"] = momenta[0]
            return
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(exact)
            state["exp_avg_sq"] = torch.zeros_like(exact)
        first, second, steps = ([state[key]] for key in ("exp_avg", "exp_avg_sq", "step"))
        options = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": False}
        rule = adamw if self.kind == "adamw" else adam
        rule([exact], [gradient], first, second, [], steps, **options, **numbers)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the state of another, in the precision of its own: torch would round all of
        it to that of the parameters. Moments in bf16, which checkpoints of before have, become
        fp32, and c begins at 0.
        """
        super().load_state_dict(state_dict)
        stored, names = state_dict["state"], state_dict["param_groups"]
        named = [name for group in names for name in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for name, parameter in zip(named, parameters, strict=True):
            if parameter.dtype != torch.bfloat16 or name not in stored:
                continue
            for key, value in stored[name].items():
                if key != "step" and value is not None:
                    exact = torch.int16 if key == LOWER else torch.float32
                    self.state[parameter][key] = value.to(parameter.device, exact)
