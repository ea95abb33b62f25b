"""Toys with a frozen module from a file elsewhere, with tied weights, and with a branch that is
made ready from weights that were loaded.
"""

from __future__ import annotations

import torch
from torch import nn

from settings.atomic_file import atomic_file
from trainables import toy
from trainables.external import external_file, read_tensors, write_tensors
from trainables.parts import Built, Phase


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.up(x) + self.down(x)


class Lens(nn.Module):
    """A frozen map whose statistics move in training mode."""

    def __init__(self):
        super().__init__()
        self.map, self.norm = Tied(), nn.BatchNorm1d(1)
        self.requires_grad_(False)

    def forward(self, x):
        return self.norm(self.map(x))


def look_through(modules, batch, settings):
    return {"y": modules["model"](modules["lens"](batch["x"]))}


class Frozen(toy.Toy):
    """The toy behind a lens; its own weights are tied."""

    name = "external_toy:Frozen"
    seed = 11

    def prepare(self, settings, cache):
        file = cache / f"lens-{self.seed}.safetensors"
        if not file.exists():
            generator = torch.Generator().manual_seed(self.seed)
            lens = Lens()
            with torch.no_grad():
                for tensor in lens.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            with atomic_file(file) as scratch:
                write_tensors(scratch, lens.state_dict())
        return external_file(file)

    def build(self, settings, prepared):
        built = self.rebuild(settings, {"inputs": 1})
        built.modules["lens"].load_state_dict(read_tensors(prepared.file))
        built.external = {"lens": prepared}
        return built

    def rebuild(self, settings, meta):
        return Built({"model": Tied(), "lens": Lens().eval()}, meta=dict(meta))

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        return [Phase("model", ("model",), look_through, phase.composite)]

    def generate(self, settings, modules, request):
        x = torch.tensor([[float(request.given.read_text())]])
        return {"y": look_through(modules, {"x": x}, settings)["y"].item()}


class Unbuilt(Frozen):
    """The same without a `rebuild` of its own."""

    name = "external_toy:Unbuilt"
    rebuild = toy.Toy.rebuild

    def build(self, settings, prepared):
        built = Frozen.rebuild(self, settings, {})
        if prepared is not None:
            built.modules["lens"].load_state_dict(read_tensors(prepared.file))
            built.external = {"lens": prepared}
        return built


def add_branch(modules, batch, settings):
    return {"y": modules["model"](batch["x"]) + 0.1 * modules["branch"](batch["x"])}


class Branched(toy.Toy):
    """The toy with a branch that begins as a copy of the model, moved by a draw."""

    name = "external_toy:Branched"

    def __init__(self):
        self.readied = []

    def build(self, settings, prepared):
        modules = {name: toy.Linear(settings.model) for name in ("model", "branch")}

        def ready(modules):
            self.readied.append({k: v.clone() for k, v in modules["model"].state_dict().items()})
            modules["branch"].load_state_dict(modules["model"].state_dict())
            with torch.no_grad():
                modules["branch"].linear.bias.add_(torch.rand(1))

        return Built(modules, ready=ready)

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        return [Phase("model", ("model", "branch"), add_branch, phase.composite)]

    def initial(self, name, names):
        if name != "external_toy:Other":
            return {}
        return {key: key.replace("net", "model") for key in names if key.startswith("module.net.")}


class Other(toy.Toy):
    """Another system, whose network has another name and something beside it."""

    name = "external_toy:Other"

    def build(self, settings, prepared):
        return Built({"net": toy.Linear(settings.model), "extra": nn.Linear(1, 2)})

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        return [Phase("model", ("net", "extra"), both, phase.composite)]


def both(modules, batch, settings):
    return {"y": modules["net"](batch["x"]) + 0.1 * modules["extra"](batch["x"])[:, :1]}
