"""`make test-versions` with stand-ins for the interpreters and for the targets that it runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("versions.sh")

TARGETS = """
setup:
\t@test $(VENV) != .venv-3.12
test-fast:
\t@test $(VENV) != .venv-3.13
\t@echo "===== 7 passed in 1.2s ====="
sweep:
\t@echo "Sweep finished: 4 complete."
"""


@pytest.fixture
def run(tmp_path):
    """Versions -> what the script does where 3.10 is on the PATH behind a shim that leads nowhere,
    3.12 and 3.13 are pyenv's, and 3.11 is nowhere.
    """
    places = {
        "path/python3.10": "echo /opt/python3.10",
        "path/python3.13": "echo 'pyenv: python3.13: command not found' >&2; exit 127",
        "pyenv/versions/3.12.1/bin/python3.12": "echo /opt/python3.12",
        "pyenv/versions/3.13.0/bin/python3.13": "echo /opt/python3.13",
    }
    for name, line in places.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "Makefile").write_text(TARGETS)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        "PATH": f"{tmp_path / 'path'}:/usr/bin:/bin",
        "PYENV_ROOT": str(tmp_path / "pyenv"),
    }

    def run(*versions):
        return subprocess.run(
            [str(SCRIPT), *versions],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_every_version_has_its_line(run):
    ran = run("3.9999", "3.10", "3.12", "3.13")
    assert ran.stdout.splitlines() == [
        "3.9999  not installed",
        "3.10  passed: 7 passed in 1.2s Sweep finished: 4 complete.",
        "3.12  FAILED: .venv-3.12.log",
        "3.13  FAILED: .venv-3.13.log",
    ]
    assert ran.returncode == 1, ran.stderr


def test_what_is_not_installed_is_no_failure(run):
    assert run("3.9999", "3.10").returncode == 0


def test_none_at_all_is_a_failure(run):
    ran = run("3.9999")
    assert ran.returncode == 1 and ran.stdout.endswith("None of these is installed: 3.9999\n")
