"""The smallest systems: y = 2x + 3, once with one phase and once with two (a GAN's shape).

Used where the platform itself is measured or tested: a step costs next to nothing, and the answer
is known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainables.api import (
    BalancerSettings,
    Built,
    Composite,
    Finding,
    Loaders,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Settings,
    SystemBase,
    SystemSettings,
    Tensors,
    Term,
    TermSettings,
    TrainSettings,
    per_sample,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class ToyData(Settings):
    samples: int = setting(64, "size of the training set", low=1, high=1_000_000)
    noise: float = setting(0.1, "standard deviation of the noise on y", low=0.0, high=10.0)
    fail_at: int = setting(-1, "raise when this sample is drawn; -1 never", low=-1)
    delay_seconds: float = setting(
        0.0, "wait for each training sample, to give a test time", low=0.0, high=60.0
    )


@dataclass(frozen=True, kw_only=True)
class ToyModel(Settings):
    dropout: float = setting(0.0, "share of inputs that is dropped", low=0.0, high=0.9)
    explode: float = setting(
        0.0, "added to the prediction as log(-x): not finite when 1", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class ToyLoss(Settings):
    squared: TermSettings = field(default_factory=TermSettings)
    absolute: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    adversarial: TermSettings = field(default_factory=lambda: TermSettings(weight=0.1))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


@dataclass(frozen=True, kw_only=True)
class ToyCritic(Settings):
    hinge: TermSettings = field(default_factory=TermSettings)


def _toy_optimizer() -> OptimizerSettings:
    return OptimizerSettings(lr=0.3, schedule="constant", weight_decay=0.0)


def _toy_train() -> TrainSettings:
    return TrainSettings(steps=20, batch_size=8, report_every=5, clip_norm=10.0)


@dataclass(frozen=True, kw_only=True)
class ToySettings(SystemSettings):
    model: ToyModel = field(default_factory=ToyModel)
    data: ToyData = field(default_factory=ToyData)
    loss: ToyLoss = field(default_factory=ToyLoss)
    critic: ToyCritic = field(default_factory=ToyCritic)
    optimizer: OptimizerSettings = field(default_factory=_toy_optimizer)
    critic_optimizer: OptimizerSettings = field(default_factory=_toy_optimizer)
    train: TrainSettings = field(default_factory=_toy_train)


class Line(Dataset):
    """x, y = 2x + 3 + noise; what is random about a sample comes from its seed."""

    def __init__(self, settings: ToyData, seed: int, size: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.rand(size, 1, generator=generator) * 2.0 - 1.0
        self.settings = settings

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        if seed is not None and index == self.settings.fail_at:
            raise RuntimeError(f"sample {index} cannot be read")
        if seed is not None and self.settings.delay_seconds:
            time.sleep(self.settings.delay_seconds)
        y = 2.0 * self.x[index] + 3.0
        if seed is not None:
            y = y + self.settings.noise * torch.randn(
                1, generator=torch.Generator().manual_seed(seed)
            )
        return {"x": self.x[index], "y": y}


class Linear(nn.Module):
    def __init__(self, settings: ToyModel) -> None:
        super().__init__()
        self.dropout, self.explode = nn.Dropout(settings.dropout), settings.explode
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.dropout(x))
        return y + torch.log(-self.explode * torch.ones_like(y)) if self.explode else y


def count_samples(batch: Tensors, settings: ToySettings) -> Tensor:
    return torch.tensor(float(len(batch["x"])))


def squared(prediction: Tensors, batch: Tensors, settings: ToySettings) -> Tensor:
    return (prediction["y"].float() - batch["y"]).square().sum()


def absolute(prediction: Tensors, batch: Tensors, settings: ToySettings) -> Tensor:
    return (prediction["y"].float() - batch["y"]).abs().sum()


def adversarial(prediction: Tensors, batch: Tensors, settings: ToySettings) -> Tensor:
    return (1.0 - prediction["score"].float()).relu().sum()


def hinge(prediction: Tensors, batch: Tensors, settings: ToySettings) -> Tensor:
    real, fake = prediction["real"].float(), prediction["fake"].float()
    return ((1.0 - real).relu() + (1.0 + fake).relu()).sum()


def squared_error(
    prediction: Tensors, batch: Tensors, settings: ToySettings
) -> tuple[Tensor, Tensor]:
    return per_sample((prediction["y"].float() - batch["y"]).square().flatten(1).mean(dim=1))


class Toy(SystemBase[ToySettings, None]):
    """One phase, two terms."""

    name = "trainables.toy:Toy"
    Settings = ToySettings

    def build(self, settings: ToySettings, prepared: None) -> Built:
        return Built(modules={"model": Linear(settings.model)})

    def loaders(self, settings: ToySettings, prepared: None) -> Loaders:
        return Loaders(Line(settings.data, 1, settings.data.samples), Line(settings.data, 2, 37))

    def phases(self, settings: ToySettings, prepared: None) -> Sequence[Phase]:
        terms = {
            "squared": Term(squared, count_samples, constant_count=True),
            "absolute": Term(absolute, count_samples, constant_count=True),
        }
        return [Phase("model", ("model",), predict, Composite(terms, settings.loss))]

    def metrics(self, settings: ToySettings, prepared: None) -> Sequence[Metric]:
        return [
            Metric("mse", "", "min", squared_error, "mean squared error without noise"),
            Metric(
                "noisy",
                "",
                "min",
                squared_error,
                "reads a key that a space may search",
                reads=("data.*",),
            ),
            Metric("diagnostic", "", None, squared_error, "no direction"),
        ]

    def preflight(self, settings: ToySettings, prepared: None) -> Sequence[Finding]:
        if settings.model.explode == 0.0:
            return []
        return [Finding("model.explode makes every loss non-finite; set it to 0.", hopeless=True)]


class ToyGan(Toy):
    """Two phases with an optimizer and a Composite each."""

    name = "trainables.toy:ToyGan"

    def build(self, settings: ToySettings, prepared: None) -> Built:
        return Built(modules={"model": Linear(settings.model), "critic": nn.Linear(2, 1)})

    def phases(self, settings: ToySettings, prepared: None) -> Sequence[Phase]:
        terms = {
            "squared": Term(squared, count_samples, constant_count=True),
            "absolute": Term(absolute, count_samples, constant_count=True),
            "adversarial": Term(adversarial, count_samples, constant_count=True),
        }
        critic = {"hinge": Term(hinge, count_samples, constant_count=True)}
        return [
            Phase("model", ("model",), predict_and_score, Composite(terms, settings.loss)),
            Phase(
                "critic",
                ("critic",),
                judge,
                Composite(critic, settings.critic, "critic"),
                "critic_optimizer",
            ),
        ]


def predict(modules: Modules, batch: Tensors, settings: ToySettings) -> dict[str, Tensor]:
    return {"y": modules["model"](batch["x"])}


def predict_and_score(
    modules: Modules, batch: Tensors, settings: ToySettings
) -> dict[str, Tensor]:
    y = modules["model"](batch["x"])
    return {"y": y, "score": modules["critic"](torch.cat([batch["x"], y.float()], dim=1))}


def judge(modules: Modules, batch: Tensors, settings: ToySettings) -> dict[str, Tensor]:
    with torch.no_grad():
        y = modules["model"](batch["x"]).float()
    real = modules["critic"](torch.cat([batch["x"], batch["y"]], dim=1))
    return {"real": real, "fake": modules["critic"](torch.cat([batch["x"], y], dim=1))}
