"""Toys that generate: from seeds, from seeds and inputs, and from inputs alone."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import torch

from models.draws import draw_normal
from settings.schema import Settings, setting
from trainables import toy
from trainables.api import Generates


@dataclass(frozen=True, kw_only=True)
class Solver(Settings):
    kind: str = setting("euler", "of the ODE", choices=("euler", "heun"))
    die_at: int = setting(-1, "sample at which the process is killed; -1 for none", low=-1)
    fail_at: int = setting(-1, "sample that cannot be drawn; -1 for none", low=-1)
    wait_seconds: float = setting(0.0, "before the first sample of rank 0", low=0.0, high=60.0)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    steps: int = setting(4, "of the solver", low=1, high=100)
    guidance: float = setting(1.0, "of the inputs", low=0.0, high=10.0)
    solver: Solver = Solver()


class Drawn(toy.Toy):
    """x of a normal distribution, moved along the model's y; written as <index>.npy."""

    name = "generate_toy:Drawn"
    generates = Generates("a text file of numbers", False, True, 4, Options)

    def generate(self, settings, modules, request):
        options, solver = request.options, request.options.solver
        (request.target / f"{request.rank}.pid").write_text(str(os.getpid()))
        given = [0.0]
        if request.source is not None:
            given = [float(line) for line in request.source.read_text().split()]
        weight = torch.arange(64 * 64).reshape(64, 64).sin() / 8.0
        total = count = 0
        for indices, seeds in request.batches(len(given)):
            if request.rank == 0 and not count:
                time.sleep(solver.wait_seconds)
            if solver.die_at in indices:
                os.kill(os.getpid(), signal.SIGKILL)
            if solver.fail_at in indices:
                raise ValueError(f"sample {solver.fail_at} cannot be drawn")
            x = draw_normal(seeds, "x", (64,))
            own = torch.tensor([given[index // request.count] for index in indices])
            x = x + options.guidance * own[:, None]
            for _ in range(options.steps):
                x = x + modules["model"](x.reshape(-1, 1)).reshape(x.shape) @ weight / 100.0
            for index, sample in zip(indices, x, strict=True):
                np.save(request.target / f"{index}.npy", sample.numpy())
            total, count = total + float(x.mean(dim=1).sum()), count + len(x)
        return {"samples": count, "mean": (total, count), "empty": (0.0, 0)}


class Blind(Drawn):
    """It takes no inputs."""

    name = "generate_toy:Blind"
    generates = Generates("", draws=True)
