"""The holder of a lock and who wants it, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from results import lock
from results.holder import Holder

HOLDS = """
import sys, time
from pathlib import Path
now, ahead = time.time, float(sys.argv[2])
time.time = lambda: now() + ahead
from results import lock
from trainables.run import owner_check
lock.HEARTBEAT_SECONDS = 0.05
held = lock.take_lock(Path(sys.argv[1]))
still_owner = owner_check(Path(sys.argv[1]) / "lock", held.session)
print("held", flush=True)
for _ in sys.stdin:
    print(still_owner(), flush=True)
"""
"""Holds the lock by a clock that is some seconds ahead; for each line that it is sent it says
whether it still does."""

TAKES = """
import sys
from pathlib import Path
from results import lock
lock.WATCH_SECONDS, lock.LOOK_SECONDS = float(sys.argv[2]), 0.05
try:
    print("took it over from", lock.take_lock(Path(sys.argv[1])).stale)
except lock.LockHeldError as error:
    print("refused:", error)
"""

BOTH = """
import subprocess, sys
holds, takes, directory = sys.argv[1:]
first = subprocess.Popen(
    [sys.executable, "-c", holds, directory, "0"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
first.stdout.readline()
subprocess.run([sys.executable, "-c", takes, directory, "40"], check=True)
first.kill()
"""
"""Two processes of one namespace."""


@pytest.fixture
def hold(tmp_path):
    """hold(ahead=0.0) -> a process that holds the lock of tmp_path, by HOLDS."""
    started = []

    def start(ahead: float = 0.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(tmp_path), str(ahead)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=[("--mount-proc",), ()], ids=["own-proc", "proc-of-another-namespace"])
def elsewhere(request):
    """elsewhere(script, *arguments) -> what a script says in a process namespace of its own."""
    command = ["unshare", "-Urp", "--fork", *request.param]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    if tried.returncode:
        pytest.skip(f"process namespaces are not permitted: {tried.stderr.strip()}")

    def run(script: str, *arguments: object) -> str:
        whole = [*command, sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(whole, check=True, capture_output=True, text=True).stdout

    return run


def refuses_to_wait(message):
    raise AssertionError(f"it would wait: {message}")


class TestHereTheProcessDecides:
    @pytest.mark.parametrize("is_reaped", [True, False])
    def test_a_killed_one_has_lost_it_at_once(self, tmp_path, hold, is_reaped):
        """Also before its parent has asked how it ended: in a container nobody may ever ask."""
        process = hold()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
        assert not lock.is_held(tmp_path)
        taken = lock.take_lock(tmp_path, refuses_to_wait)
        assert taken.stale.startswith(f"process {process.pid} on ")

    @pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
    def test_a_living_one_keeps_it_when_the_clock_is_set(self, tmp_path, hold, ahead):
        """A stand-in for setting the machine's clock, which a test must not: the holder has
        another one than we.
        """
        hold(ahead)
        assert lock.is_held(tmp_path)
        with pytest.raises(lock.LockHeldError):
            lock.take_lock(tmp_path, refuses_to_wait)

    def test_a_stopped_one_keeps_it(self, tmp_path, hold):
        os.kill(hold().pid, signal.SIGSTOP)
        with pytest.raises(lock.LockHeldError):
            lock.take_lock(tmp_path, refuses_to_wait)

    def test_another_process_with_its_number_does_not_hold_it(self, tmp_path):
        own = Holder.own("before")
        (tmp_path / "lock").write_text(own.to_text())
        assert lock.is_held(tmp_path)
        (tmp_path / "lock").write_text(replace(own, start=own.start - 1).to_text())
        assert not lock.is_held(tmp_path)
        assert lock.take_lock(tmp_path, refuses_to_wait).stale == str(own)


class TestElsewhereTheHeartbeatDecides:
    @pytest.mark.slow
    def test_in_another_process_namespace_of_this_host(self, tmp_path, hold, elsewhere):
        process = hold()
        said = elsewhere(TAKES, tmp_path, 40)
        assert "cannot be looked up from here: waiting up to 40 s for its heartbeat" in said
        assert f"refused: {tmp_path} is being written by process {process.pid} on " in said
        process.kill()
        process.wait()
        assert f"took it over from process {process.pid} on " in elsewhere(TAKES, tmp_path, 0.5)

    def test_two_in_a_process_namespace(self, tmp_path, elsewhere, request):
        """Under the /proc of another namespace their numbers are other processes there."""
        said = elsewhere(BOTH, HOLDS, TAKES, tmp_path)
        assert "refused: " in said
        is_own = request.node.callspec.id == "own-proc"
        assert ("waiting" not in said) == is_own

    @pytest.mark.slow
    def test_a_stopped_one_loses_it_and_finds_out(self, tmp_path, hold, elsewhere):
        process = hold()
        os.kill(process.pid, signal.SIGSTOP)
        assert "took it over" in elsewhere(TAKES, tmp_path, 0.5)
        taken = (tmp_path / "lock").read_text()
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate("still?\n")[0] == "False\n"
        assert (tmp_path / "lock").read_text() == taken, "its heartbeat is not for this lock"
