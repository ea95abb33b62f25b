"""The optimizer of a phase: its settings and its parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import torch
from torch import nn

from losses.schedules import ScheduleSettings
from settings.match import matches
from settings.schema import Settings, SettingsError, setting
from trainables.optimizing.compensated import Compensated
from trainables.optimizing.gradient_noise import NoiseSettings
from trainables.optimizing.sharpness import SharpnessSettings


@dataclass(frozen=True, kw_only=True)
class PlateauSettings(Settings):
    """`schedule=plateau`: the rate falls when the objective has not become better for a while."""

    factor: float = setting(0.5, "on the rate, each time", low=0.0, high=1.0)
    patience: int = setting(
        10, "reports without a better objective before it falls", unit="reports", low=1
    )


@dataclass(frozen=True, kw_only=True)
class RateSettings(Settings):
    """Factors on `lr`, one for each group of parameters that the system names (`Built.groups`).

    A system with groups derives its own from this, with a field of each name, and its optimizer's
    settings from `OptimizerSettings`, with a field `rate: MyRates`.
    """


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """One optimizer with its learning-rate schedule (linear warm-up, then one of four), and what
    is done to a gradient before it (`sam`, `noise`).
    """

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
    schedule: str = setting(
        "cosine", "after the warm-up", choices=("constant", "cosine", "stages", "plateau")
    )
    final: float = setting(
        0.01,
        "least factor on lr: at the last step of the cosine, and below which no plateau goes",
        low=0.0,
        high=1.0,
    )
    positions: tuple[float, ...] = setting(
        (), "knots of `stages`, ascending", unit="of train.steps", low=0.0, high=1.0
    )
    factors: tuple[float, ...] = setting(
        (), "factor on lr at each knot of `stages`; on a line between them", low=0.0, high=1e3
    )
    plateau: PlateauSettings = field(default_factory=PlateauSettings)
    sam: SharpnessSettings = field(default_factory=SharpnessSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    rate: RateSettings = field(default_factory=RateSettings)

    def check(self) -> None:
        if self.schedule != "stages":
            return
        try:
            ScheduleSettings(kind="stages", positions=self.positions, factors=self.factors)
        except SettingsError as error:
            raise SettingsError(
                f"{error} They stand beside the optimizer's `schedule`: for one decade down in "
                "the second half, optimizer.positions=[0.5,1] optimizer.factors=[1,0.1]."
            ) from error


def check_eps(settings: OptimizerSettings, key: str, dtype: torch.dtype) -> None:
    """Refuses an `eps` that parameters of this precision round to 0.

    torch keeps the moments of fp16 in fp16: the second moment of every gradient below 5e-3 is 0,
    and with an `eps` of 0 the update divides by 0. Those of bf16 are in fp32 (`Compensated`).

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


def factors_of(settings: OptimizerSettings) -> dict[str, float]:
    """Group of parameters -> the factor on its learning rate."""
    return {each.name: getattr(settings.rate, each.name) for each in fields(settings.rate)}


def parameter_groups(
    modules: Mapping[str, nn.Module],
    names: Iterable[str],
    settings: OptimizerSettings,
    no_decay: frozenset[str] = frozenset(),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[dict]:
    """The groups of torch's optimizer: of every named group of parameters, and of those in none,
    one with weight decay and one without (parameters with one axis or none, and those in
    `no_decay`). `rate` of each is the factor on the learning rate.

    Args:
        names: of the modules that the optimizer updates.
        no_decay: "<module>.<parameter>".
        groups: name -> patterns of "<module>.<parameter>" (`Built.groups`).

    Raises:
        SettingsError: a parameter is in two groups, a group has no factor in the settings or a
            factor no group.
    """
    factors = factors_of(settings)
    sorted_in: dict[tuple[str, bool], list[nn.Parameter]] = {}
    used = {""}
    for module in names:
        for key, parameter in modules[module].named_parameters():
            name = f"{module}.{key}"
            group = _group_of(name, groups)
            used.add(group)
            decays = parameter.ndim > 1 and name not in no_decay
            sorted_in.setdefault((group, decays), []).append(parameter)
    if wrong := sorted(used - {""} - factors.keys()):
        raise SettingsError(
            "every group of parameters (Built.groups) has a factor of its name in `rate` of the "
            f"optimizer's settings, and {', '.join(wrong)} has none. Add a field to it."
        )
    if idle := sorted(factors.keys() - used):
        patterns = {name: list(groups.get(name, ())) for name in idle}
        raise SettingsError(
            "every factor in `rate` of an optimizer's settings has a group of parameters "
            f"(Built.groups), and those of {', '.join(idle)} are none that it updates (patterns "
            f"{patterns}). A pattern is of <module>.<parameter>, such as model.head.*"
        )
    return [
        {
            "params": sorted_in[group, decays],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "rate": factors.get(group, 1.0),
        }
        for group in ("", *factors)
        for decays in (True, False)
        if (group, decays) in sorted_in
    ]


def _group_of(name: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The group of a parameter, "" for none."""
    of = [group for group, patterns in groups.items() if matches(name, patterns)]
    if len(of) > 1:
        raise SettingsError(
            f"a parameter is in one group at most, and {name} is in {', '.join(of)}. Make the "
            "patterns of Built.groups exclude each other."
        )
    return of[0] if of else ""


def make_optimizer(settings: OptimizerSettings, groups: list[dict]) -> torch.optim.Optimizer:
    """torch's own optimizer for the settings; over parameters in bf16 its rules without their
    rounding (`Compensated`).
    """
    if any(p.dtype == torch.bfloat16 for group in groups for p in group["params"]):
        betas = settings.beta1, settings.beta2
        return Compensated(groups, settings.kind, settings.lr, betas, settings.eps)
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.beta1)
    rule = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return rule(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)
