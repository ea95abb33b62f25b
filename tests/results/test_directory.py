from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from results.directory import read_history, read_sweep
from results.lock import QUIET_SECONDS, is_held
from results.store import SweepError


def states(directory) -> dict[int, str]:
    return {t.number: t.status for t in read_history(read_sweep(directory.path)).trials}


def test_a_directory_that_is_no_sweep_is_named(tmp_path):
    with pytest.raises(SweepError, match=r"no sweep\.json"):
        read_sweep(tmp_path)
    with pytest.raises(SweepError, match="no such directory"):
        read_sweep(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "1"}'])
def test_a_file_that_no_sweep_wrote(sweep, text):
    (sweep.path / "sweep.json").write_text(text)
    with pytest.raises(SweepError, match=r"sweep\.json"):
        read_sweep(sweep.path)


def test_a_newer_format_is_refused_with_both_numbers(sweep):
    sweep.write_document(format=4)
    with pytest.raises(SweepError, match=r"format 4.*reads up to 3"):
        read_sweep(sweep.path)


def test_a_missing_entry_is_named(sweep):
    del sweep.document["settings"]
    sweep.write_document()
    with pytest.raises(SweepError, match="'settings'"):
        read_sweep(sweep.path)


def test_final_states_come_from_the_last_segment(sweep):
    sweep.hand_out(0, 0)
    sweep.end(0, 0, state="failed", reason="out of memory", seconds=3.0)
    sweep.hand_out(0, 1)
    sweep.end(0, 1, state="complete", seconds=4.0)
    sweep.hand_out(1, 0)
    sweep.end(1, 0, state="stopped", reason="rung 10: not in the best third")
    sweep.hand_out(2, 0)
    sweep.hand_out(2, 1)
    sweep.end(2, 0, state="failed")  # came after the newer segment began
    trials = read_history(read_sweep(sweep.path)).trials
    assert [trial.status for trial in trials] == ["complete", "stopped", "interrupted"]
    assert trials[0].seconds == 7.0
    assert trials[0].reason == ""
    assert trials[1].reason == "rung 10: not in the best third"


def test_open_trials_run_only_while_a_live_process_holds_the_lock(sweep):
    sweep.hand_out(0)
    assert states(sweep) == {0: "interrupted"}
    sweep.hold_lock()
    assert states(sweep) == {0: "running"}
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    sweep.hold_lock(pid=child.pid)
    assert states(sweep) == {0: "interrupted"}


def test_what_an_earlier_session_began_does_not_run_in_this_one(sweep):
    sweep.hand_out(0)
    sweep.event("resumed", session="b", host="h", pid=2)
    sweep.hand_out(1)
    sweep.hold_lock()
    assert states(sweep) == {0: "interrupted", 1: "running"}
    sweep.hand_out(0, 1)
    assert states(sweep) == {0: "running", 1: "running"}


def test_a_lock_of_a_process_with_a_reused_number_is_not_held(sweep):
    sweep.hold_lock()
    assert is_held(sweep.path)
    text = (sweep.path / "lock").read_text().replace("4000000000.0", "1.0")
    (sweep.path / "lock").write_text(text)
    assert not is_held(sweep.path)


def test_a_lock_of_another_machine_counts_while_files_change(sweep):
    sweep.hold_lock(host="elsewhere")
    assert is_held(sweep.path)
    old = time.time() - 2 * QUIET_SECONDS
    for name in ("lock", "log.jsonl", "reports"):
        os.utime(sweep.path / name, (old, old))
    assert not is_held(sweep.path)


def test_half_a_lock_is_no_lock(sweep):
    (sweep.path / "lock").write_text('{"host": "')
    assert not is_held(sweep.path)


def test_the_sweep_itself_is_finished_running_or_interrupted(sweep):
    assert read_history(read_sweep(sweep.path)).state == "interrupted"
    sweep.hold_lock()
    assert read_history(read_sweep(sweep.path)).state == "running"
    (sweep.path / "lock").unlink()
    sweep.event("finished")
    assert read_history(read_sweep(sweep.path)).state == "finished"
    sweep.event("resumed", session="b", host="h", pid=2)
    assert read_history(read_sweep(sweep.path)).state == "interrupted"
    sweep.event("gave_up", reason="20 failures in a row, without a report between them")
    assert read_history(read_sweep(sweep.path)).state == "ended for its failures"
    sweep.event("resumed", session="c", host="h", pid=3)
    assert read_history(read_sweep(sweep.path)).state == "interrupted"


def test_unknown_events_and_an_absent_log_are_no_errors(sweep):
    sweep.event("promoted", trial=3)
    assert states(sweep) == {}
    (sweep.path / "log.jsonl").unlink()
    assert states(sweep) == {}


def test_a_log_of_format_1_has_no_values_by_column(sweep):
    sweep.hand_out(0)
    sweep.event("rung", trial=0, segment=0, step=10, value=0.7)
    sweep.end(0, step=40, value=0.5)
    (trial,) = read_history(read_sweep(sweep.path)).trials
    assert (trial.value, trial.values, trial.step) == (0.5, {}, 40)
    assert read_sweep(sweep.path).goal.columns == ("val.mse",)


def test_ends_have_their_times_and_open_trials_are_known(sweep):
    sweep.hand_out(0)
    sweep.end(0, 0, state="paused", step=10)
    first = sweep.time
    sweep.hand_out(1)
    sweep.end(1)
    history = read_history(read_sweep(sweep.path))
    assert history.ended_at == {0: first, 1: sweep.time}
    assert history.open == set()
    sweep.hand_out(0, 1)
    assert read_history(read_sweep(sweep.path)).open == {0}


def test_an_end_without_a_beginning_is_damage(sweep):
    sweep.end(3)
    with pytest.raises(SweepError, match=r"log\.jsonl: .*trial 3.*damaged"):
        read_history(read_sweep(sweep.path))
