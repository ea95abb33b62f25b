"""A toy with two examinations: points of the line that are drawn, and one whole experiment."""

from dataclasses import dataclass, field

import torch

from settings.schema import Settings, setting
from trainables.api import Column, Examination, Reference
from trainables.toy import Toy, ToySettings

CASES = 11


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Settings):
    spread: float = setting(0.5, "of the points that are examined", low=0.0, high=10.0)


@dataclass(frozen=True, kw_only=True)
class ExaminedSettings(ToySettings):
    sample: SampleSettings = field(default_factory=SampleSettings)


def points(exam):
    """The points of the cases, [B, 1]."""
    drawn = [torch.randn(1, generator=exam.generator(case)) for case in exam.cases]
    return exam.settings.sample.spread * torch.stack(drawn).to(exam.device)


def errors(y, x):
    error = (y.double() - (2.0 * x + 3.0)).flatten()
    count = torch.tensor(float(len(x)), dtype=torch.float64)
    return {
        "drawn_rmse": (error.square().sum(), count),
        "drawn_bias": (torch.stack([error.sum(), error.abs().sum()]), count),
    }


def drawn(exam):
    x = points(exam)
    with exam.autocast():
        y = exam.modules["model"](x)
    return errors(y.float(), x)


def experiment(exam):
    """One case, whole: the slope between the first sample of the split and the point above it."""
    (case,) = exam.cases
    x = exam.batch([case])["x"]
    with torch.enable_grad():
        x.requires_grad_()
        slope = torch.autograd.grad(exam.modules["model"](x).sum(), x)[0]
    torch.rand(3)  # draws that nobody may notice
    return {"slope_error": ((slope.double() - 2.0).abs().sum(), torch.tensor(1.0))}


def chart(exam):
    """A bar for each point."""
    y = exam.modules["model"](points(exam)).flatten().float()
    rows = torch.arange(32, device=y.device)[:, None] < 4.0 * y.abs()[None]
    return {"points": rows.float()[None].expand(3, -1, -1)}


def root(sums, count):
    return (float(sums) / count) ** 0.5


def bias(sums, count):
    return float(sums[0]) / count + 0.0 * float(sums[1])


READS = ("sample.*",)
DRAWN = Examination(
    "drawn",
    CASES,
    (
        Column("drawn_rmse", "", "min", "error of drawn points", root, READS),
        Column("drawn_bias", "", None, "bias of drawn points", bias, READS),
    ),
    drawn,
    chart,
)
SLOPE = Examination(
    "slope", 1, (Column("slope_error", "", "min", "error of the slope"),), experiment
)


class Examined(Toy):
    """The toy with two examinations; a constant is its reference."""

    name = f"{__file__}:Examined"
    Settings = ExaminedSettings

    def examinations(self, settings, prepared):
        return (DRAWN, SLOPE)

    def references(self, settings, prepared):
        def constant(exam):
            x = points(exam)
            return errors(torch.full_like(x, 3.0), x)

        return {
            "constant": Reference(
                lambda batch: {"y": torch.full_like(batch["x"], 3.0)},
                "always 3",
                examine={"drawn": constant},
            )
        }
