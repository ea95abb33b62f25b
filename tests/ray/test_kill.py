"""SIGKILL at any moment: nothing is lost, nothing is done twice, and the result is the same."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal

import pandas as pd
import psutil
import pytest

from results.frame import load_sweep

SLOW = ("train.tensorboard=false", "data.delay_seconds=0.01")
SLOWER = ("train.tensorboard=false", "data.delay_seconds=0.02")


def steps_reported(directory):
    """Reports in all files: a clock that only training moves."""
    files = (directory / "reports").glob("*.jsonl") if directory.exists() else ()
    return sum(file.read_bytes().count(b"\n") for file in files)


def tear(file):
    """Half of the last line is on disk."""
    data = file.read_bytes()
    last = data[data[:-1].rfind(b"\n") + 1 :]
    file.write_bytes(data[: len(data) - len(last) // 2])


def trial_process(place):
    """The process that trains, as Ray names it."""
    named = [p for p in place.survivors() if "ImplicitFunc.train" in " ".join(p.cmdline())]
    return named[0] if named else None


def kill_trial(place, kit):
    victim = kit.until(lambda: trial_process(place))
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(30)


def reasons(kit, directory):
    """Why each segment that has ended did."""
    return [event.get("reason") for event in kit.events(directory, "ended")]


def resumed(cluster, directory, *more):
    options = ("--max-concurrent", 1, "--address", cluster.address, *more)
    return cluster.place.run("--resume", directory, *options)


@pytest.fixture(scope="module")
def killed(shared_place, kit, brackets):
    """A sweep with the default scheduler whose driver and cluster died at about 40 %."""
    place, directory = shared_place, shared_place / "killed"
    whole = steps_reported(brackets.directory)
    options = kit.bracket_options(place, directory)
    running = place.start(kit.TOY, *options, "data.delay_seconds=0.01")
    kit.until(lambda: steps_reported(directory) >= 0.4 * whole)
    kit.kill_group(running)
    kit.until(lambda: not place.survivors())
    assert "paused" in {event.get("state") for event in kit.events(directory)}
    assert steps_reported(directory) < 0.7 * whole, "it was killed too late"
    return directory


def starts_ray(driver):
    """Whether a driver has begun to start its cluster."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(driver.pid).children()
        return any("gcs_server" in " ".join(child.cmdline()) for child in children)
    return False


@pytest.fixture(scope="module")
def cluster(kit):
    """For sweeps that go on after their own cluster has died."""
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


