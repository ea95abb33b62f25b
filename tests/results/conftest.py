"""Sweep directories written by hand, so that readers are tested against the format."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

OBJECTIVE = "val.hole_log_rmse"
SWEEP = {
    "format": 1,
    "system": "hdr_patch",
    "created": 1_700_000_000.0,
    "command": ["python", "-m", "ray_jobs.sweep", "hdr_patch"],
    "versions": {"torch": "2.13"},
    "settings": {
        "optimizer.lr": 5e-5,
        "hdr.prefill": "zero",
        "hdr.cap.mode": "absolute",
        "hdr.cap.scale_init": 6.0,
        "model.width": 24,
        "hdr.mask": True,
        "train.steps": 40,
    },
    "origins": {"optimizer.lr": "default"},
    "space": {
        "name": "caps",
        "domains": {
            "optimizer.lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
            "hdr.prefill": {"kind": "choice", "options": ["zero", "nearest", "push_pull"]},
            "hdr.cap.mode": {"kind": "choice", "options": ["absolute", "learnable"]},
            "hdr.cap.scale_init": {
                "kind": "uniform",
                "low": 2.0,
                "high": 16.0,
                "when": {"hdr.cap.mode": ["learnable"]},
            },
        },
    },
    "points": [
        {
            "name": "document",
            "settings": {"hdr.prefill": "zero", "hdr.mask": False},
            "outside": [],
        },
        {"name": "before", "settings": {"optimizer.lr": 1.0}, "outside": ["optimizer.lr"]},
    ],
    "objective": {"metric": OBJECTIVE, "mode": "min"},
    "metrics": {
        OBJECTIVE: {"unit": "", "mode": "min", "help": "log error in holes"},
        "val.hole_psnr_mu_db": {"unit": "dB", "mode": "max", "help": "PSNR in holes"},
        "val.cap_mean": {"unit": "", "mode": None, "help": "the cap's trajectory"},
    },
    "terms": ["log", "l1"],
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
            "sampled": {"optimizer.lr": 1e-4 * (trial + 1), "hdr.cap.mode": "absolute"},
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
            "val.hole_psnr_mu_db": None if value is None else 30 - value,
            "val.cap_mean": 6.0,
        }
        for index, term in enumerate(("log", "l1")):
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
    sweep.trial(0, [0.9, 0.5], point="document", sampled={"hdr.prefill": "zero"})
    sweep.trial(
        1, [0.8, 0.6], point="before", outside=["optimizer.lr"], sampled={"optimizer.lr": 1.0}
    )
    sweep.trial(2, [0.2, 0.4])
    learnable = {"optimizer.lr": 1e-3, "hdr.cap.mode": "learnable", "hdr.cap.scale_init": 8.0}
    sweep.trial(3, [0.7, 0.4], sampled=learnable)
    sweep.trial(4, [0.1], state="stopped")
    sweep.trial(5, [], state="failed")
    sweep.event("finished")
    return sweep
