"""Commands whose reader goes away: `| head`, and a terminal that is closed."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from ray_jobs.verb import lasting_output

TOY = "trainables.toy:Toy"


def start(verb, *arguments, **streams):
    command = [sys.executable, "-u", "-m", f"ray_jobs.{verb}", *map(str, arguments)]
    return subprocess.Popen(command, text=True, **streams)


def read_one_line(process):
    """What `head -1` does: it reads a line and is gone."""
    line = process.stdout.readline()
    process.stdout.close()
    return line


@pytest.fixture
def sweep_directory(tmp_path):
    document = {"format": 1, "system": TOY, "settings": {"optimizer.lr": 0.1}, "trials": 40}
    objective = {"metric": "val.mse", "mode": "min"}
    (tmp_path / "sweep.json").write_text(json.dumps({**document, "objective": objective}))
    (tmp_path / "reports").mkdir()
    events = [{"time": 1.0, "event": "started"}]
    for trial in range(40):
        common = {"time": 2.0, "trial": trial, "segment": 0}
        end = {"event": "ended", "state": "complete", "step": 5, "value": 1.0, "seconds": 1.0}
        begin = {"event": "handed_out", "sampled": {}, "seed": trial}
        events += [{**common, **begin}, {**common, **end}]
        row = {"step": 5, "segment": 0, "seconds": 1.0, "val.mse": 1.0}
        (tmp_path / f"reports/{trial:04d}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return tmp_path


@pytest.mark.slow
def test_analyze_into_head_ends_quietly_and_writes_its_files(sweep_directory):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start("analyze", sweep_directory, "--top", 40, **pipes)
    assert read_one_line(process).startswith("rank")
    assert (process.wait(), process.stderr.read()) == (0, "")
    assert (sweep_directory / "analysis/trials.parquet").exists()
    assert (sweep_directory / "analysis/index.html").exists()


@pytest.mark.slow
def test_a_training_goes_on_when_nobody_reads(tmp_path):
    directory = tmp_path / "run"
    given = (TOY, "train.report_every=1", "train.steps=12", "--no-ray", "--dir", directory)
    process = start("train", *given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "val.mse" in read_one_line(process)
    assert (process.wait(), process.stderr.read()) == (0, "")
    assert len((directory / "reports.jsonl").read_text().splitlines()) == 12


def test_a_terminal_that_is_closed_is_no_error():
    """Writing to it fails with EIO; both streams are lost at once."""
    code = """
import os, sys
from ray_jobs.verb import lasting_output
with lasting_output():
    print("before", flush=True)
    sys.stdin.readline()
    print("after", flush=True)
    print("after", file=sys.stderr, flush=True)
    os.write(int(sys.argv[1]), b"went on")
"""
    terminal, inside = os.openpty()
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(write)],
        stdin=subprocess.PIPE,
        stdout=inside,
        stderr=inside,
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(inside)
    os.close(write)
    assert os.read(terminal, 100).startswith(b"before")
    os.close(terminal)
    process.communicate(b"\n")
    assert os.read(read, 100) == b"went on"
    os.close(read)
    assert process.returncode == 0


def test_another_error_of_a_stream_stays_one(monkeypatch):
    """A full disk behind `> file` is not a reader that has gone."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(sys, "stdout", Full())
    with lasting_output(), pytest.raises(OSError, match="no space left"):
        print("lost")
