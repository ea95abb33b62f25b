"""Small trainings of the toy systems, and toys with a fault or a mask."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from losses.composite import Composite
from losses.terms import Term
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.parts import Loaders, Phase
from trainables.run import LocalRun
from trainables.stepping.batches import Share, StepSampler
from trainables.toy import Line, Toy, ToyGan

SMALL = {"train.steps": 12, "train.report_every": 4, "train.tensorboard": False}


def make_settings(system, **changes):
    """The system's tree, shortened; "__" stands for a dot."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(system.Settings(), {**SMALL, **named})


@dataclass
class Trained:
    """What a training left behind."""

    report: dict
    history: list
    tensors: dict = field(repr=False)
    run: LocalRun = field(repr=False)


def train(system, directory, tree=None, *, objective=None, resume=False, stop=None, **changes):
    """A training in `directory` to its end, or to step `stop`."""
    tree = make_settings(system, **changes) if tree is None else tree
    run = LocalRun(directory, objective=objective, resume=resume, stop_step=stop)
    report = fit(system, tree, run, None)
    newest = checkpoint.available(directory / "checkpoints")[-1]
    return Trained(dict(report), run.history, checkpoint.load(newest, system.name).tensors, run)


def without_time(report):
    return {column: value for column, value in report.items() if column != "seconds"}


class MaskedLine(Dataset):
    """The line, with a mask of the sample's own that counts between none and all of 5 values."""

    def __init__(self, line):
        self.line = line

    def __len__(self):
        return len(self.line)

    def __getitem__(self, key):
        seed = key[1] if isinstance(key, tuple) else key
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(1, generator=generator)
        mask = (torch.rand(5, generator=generator) < 1.6 * share - 0.3).float()
        return {**self.line[key], "mask": mask}


def masked(prediction, batch, settings):
    return (batch["mask"] * (prediction["y"].float() - batch["y"]).square()).sum()


def in_mask(batch, settings):
    return batch["mask"].sum()


class Masked(Toy):
    """The toy whose second term is a mean over a mask, unevenly spread."""

    name = "tests:Masked"

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return Loaders(MaskedLine(loaders.train), MaskedLine(loaders.validation))

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = {**phase.composite.terms, "absolute": Term(masked, in_mask)}
        return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]


class FaultyLine(Line):
    """The line, whose sample `bad` has an infinite y in training."""

    bad = -1

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        if isinstance(key, tuple) and key[0] == self.bad:
            sample["y"] = torch.full_like(sample["y"], float("inf"))
        return sample


class Faulty(Toy):
    """The toy in which one sample of step `at` is not finite; it keeps its modules."""

    name = "tests:Faulty"
    at = 6

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        line = FaultyLine(settings.data, 1, settings.data.samples)
        share = Share(settings.train.batch_size, settings.train.accumulate)
        steps = StepSampler(len(line), share, settings.train.seed, self.at, self.at + 1)
        line.bad = next(iter(steps))[0][0]
        return Loaders(line, loaders.validation)

    def build(self, settings, prepared):
        built = super().build(settings, prepared)
        self.modules = built.modules
        return built


def cliff(prediction, batch, settings):
    """Zero, with the slope of a root at zero: 1/0 times 0."""
    y = prediction["y"].float()
    return (y - y.detach()).abs().sqrt().sum()


class Cliff(Toy):
    """The toy whose second term is finite and whose gradient is not."""

    name = "tests:Cliff"

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = dict(phase.composite.terms)
        terms["absolute"] = Term(cliff, terms["squared"].count)
        return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]

    def build(self, settings, prepared):
        built = super().build(settings, prepared)
        self.modules = built.modules
        self.before = {k: v.clone() for k, v in built.modules["model"].state_dict().items()}
        return built


class OnlySquared(Toy):
    """The toy without its second term."""

    name = "tests:OnlySquared"

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = {"squared": phase.composite.terms["squared"]}
        return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]


