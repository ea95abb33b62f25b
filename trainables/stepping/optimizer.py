"""The optimizer of a phase: its settings, its parameter groups, and the learning rate as a
function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """One optimizer with its learning-rate schedule (linear warm-up, then constant or cosine)."""

    kind: str = setting("adamw", "update rule", choices=("adamw", "adam", "sgd"))
    lr: float = setting(1e-3, "peak learning rate", low=1e-9, high=10.0)
    weight_decay: float = setting(
        1e-4, "decoupled for adamw; not on biases, norms, caps", low=0.0, high=10.0
    )
    beta1: float = setting(0.9, "decay of the first moment; momentum of sgd", low=0.0, high=0.9999)
    beta2: float = setting(
        0.999, "decay of the second moment; not for sgd", low=0.0, high=0.999999
    )
    eps: float = setting(1e-8, "added to the root of the second moment", low=1e-16, high=1.0)
    warmup: float = setting(0.0, "linear warm-up", unit="of train.steps", low=0.0, high=1.0)
    warmup_first: float = setting(0.1, "factor on lr at step 0 of the warm-up", low=0.0, high=1.0)
    schedule: str = setting("cosine", "after the warm-up", choices=("constant", "cosine"))
    final: float = setting(0.01, "factor on lr at the last step of the cosine", low=0.0, high=1.0)


def check_eps(settings: OptimizerSettings, key: str, dtype: torch.dtype) -> None:
    """Refuses an `eps` that parameters of this precision round to 0.

    torch keeps the moments in the precision of the parameters. In fp16 the second moment of every
    gradient below 5e-3 is 0, and with an `eps` of 0 the update divides by 0.

    Args:
        key: of the optimizer's node.
    """
    # Settings are checked under torch.device("meta") as well, where tensors have no values.
    rounded = torch.tensor(settings.eps, dtype=dtype, device="cpu")
    if settings.kind == "sgd" or float(rounded) > 0.0:
        return
    name, limits = str(dtype).removeprefix("torch."), torch.finfo(dtype)
    raise SettingsError(
        f"{key}.eps must not be 0 in the precision of the parameters: {settings.eps:g} is, for "
        f"{name} has nothing between 0 and {limits.tiny * limits.eps:.1g}, and the update would "
        f"divide by 0. Set {key}.eps=1e-4, or keep the parameters in bf16 or fp32."
    )


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The learning rate of the update that leads from `step` to `step + 1` of `steps`.

    The cosine ends at the last step of the training and never climbs again (004-M21: a period
    shorter than the training makes it cyclic).
    """
    warmup_steps = settings.warmup * steps
    if step < warmup_steps:
        share = step / warmup_steps
        return settings.lr * (settings.warmup_first + (1.0 - settings.warmup_first) * share)
    if settings.schedule == "constant":
        return settings.lr
    progress = min((step - warmup_steps) / max(steps - warmup_steps, 1.0), 1.0)
    cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
    return settings.lr * (settings.final + (1.0 - settings.final) * cosine)


def parameter_groups(
    modules: Mapping[str, nn.Module],
    names: Iterable[str],
    weight_decay: float,
    no_decay: frozenset[str],
) -> list[dict]:
    """Two groups: with weight decay, and without (parameters with one axis or none, and those in
    `no_decay`).
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module_name in names:
        for name, parameter in modules[module_name].named_parameters():
            exempt = parameter.ndim <= 1 or f"{module_name}.{name}" in no_decay
            (plain if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(settings: OptimizerSettings, groups: list[dict]) -> torch.optim.Optimizer:
    """torch's own optimizer for the settings."""
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.beta1)
    rule = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return rule(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)
