"""Sweep directories written by hand, so that readers are tested against the format."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

OBJECTIVE = "val.mse"
SWEEP = {
    "format": 1,
    "system": "trainables.toy:Toy",
    "created": 1_700_000_000.0,
    "command": ["python", "-m", "ray_jobs.sweep", "trainables.toy:Toy"],
    "versions": {"torch": "2.13"},
    "settings": {
        "optimizer.lr": 5e-5,
        "optimizer.kind": "adamw",
        "loss.balancer.kind": "fixed",
        "loss.balancer.alpha": 6.0,
        "data.samples": 24,
        "loss.absolute.enabled": True,
        "train.steps": 40,
    },
    "origins": {"optimizer.lr": "default"},
    "space": {
        "name": "small",
        "domains": {
            "optimizer.lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
            "optimizer.kind": {"kind": "choice", "options": ["adamw", "adam", "sgd"]},
            "loss.balancer.kind": {"kind": "choice", "options": ["fixed", "gradnorm"]},
            "loss.balancer.alpha": {
                "kind": "uniform",
                "low": 2.0,
                "high": 10.0,
                "when": {"loss.balancer.kind": ["gradnorm"]},
            },
        },
    },
    "points": [
        {
            "name": "document",
            "settings": {"optimizer.kind": "adamw", "loss.absolute.enabled": False},
            "outside": [],
        },
        {"name": "before", "settings": {"optimizer.lr": 1.0}, "outside": ["optimizer.lr"]},
    ],
    "objective": {"metric": OBJECTIVE, "mode": "min"},
    "metrics": {
        OBJECTIVE: {"unit": "", "mode": "min", "help": "mean squared error without noise"},
        "val.snr_db": {"unit": "dB", "mode": "max", "help": "signal-to-noise ratio"},
        "val.diagnostic": {"unit": "", "mode": None, "help": "no direction"},
    },
    "terms": ["squared", "absolute"],
    "seed": 0,
    "trials": 20,
    "sampler": "tpe",
    "scheduler": {"name": "asha"},
    "resources": {"workers": 2, "cpus": 1.0, "gpus": 0.5, "max_concurrent": 2},
}


class Directory:
    """A sweep directory under construction; every method writes what a sweep would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "reports").mkdir(parents=True)
        self.document = json.loads(json.dumps(SWEEP))
        self.write_document()
        self.time = 1_700_000_000.0
        self.event("started", session="a", host="h", pid=1)

    def write_document(self, **changes) -> None:
        self.document.update(changes)
        (self.path / "sweep.json").write_text(json.dumps(self.document))

    def event(self, name: str, **fields) -> None:
        self.time += 1.0
        self.append_log(json.dumps({"time": self.time, "event": name, **fields}) + "\n")

    def append_log(self, text: str) -> None:
        with open(self.path / "log.jsonl", "a") as file:
            file.write(text)

    def hand_out(self, trial: int, segment: int = 0, **fields) -> None:
        defaults = {
            "point": None,
            "outside": [],
            "sampled": {"optimizer.lr": 1e-4 * (trial + 1), "loss.balancer.kind": "fixed"},
            "seed": 100 + trial,
            "start": None,
            "start_step": 0,
            "stop_step": 40,
            "notes": [],
        }
        self.event("handed_out", trial=trial, segment=segment, **{**defaults, **fields})

    def end(self, trial: int, segment: int = 0, state: str = "complete", **fields) -> None:
        defaults = {"step": 40, "value": None, "reason": "", "seconds": 2.0}
        fields = {**defaults, **fields}
        self.event("ended", trial=trial, segment=segment, state=state, **fields)

    def report(
        self, trial: int, step: int, value: float | None, segment: int = 0, **extra
    ) -> None:
        row = {
            "step": step,
            "segment": segment,
            "seconds": step / 10,
            OBJECTIVE: value,
            "val.snr_db": None if value is None else 30 - value,
            "val.diagnostic": 6.0,
        }
        for index, term in enumerate(("squared", "absolute")):
            row[f"train.loss.{term}"] = 1.0 / (step + 1 + index)
            row[f"train.loss.{term}.weight"] = 1.0
            row[f"train.loss.{term}.share"] = 0.5
        self.append_report(trial, json.dumps({**row, **extra}) + "\n")

    def append_report(self, trial: int, text: str) -> None:
        with open(self.path / "reports" / f"{trial:04d}.jsonl", "a") as file:
            file.write(text)

    def trial(self, trial: int, values, state: str = "complete", **fields) -> None:
        """One segment with a report every ten steps, and its end."""
        self.hand_out(trial, **fields)
        for index, value in enumerate(values):
            self.report(trial, 10 * (index + 1), value)
        last = values[-1] if values else None
        self.end(trial, state=state, step=10 * len(values), value=last)

    def several(self, trial: int, error, snr, state: str = "complete", **fields) -> None:
        """One segment with a report of two objectives and a diagnostic, and its end."""
        diagnostic = fields.pop("diagnostic", 6.0)
        self.hand_out(trial, **fields)
        self.report(trial, 40, error, **{"val.snr_db": snr, "val.diagnostic": diagnostic})
        self.end(trial, state=state, value=error)

    def hold_lock(self, pid: int | None = None, host: str | None = None) -> None:
        holder = {
            "host": host or socket.gethostname(),
            "pid": os.getpid() if pid is None else pid,
            "since": 4e9,  # in the future: whoever lives now was there before
            "session": "a",
        }
        (self.path / "lock").write_text(json.dumps(holder))


@pytest.fixture
def make_sweep(tmp_path):
    """make_sweep(name="sweep") -> Directory."""

    def make(name: str = "sweep") -> Directory:
        return Directory(tmp_path / name)

    return make


@pytest.fixture
def sweep(make_sweep):
    return make_sweep()


@pytest.fixture
def finished(sweep):
    """A finished sweep with both documented points, a tie, a stopped and a failed trial."""
    sweep.trial(0, [0.9, 0.5], point="document", sampled={"optimizer.kind": "adamw"})
    sweep.trial(
        1, [0.8, 0.6], point="before", outside=["optimizer.lr"], sampled={"optimizer.lr": 1.0}
    )
    sweep.trial(2, [0.2, 0.4])
    balanced = {"optimizer.lr": 1e-3, "loss.balancer.kind": "gradnorm", "loss.balancer.alpha": 8.0}
    sweep.trial(3, [0.7, 0.4], sampled=balanced)
    sweep.trial(4, [0.1], state="stopped")
    sweep.trial(5, [], state="failed")
    sweep.event("finished")
    return sweep


@pytest.fixture
def double(sweep):
    """Error down, SNR up: a document, a front of 1, 2, 3 with its knee at 2, dominated ones."""
    objectives = [{"metric": OBJECTIVE, "mode": "min"}, {"metric": "val.snr_db", "mode": "max"}]
    sweep.write_document(objectives=objectives)
    sweep.several(0, 0.8, 21.0, point="document")
    sweep.several(1, 0.1, 20.0)
    sweep.several(2, 0.2, 29.0)
    sweep.several(3, 0.7, 30.0)
    sweep.several(4, 0.6, 28.0)
    sweep.several(5, 0.01, 99.0, state="stopped")
    return sweep
