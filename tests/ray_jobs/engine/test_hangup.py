"""A terminal that is closed says so twice: by the kernel, and by the shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLOSED = """
import os, signal
from types import SimpleNamespace
from ray_jobs.engine.execute import _stop_on_signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)
driver = SimpleNamespace(stopping="")
with _stop_on_signals(driver):
    os.kill(os.getpid(), signal.{first})
os.kill(os.getpid(), signal.SIGHUP)
print("says how to go on after", driver.stopping)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "is_heard_out"), [("SIGHUP", True), ("SIGTERM", False)])
def test_the_second_hangup_does_not_cut_the_last_words(first, is_heard_out):
    """Of a sweep that the first has stopped; any other is hung up as every process is."""
    command = [sys.executable, "-c", CLOSED.format(first=first)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (ran.stdout, ran.returncode)
    assert said == (("says how to go on after SIGHUP\n", 0) if is_heard_out else ("", -1))