class TestGoesOn:
    def test_killed_three_times(self, place, cluster, kit, sequential):
        """Driver and cluster die at about 40 %, and while they start; after some more reports the
        driver alone, on a cluster that outlives it.
        """
        directory, whole = place / "sweep", steps_reported(sequential.directory)
        resume = ["--resume", directory, "--max-concurrent", 1]
        on_another = [*resume, "--address", cluster.address]
        lives = (
            (
                [kit.TOY, *kit.sequential_options(place, directory), *SLOW],
                lambda driver: steps_reported(directory) >= 0.4 * whole,
            ),
            (resume, starts_ray),
            (on_another, lambda driver: steps_reported(directory) >= 0.6 * whole),
        )
        for arguments, moment in lives:
            where = cluster.place if arguments is on_another else place
            running = where.start(*arguments)
            kit.until(lambda moment=moment, driver=running: moment(driver))
            assert running.poll() is None, "it was done before it was killed: make it slower"
            kit.kill_group(running)
            assert (directory / "lock").exists()  # it had no time to give it back
        kit.until(lambda: not place.survivors() and trial_process(cluster.place) is None)
        ran = cluster.place.run(*on_another)
        assert ran.status == 0, ran.text
        assert "took over the lock of process" in ran.err
        assert "was torn by a crash" not in ran.err, "what a killed process wrote is whole"
        assert not list(directory.glob("trials/*/checkpoints/removed.json"))
        kit.check_each_once(directory, 8)
        kit.check_equal(directory, sequential.directory)

    def test_with_the_default_scheduler(self, killed, cluster, kit, brackets):
        """Trials wait at rungs, and half of the last writes is on disk; where they are whole, see
        `test_killed_three_times` and `test_a_signal_is_written_down_before_anything_ends`.
        """
        directory = cluster.place / "killed"
        shutil.copytree(killed, directory, ignore=shutil.ignore_patterns("tune"))
        reports = (directory / "reports").glob("*.jsonl")
        tear(directory / "log.jsonl")
        tear(max(reports, key=lambda file: file.stat().st_mtime))
        fewer = ("--keep-checkpoints", "rungs", "train.checkpoint_every=3")
        ran = resumed(cluster, directory, *fewer)
        assert ran.status == 0, ran.text
        assert "was torn by a crash and is dropped" in ran.err
        assert list(directory.glob("trials/*/checkpoints/removed.json"))
        kit.check_each_once(directory, 22, report_every=2)
        kit.check_equal(directory, brackets.directory)
        assert kit.decided(directory) == kit.decided(brackets.directory)

    @pytest.mark.parametrize("scheduler", ["sequential", "brackets"])
    def test_after_torn_last_lines(self, cluster, kit, request, scheduler):
        """A crash of the machine: of the last segment the log has no more than that it began and
        half a line, and of its last report there is half.

        Its checkpoint is at its end: there is nothing to train when it goes on, and it must not be
        handed out for ever, nor count as failed; what it reported at rungs must be heard.
        """
        undisturbed = request.getfixturevalue(scheduler).directory
        directory = cluster.place / f"torn-{scheduler}"
        shutil.copytree(undisturbed, directory, ignore=shutil.ignore_patterns("tune", "analysis"))
        log = directory / "log.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        names = [json.loads(line)["event"] for line in lines]
        begun = len(names) - 1 - names[::-1].index("handed_out")
        ended = json.loads(lines[begun])
        log.write_text("".join(lines[: begun + 2]))
        tear(log)
        tear(directory / f"reports/{ended['trial']:04d}.jsonl")  # its checkpoint is newer then
        ran = resumed(cluster, directory)
        assert ran.status == 0, ran.text
        assert f"the last line of {log} was torn by a crash and is dropped" in ran.err
        before = len(kit.events(undisturbed, "handed_out"))
        again = kit.events(directory, "handed_out")[before:]
        assert [event["trial"] for event in again] == [ended["trial"]]
        trials, every = {"sequential": (8, 5), "brackets": (22, 2)}[scheduler]
        kit.check_each_once(directory, trials, every)
        kit.check_equal(directory, undisturbed)
        assert kit.decided(directory) == kit.decided(undisturbed)

    def test_a_signal_is_written_down_before_anything_ends(self, place, cluster, kit, brackets):
        """Whoever sends SIGTERM (a queue, a node that goes) may kill a moment later: what the log
        says by then must be true, and enough to go on from. Trials wait at rungs meanwhile.
        """
        directory = place / "sweep"
        running = place.start(
            kit.TOY, *kit.bracket_options(place, directory), "data.delay_seconds=0.02"
        )
        kit.until(lambda: len(kit.events(directory, "ended")) >= 8)
        os.kill(running.pid, signal.SIGTERM)
        # not of the last event: a trial that ended by itself meanwhile may be written after it
        kit.until(lambda: "SIGTERM" in reasons(kit, directory) or running.poll() is not None)
        kit.kill_group(running)
        said = running.stdout.read()
        assert "stopped (SIGTERM)" not in said, "it had ended by itself: this shows nothing"
        assert "SIGTERM" in reasons(kit, directory), said
        found = load_sweep(directory)
        assert {"paused", "interrupted"} <= set(found["state"])
        ran = resumed(cluster, directory)
        assert ran.status == 0, ran.text
        kit.check_each_once(directory, 22, report_every=2)
        kit.check_equal(directory, brackets.directory)
        assert kit.decided(directory) == kit.decided(brackets.directory)


@pytest.mark.last
class TestTrialProcess:
    def test_killed(self, place, kit, sequential):
        """By the kernel for want of memory, say: the sweep goes on, and so does the trial as often
        as it may fail.
        """
        directory = place / "sweep"
        options = (*kit.sequential_options(place, directory, 4), "--max-failures", 1)
        running = place.start(kit.TOY, *options, *SLOWER)
        kit.until(lambda: (directory / "trials/0001/checkpoints/step-00000010").exists())
        kill_trial(place, kit)
        last = directory / "trials/0003/nodes/trial"
        for begun in ("0 ", "1 "):
            kit.until(lambda begun=begun: last.exists() and last.read_text().startswith(begun))
            kill_trial(place, kit)
        ran = place.finish(running)
        assert ran.status == 3, ran.text
        failures = [e for e in kit.events(directory, "ended") if e["state"] == "failed"]
        assert [e["trial"] for e in failures] == [1, 3, 3]
        assert all("was killed" in e["reason"] for e in failures)
        segments = [e["segment"] for e in kit.events(directory, "handed_out") if e["trial"] == 1]
        assert segments == [0, 1]
        rows = (directory / "reports/0001.jsonl").read_text().splitlines()
        assert json.loads(rows[0])["segment"] == 0  # not from the start again
        assert not (directory / "trials/0001/error.txt").exists()
        trials = load_sweep(directory)
        assert trials.loc[3, "state"] == "failed"
        assert trials.loc[3, "stop_reason"] == failures[-1]["reason"]
        pd.testing.assert_frame_equal(
            kit.reports(directory).query("trial < 3"),
            kit.reports(sequential.directory).query("trial < 3"),
        )
