"""The verb `check`, and the system that CONTRIBUTING.md shows: what it says is what runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs import check

ROOT = Path(__file__).resolve().parents[2]


def block(language, first):
    """The fenced block of CONTRIBUTING.md whose first line begins so."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.search(rf"```{language}\n({re.escape(first)}.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the module and the space that CONTRIBUTING.md shows."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_module.py").write_text(block("python", '"""my_module.py'))
    (folder / "my_space.yaml").write_text(block("yaml", "# my_space.yaml"))
    return folder


def run(folder, *line):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    return subprocess.run(
        [sys.executable, "-m", *line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_system_of_the_guide_is_sound_trains_and_can_be_swept(outside):
    checked = run(outside, "ray_jobs.check", "my_module:MySystem")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "my_module:MySystem: no faults" in checked.stdout
    short = ("train.steps=4", "train.report_every=2", "--no-ray", "--dir", "runs/first")
    trained = run(outside, "ray_jobs.train", "my_module:MySystem", *short)
    assert trained.returncode == 0, trained.stderr
    space = ("--space", "my_space.yaml", "--trials", "8", "--plan")
    planned = run(outside, "ray_jobs.sweep", "my_module:MySystem", *space)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.slow
def test_a_fault_is_a_line_and_status_1(outside):
    sound = (outside / "my_module.py").read_text()
    faulty = sound.replace('- batch["y"]).abs().sum()', '- batch["y"]).abs().mean()')
    assert faulty != sound
    (outside / "my_faulty_module.py").write_text(faulty.replace("my_module:", "my_faulty_module:"))
    checked = run(outside, "ray_jobs.check", "my_faulty_module:MySystem", "--quiet")
    assert checked.returncode == 1, checked.stdout + checked.stderr
    first, *others = checked.stdout.splitlines()
    assert first.startswith("fault: term absolute: it returns a sum")
    assert all(line.startswith("fault: column val.loss.absolute") for line in others)


def test_settings_come_from_the_command_line_and_are_checked(capsys):
    assert check.main(["trainables.toy:Toy", "data.samples=0"]) == 2
    assert "data.samples" in capsys.readouterr().err
    assert check.main(["trainables.toy:Nothing"]) == 2
    assert check.main(["trainables.toy:Toy", "model.explode=1", "--quiet"]) == 1
    assert "the settings looked at are trainable" in capsys.readouterr().out
