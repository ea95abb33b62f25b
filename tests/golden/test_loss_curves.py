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

from settings.flat import replace
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system

HERE = Path(__file__).parent
WRITE = os.environ.get("WEIGHBRIDGE_WRITE_GOLDEN") == "1"
LEARNT = 0.7
"""Of the first value of the column that a system names: what the last one must be below."""

ELSEWHERE = 1e-4
"""Relative (and absolute) tolerance on another torch or CPU."""

EVERY = {"train.report_every": 4, "train.tensorboard": False}


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
    if column.endswith((".lr", ".skipped_steps", "_seconds")):
        return False
    return column.startswith(("train.", "val.loss.", "val.critic."))


def curve(described, directory, cache):
    """Column -> values, one a report."""
    system = load_system(described.NAME)
    settings = replace(system.Settings(), {**EVERY, **system.small, **described.CURVE})
    run = LocalRun(directory / "trial")
    fit(system, settings, run, system.prepare(settings, cache))
    columns = [column for column in run.history[-1] if is_kept(column)]
    return {column: [report[column] for report in run.history] for column in columns}


def stored_at(described):
    return HERE / f"{Path(described.__file__).stem}.txt"


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


def test_the_curve_is_the_stored_one(described, tmp_path, shared_cache, one_thread):
    path = stored_at(described)
    measured = curve(described, tmp_path, shared_cache)
    if WRITE:
        write(path, measured)
    where, stored = read(path)
    first, *_, last = stored[described.LEARNS]
    assert last < LEARNT * first, f"{described.LEARNS}: a curve that does not fall guards nothing"
    assert measured.keys() == stored.keys()
    if where == machine():
        assert measured == stored
        return
    for column, numbers in stored.items():
        for now, then in zip(measured[column], numbers, strict=True):
            if then is None:
                assert now is None, column
            else:
                assert now == pytest.approx(then, rel=ELSEWHERE, abs=ELSEWHERE), column
