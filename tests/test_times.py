"""The table of `make test-times`, from a run of pytest over tests of known length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TIMES = Path(__file__).with_name("times.py")

FILES = {
    "tests/test_top.py": "def test_short(): pass",
    "tests/data/test_one.py": """
import time
def test_wait(): time.sleep(0.3)
def test_short(): pass
""",
    "tests/data/mri/test_two.py": """
import time, pytest
@pytest.fixture
def slowly(): time.sleep(0.4)
@pytest.mark.parametrize("n", [1, 2])
def test_fixture(slowly, n): assert n == 1
""",
}


def run(directory, *arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where pytest has left fast.xml, with a failure, and slow.xml, without one."""
    root = tmp_path_factory.mktemp("times")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for tier, part in (("fast", "tests"), ("slow", "tests/data/test_one.py")):
        plain = ("--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        run(root, "-m", "pytest", "-q", *plain, f"--junitxml={tier}.xml", part)
    return root


def rows(text):
    """(tier, folder) -> (tests, seconds, longest, test)"""
    cells = (line.split() for line in text.splitlines()[1:] if line.startswith(("fast", "slow")))
    return {
        (tier, folder): (int(tests), float(seconds), float(longest), test)
        for tier, folder, tests, seconds, longest, test in cells
    }


def test_folders_have_the_sum_and_the_longest_of_their_tests(directory):
    table = rows(run(directory, TIMES, "fast.xml", "slow.xml").stdout)
    tests, seconds, longest, test = table["fast", "tests/data"]
    assert tests == 4 and seconds >= 2 * 0.4 + 0.3 - 0.1
    assert longest >= 0.4 and test.startswith("test_two::test_fixture")
    assert table["slow", "tests/data"][3] == "test_one::test_wait"
    assert list(table) == [
        ("fast", "tests/data"),
        ("fast", "tests"),
        ("fast", "all"),
        ("slow", "tests/data"),
        ("slow", "all"),
    ]
    for column in (0, 1):
        folders = [table["fast", name][column] for name in ("tests/data", "tests")]
        assert table["fast", "all"][column] == pytest.approx(sum(folders), abs=0.11)


def test_a_failure_is_said_and_fails(directory):
    ran = run(directory, TIMES, "fast.xml", "slow.xml")
    assert ran.returncode == 1 and ran.stdout.endswith("1 of them failed.\n")
    assert run(directory, TIMES, "slow.xml").returncode == 0
