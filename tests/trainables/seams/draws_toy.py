"""A forward that draws by sample under schedules, and one that draws by rank."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import nn

from trainables.api import (
    Built,
    Composite,
    Phase,
    ScheduleSettings,
    Settings,
    Term,
    draw_integers,
    draw_normal,
    setting,
)
from trainables.toy import Toy, ToySettings, count_samples, squared

LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class WindowedModel(Settings):
    window: ScheduleSettings = field(
        default_factory=lambda: ScheduleSettings(kind="linear", start=0.2, end=0.7, first=0.4)
    )
    noise: ScheduleSettings = field(
        default_factory=lambda: ScheduleSettings(kind="cosine", first=1.0, last=0.1, end=0.6)
    )
    is_noisy: bool = setting(True, "whether x is noisy in training")
    amplitude: float = setting(0.1, "of the noise on x", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class WindowedSettings(ToySettings):
    model: WindowedModel = field(default_factory=WindowedModel)  # type: ignore[assignment]


class Layers(nn.Module):
    """The sum of the layers that are open: those whose place lies below the window's share."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(LAYERS)])

    def forward(self, x, window):
        opened = max(1, round(LAYERS * float(window[0])))
        return sum(layer(x) for layer in self.layers[:opened])


class Windowed(Toy):
    """Layers open one after the other; the input of a training is noisy, less and less so."""

    name = "tests:Windowed"
    Settings = WindowedSettings
    noise = staticmethod(lambda batch, shape: draw_normal(batch["seed"], "noise", shape))

    def build(self, settings, prepared):
        return Built(modules={"model": Layers()})

    def phases(self, settings, prepared):
        model = settings.model
        return [
            Phase(
                "model",
                ("model",),
                self.predict,
                Composite({"squared": Term(squared, count_samples)}, settings.loss),
                schedules={"model.window": model.window, "model.noise": model.noise},
                training_schedules=("model.noise",),
            )
        ]

    def predict(self, modules, batch, settings):
        x = batch["x"]
        if modules["model"].training:
            noise = settings.model.amplitude * self.noise(batch, x.shape[1:])
            x = x + batch["schedule.model.noise"][:, None] * noise
        return {"y": modules["model"](x, batch["schedule.model.window"])}


class OfRanks(Windowed):
    """The same with the noise of the process: two workers are not one."""

    name = "tests:OfRanks"
    noise = staticmethod(lambda batch, shape: torch.randn(len(batch["x"]), *shape))


class Deepened(Windowed):
    """The number of layers is drawn once for all samples of an update."""

    name = "tests:Deepened"

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        plain = {"schedules": {}, "training_schedules": ()}
        return [dataclasses.replace(phase, **plain, draws_by_update=True)]

    def predict(self, modules, batch, settings):
        seed, share = batch.get("update_seed"), torch.ones(1)
        if modules["model"].training:
            share = (1.0 + draw_integers(seed[:1], "layers", LAYERS)) / LAYERS
        return {"y": modules["model"](batch["x"], share)}