def tensorboard_values(directory):
    """Tag -> [(step, value)] of the TensorBoard files of a training: records of length, CRC,
    protobuf, CRC.
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted((directory / "tensorboard").iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += 12 + length + 4
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
        assert position == len(data), "the last record is cut"
    return found


@pytest.fixture(name="tensorboard_values")
def reader_of_tensorboard():
    return tensorboard_values


@pytest.fixture
def toys():
    """The systems and helpers above (a conftest cannot be imported under importlib mode)."""
    return SimpleNamespace(
        Toy=Toy,
        ToyGan=ToyGan,
        Masked=Masked,
        Faulty=Faulty,
        Cliff=Cliff,
        OnlySquared=OnlySquared,
        settings=make_settings,
        train=train,
        without_time=without_time,
    )


# Several processes

RANK = Path(__file__).with_name("ddp_rank.py")
RANK_LIMIT_SECONDS = 240
FORKS = multiprocessing.get_context("forkserver")
"""Ranks are forked from a process that has the libraries: importing them takes seconds. DDP
imports torch._dynamo.
"""
FORKS.set_forkserver_preload(
    ["trainables.loop", "trainables.compression.system", "monai.losses", "torch._dynamo"]
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(job, rank, world, port):
    """One rank as a process, which writes what it says to `output_of` the job."""
    environment = {
        "CUDA_VISIBLE_DEVICES": "",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    asked = {"job": str(job), "output": str(output_of(job, rank)), "environment": environment}
    # What it runs is found by its path: it cannot import a module of the tests.
    process = FORKS.Process(target=runpy.run_path, args=(str(RANK), {"ASKED": asked}, "__main__"))
    process.start()
    return process


def output_of(job, rank):
    return job.with_name(f"output-{rank}.txt")


def job_of(directory, system, settings, **more):
    directory.mkdir(exist_ok=True)
    base = {"train.steps": 8, "train.report_every": 4, "train.tensorboard": False}
    content = {"system": system, "directory": str(directory), "settings": {**base, **settings}}
    return {**content, **more}


def launch(directory, world, system, settings, **more):
    """Runs all ranks; (exit codes, outputs). A rank that waits for ever is a failure."""
    job = directory / "job.json"
    content = job_of(directory, system, settings, **more)
    job.write_text(json.dumps(content))
    port = free_port()
    ranks = [start(job, rank, world, port) for rank in range(world)]
    try:
        for rank in ranks:
            rank.join(RANK_LIMIT_SECONDS)
        codes = [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return codes, [output_of(job, rank).read_text() for rank in range(world)]


def trained_by_ranks(directory, world, system, settings, **more):
    """(report of every rank, tensors of the newest checkpoint). Nobody is started for a world of
    one: it is a training as any other.
    """
    if world == 1:
        runpy.run_path(str(RANK))["main"](job_of(directory, system, settings, **more))
    else:
        codes, outputs = launch(directory, world, system, settings, **more)
        assert codes == [0] * world, "\n".join(outputs)
    reports = [
        json.loads((directory / f"report-{rank}.json").read_text()) for rank in range(world)
    ]
    newest = checkpoint.available(directory / "checkpoints")[-1]
    name = checkpoint.read_meta(newest)["system"]
    return reports, checkpoint.load(newest, name).tensors


def same_however_cut(directory, system, settings, rel, **more):
    """4 samples a step, 2 ranks x 2, and 2 x 2 by one: all report what one with all of them does.
    fp32: how sums are rounded, and so the last digits, is the processor's.
    """
    cuts = {"one": (1, 4, 1), "two": (2, 2, 1), "accumulated": (1, 2, 2)}
    reports = {}
    for name, (world, batch, accumulate) in cuts.items():
        cut = {**settings, "train.batch_size": batch, "train.accumulate": accumulate}
        reports[name] = trained_by_ranks(directory / name, world, system, cut, **more)[0][0]
    for name in ("two", "accumulated"):
        for column, value in reports["one"].items():
            if "seconds" not in column and isinstance(value, float):
                near = pytest.approx(value, rel=rel, abs=1e-6)
                assert reports[name][column] == near, (name, column)


@pytest.fixture
def ranks(one_thread):
    """Trainings by several real processes (gloo), beside one that is alone."""
    return SimpleNamespace(
        launch=launch, trained=trained_by_ranks, same_however_cut=same_however_cut
    )
