"""Short loss curves against stored ones: a change of numbers is noticed, and has to be meant.

Equal to the last bit where torch and the CPU's vector instructions are those of the stored curve,
to 1e-4 elsewhere. After a change that is meant:
`WEIGHBRIDGE_WRITE_GOLDEN=1 pytest tests/golden`, and say in the commit why they changed.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from benchmarks.tiny import TINY
from settings.flat import replace
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system

HERE = Path(__file__).parent
WRITE = os.environ.get("WEIGHBRIDGE_WRITE_GOLDEN") == "1"
ELSEWHERE = 1e-4
"""Relative (and absolute) tolerance on another torch or CPU."""

EVERY = {"train.report_every": 4, "train.tensorboard": False}
CURVES = {
    "toy": ("trainables.toy:Toy", {"train.steps": 60, "model.dropout": 0.1}),
    "toy_gan": (
        "trainables.toy:ToyGan",
        {"train.steps": 60, "train.ema_decay": 0.9, "train.accumulate": 2, "optimizer.lr": 0.1},
    ),
    "hdr_patch": (
        "hdr_patch",
        {
            **TINY["hdr_patch"],
            "train.steps": 24,
            "hdr.prefill": "zero",
            "hdr.cap.mode": "learnable",
            "hdr.cap.scale_init": 12.0,
            "optimizer.lr": 5e-3,
            "loss.wasserstein.enabled": True,
            "loss.range.enabled": True,
        },
    ),
    "conditioner": (
        "conditioner",
        {
            **TINY["conditioner"],
            "train.steps": 24,
            "model.dropout": 0.1,
            "vae.hier_size": 2,
            "vae.steps": 10,
            "loss.balancer.kind": "gradnorm",
            "loss.decoded.enabled": True,
            "loss.consistency.enabled": True,
            "loss.spectral.enabled": True,
        },
    ),
    "compression": (
        "compression",
        {
            **TINY["compression"],
            "train.steps": 24,
            "train.batch_size": 4,
            "optimizer.lr": 5e-3,
            "loss.l1.regional.enabled": True,
            "batch_augment.enabled": True,
        },
    ),
}


LEARNS = {
    "hdr_patch": "val.loss.log",
    "conditioner": "train.loss.main_mse",
    "compression": "val.loss.l1",
}
"""A column that falls by nature of the training."""


def machine():
    """What the last bit depends on."""
    capability = torch.backends.cpu.get_cpu_capability()
    version = torch.__version__.split("+")[0]
    return f"torch {version}, {platform.machine()}, {capability}, {processor()}"


def processor():
    """The model of the CPU as Linux names it: oneDNN chooses its kernels by it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    wanted = ("model name", "cpu family", "model", "stepping")
    parts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in parts.items()}
    return " ".join(found.get(key, "unknown") for key in wanted)


def is_kept(column):
    """Loss terms of training and validation, and the gradient norm; the rest is settings."""
    if column.endswith((".weight", ".share", ".total")):
        return False
    if column.endswith((".lr", ".skipped_steps")):
        return False
    return column.startswith(("train.", "val.loss.", "val.critic."))


def curve(name, directory):
    """Column -> values, one a report."""
    system_name, changes = CURVES[name]
    system = load_system(system_name)
    settings = replace(system.Settings(), {**EVERY, **changes})
    run = LocalRun(directory / "trial")
    fit(system, settings, run, system.prepare(settings, directory / "cache"))
    columns = [column for column in run.history[-1] if is_kept(column)]
    return {column: [report[column] for report in run.history] for column in columns}


def write(path, values):
    lines = [f"# {machine()}; every {EVERY['train.report_every']} steps"]
    for column, numbers in values.items():
        lines.append(" ".join([column, *(repr(number) for number in numbers)]))
    path.write_text("\n".join(lines) + "\n")


def read(path):
    """(machine, curve) as `write` left them."""
    head, *lines = path.read_text().splitlines()
    rows = [line.split() for line in lines]
    values = {
        column: [None if number == "None" else float(number) for number in numbers]
        for column, *numbers in rows
    }
    return head.removeprefix("# ").partition(";")[0], values


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_the_stored_one(name, tmp_path, one_thread):
    path = HERE / f"{name}.txt"
    found = curve(name, tmp_path)
    if WRITE:
        write(path, found)
    where, stored = read(path)
    assert found.keys() == stored.keys()
    if where == machine():
        assert found == stored
        return
    for column, numbers in stored.items():
        for now, then in zip(found[column], numbers, strict=True):
            if then is None:
                assert now is None, column
            else:
                assert now == pytest.approx(then, rel=ELSEWHERE, abs=ELSEWHERE), column


@pytest.mark.parametrize("name", CURVES)
def test_the_stored_curve_learns(name):
    """A curve that does not fall would guard nothing."""
    _, stored = read(HERE / f"{name}.txt")
    column = LEARNS.get(name, "val.loss.squared")
    assert stored[column][-1] < 0.7 * stored[column][0]
