"""How a command ends: what it leaves behind and what it says, when its reader, its terminal or the
patience of its user is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

# Refused at the worst moment: Ray is starting still, and has started what does not end with it.
LATE = """
import time
import psutil
from trainables.toy import Toy

class Late(Toy):
    name = "late:Late"

    def prepare(self, settings, cache):
        def commands():
            return [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
        while not any("runtime_env/agent" in c or "RuntimeEnvAgent" in c for c in commands()):
            time.sleep(0.02)
        raise ValueError("the data is not there")
"""

# A command whose cluster has a process that hangs, with a child that ends with nobody.
HANGING = """
import os, signal, subprocess, time
import psutil
import ray
from ray_jobs.engine.cluster import connect
from ray_jobs.verb import PROJECT, finish

@ray.remote
class Hanging:
    def pid(self):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        return os.getpid()

    def hang(self):
        os.kill(os.getpid(), signal.SIGSTOP)

connect("local", PROJECT)
actor = Hanging.remote()
process = psutil.Process(ray.get(actor.pid.remote()))
actor.hang.remote()
while process.status() != psutil.STATUS_STOPPED:
    time.sleep(0.02)
finish(0)
"""

SLOW = ("data.delay_seconds=0.02", "train.tensorboard=false")


@pytest.fixture
def start(place, kit):
    """Starts a sweep of some seconds, by a command that may have something before it."""

    def make(directory, *before, trials=3):
        options = kit.sequential_options(place, directory, trials)
        command = [*before, sys.executable, "-m", "ray_jobs.sweep", kit.TOY, *options, *SLOW]
        return place.popen([str(part) for part in command])

    return make


@pytest.mark.last
class TestLeftBehind:
    def test_what_hangs_ends_with_its_cluster(self, place, kit):
        ran = place.finish(place.popen([sys.executable, "-c", HANGING]))
        assert ran.status == 0, ran.text
        place.check_nothing_is_left()

    @pytest.mark.parametrize("refused", ["while the cluster starts", "by the cluster"])
    def test_a_refused_sweep_leaves_no_process(self, place, kit, refused):
        if refused == "by the cluster":
            options = (kit.TOY, "--space", place.space(), "--cpus", 100_000)
            expected = "a trial needs 1 x (100000 CPU)"
        else:
            (place / "late.py").write_text(LATE)
            place.environment = {"PYTHONPATH": str(place.path)}
            options = ("late:Late", "--space", place.space())
            expected = "the data is not there"
        ran = place.run(*options, "--dir", place / "sweep")
        assert ran.status == 2, ran.text
        assert expected in ran.err
        assert "Traceback" not in ran.text, ran.text
        place.check_nothing_is_left()


class TestHangup:
    def test_a_sweep_goes_on_without_reader_and_terminal(self, place, kit, start):
        """`nohup ... | head -1`, and then the terminal is closed."""
        directory = place / "sweep"
        running = start(directory, "nohup")
        assert "sweep directory" in running.stdout.readline()
        running.stdout.close()
        kit.until(lambda: kit.events(directory, "ended"))
        os.killpg(running.pid, signal.SIGHUP)
        assert running.wait() == 0, running.stderr.read()
        assert "Traceback" not in running.stderr.read()
        assert [event["event"] for event in kit.events(directory)][-1] == "finished"
        kit.check_each_once(directory, 3)

    def test_a_closed_terminal_stops_a_sweep_cleanly(self, place, kit, start):
        """The kernel and the shell both say so, to every process of the terminal.

        Under `nohup`, as the tests themselves may run, it would be ignored.
        """
        directory = place / "sweep"
        running = start(directory, "env", "--default-signal=HUP", trials=40)
        kit.until(lambda: len(kit.events(directory, "handed_out")) == 2)  # one ended, one runs
        os.killpg(running.pid, signal.SIGHUP)
        time.sleep(0.2)
        os.killpg(running.pid, signal.SIGHUP)
        ran = place.finish(running)
        assert ran.status == 130, ran.text
        assert "stopped (SIGHUP)" in ran.out
        assert f"--resume {directory}" in ran.out
        assert "Traceback" not in ran.text, ran.text
        assert not (directory / "lock").exists()
        assert kit.events(directory, "ended")[-1]["state"] == "interrupted"
        place.check_nothing_is_left()


class TestStopped:
    def test_a_second_ctrl_c_says_how_to_go_on(self, place, kit, start):
        directory = place / "sweep"
        running = start(directory, trials=40)
        kit.until(lambda: kit.events(directory, "ended"))
        os.kill(running.pid, signal.SIGINT)
        time.sleep(0.2)
        os.kill(running.pid, signal.SIGINT)
        ran = place.finish(running)
        assert ran.status == 130, ran.text
        assert f"python -m ray_jobs.sweep --resume {directory}" in ran.out
        assert "interrupted" in ran.err
        assert "Traceback" not in ran.text, ran.text
        assert not (directory / "lock").exists()
        place.check_nothing_is_left()
