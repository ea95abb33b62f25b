"""One rank of a training by several processes, for test_ddp.py: conftest.py runs this file in a
process of its own, with the dictionary `ASKED` among its globals.

The rank, the number of ranks and where they meet come from the environment, as torchrun sets it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from losses.composite import Composite
from losses.terms import Term
from settings.flat import replace
from trainables.loop import fit
from trainables.parts import Built, Loaders, Phase
from trainables.run import Budget, LocalRun, WorkerRun
from trainables.system import load_system
from trainables.toy import Line, Toy, ToyGan


@dataclass
class Rank(WorkerRun):
    """A rank that nobody decides about: only rank 0 writes."""

    tell = LocalRun.tell


class Flagged(Dataset):
    """The line with a flag in [0, 1); the flag of sample `bad` is negative in training."""

    def __init__(self, line, bad):
        self.line, self.bad = line, bad

    def __len__(self):
        return len(self.line)

    def __getitem__(self, key):
        index, seed = key if isinstance(key, tuple) else (key, None)
        flag = torch.rand(1, generator=torch.Generator().manual_seed(index))
        if seed is not None and index == self.bad:
            flag = -flag
        return {**self.line[key], "flag": flag}


def rooted(prediction, batch, settings):
    """A mean over the samples with a flag above 0.8, which a rank may have none of."""
    error = (prediction["y"].float() - batch["y"]).square()
    return ((batch["flag"] > 0.8) * error * batch["flag"]).sum() + 0.0 * batch["flag"].sqrt().sum()


def flagged(batch, settings):
    return (batch["flag"] > 0.8).sum()


class Rooted(Toy):
    """The toy with a term over few samples; the root of a negative flag is not a number."""

    name = "tests:Rooted"
    bad = -1

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return Loaders(Flagged(loaders.train, self.bad), Flagged(loaders.validation, -1))

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = {**phase.composite.terms, "absolute": Term(rooted, flagged)}
        return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]


class Heads(nn.Module):
    """A trunk with two heads, and both outputs in one forward."""

    def __init__(self):
        super().__init__()
        self.trunk, self.near, self.far = nn.Linear(1, 3), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x):
        hidden = torch.tanh(self.trunk(x))
        return {"y": self.near(hidden), "far": self.far(hidden)}


def far_error(prediction, batch, settings):
    return (prediction["far"].float() - batch["y"]).square().sum()


def predict_both(modules, batch, settings):
    return modules["model"](batch["x"])


class TwoHeads(Toy):
    """The toy whose second term alone reads the second head."""

    name = "tests:TwoHeads"

    def build(self, settings, prepared):
        return Built(modules={"model": Heads()})

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = dict(phase.composite.terms)
        terms["absolute"] = Term(far_error, terms["squared"].count)
        return [Phase("model", ("model",), predict_both, Composite(terms, settings.loss))]


class Drawn(Dataset):
    """The line, which says that a sample of it is drawn."""

    def __init__(self, line):
        self.line = line

    def __len__(self):
        return len(self.line)

    def __getitem__(self, key):
        print("a sample is drawn")
        return self.line[key]


class Scarce(Toy):
    """The toy with one sample to test, and one to validate where there is no test."""

    name = "tests:Scarce"

    def loaders(self, settings, prepared):
        one, two = (Line(settings.data, 2, count) for count in (1, 2))
        train = Drawn(super().loaders(settings, prepared).train)
        return Loaders(train, two if settings.train.test else one, test=one)


SYSTEMS = {
    "Toy": Toy,
    "ToyGan": ToyGan,
    "Rooted": Rooted,
    "TwoHeads": TwoHeads,
    "Scarce": Scarce,
}


def system_of(name):
    """One of `SYSTEMS`, one of a file of the tests ("/a/file.py:Attribute"), or the product's."""
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, attribute)()
    return SYSTEMS[name]() if name in SYSTEMS else load_system(name)


def main(job):
    torch.set_num_threads(1)
    system = system_of(job["system"])
    if "bad" in job:
        system.bad = job["bad"]
    tree = replace(system.Settings(), job["settings"])
    rank = int(os.environ.get("RANK", 0))
    run = Rank(Path(job["directory"]), rank=rank, resume=True, stop_step=job.get("stop"))
    if "ends" in job:
        run.budget = Budget(job["ends"][rank])
    prepared = system.prepare(tree, Path(job.get("cache", run.directory.parent / "cache")))
    report = fit(system, tree, run, prepared)
    result = Path(job["directory"]) / f"report-{rank}.json"
    result.write_text(json.dumps(dict(report)))


def speak_to(path):
    """All that the process says goes to a file."""
    with open(path, "wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


if __name__ == "__main__":
    asked = globals()["ASKED"]
    speak_to(asked["output"])
    os.environ.update(asked["environment"])
    code = 0
    try:
        main(json.loads(Path(asked["job"]).read_text()))
    except Exception:  # whatever ends a rank is printed, and the test reads it
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the threads of torch's process group may abort an ordinary exit
