"""The thread of the mirror: it opens what may take long, while events wait in their order."""

from __future__ import annotations

import signal
import sqlite3
import threading
from contextlib import closing

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from ray_jobs.engine.mirror_thread import TELL_SECONDS, MirrorThread
from search.objectives import Goal, Objective
from search.optuna.mirror import Mirror
from search.plan import Plan
from search.simulator import simulate
from search_spaces.domains import Uniform
from search_spaces.space import Space


@pytest.fixture(scope="module")
def plan():
    return Plan(
        space=Space("line", "toy", {"x": Uniform(0.0, 1.0)}),
        trials=6,
        goal=Goal((Objective("val.x", "min"),)),
        steps=4,
        report_every=1,
        scheduler="none",
        sampler="random",
    )


@pytest.fixture(scope="module")
def log(plan):
    def observe(job, step):
        return {"val.x": job.sampled["x"] / step}

    return simulate(plan, observe, workers=2).events


def shown(storage):
    study = optuna.load_study(study_name="line", storage=storage)
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study.trials]


def journal(path):
    return shown(JournalStorage(JournalFileBackend(str(path))))


@pytest.fixture(scope="module")
def expected(plan, log, tmp_path_factory):
    """What a mirror shows that is written without a thread."""
    place = tmp_path_factory.mktemp("whole") / "journal.log"
    Mirror(place, plan, "line", log).open()
    return journal(place)


def test_a_journal_has_what_came_before_and_after_it_was_opened(plan, log, expected, tmp_path):
    said, half = [], len(log) // 2
    mirror = Mirror(tmp_path / "journal.log", plan, "line", log[:half], warn=said.append)
    thread = MirrorThread(mirror, said.append, said.append)
    for event in log[half:]:
        thread.follow(event)
    thread.close()
    assert journal(tmp_path / "journal.log") == expected
    assert said == []


@pytest.fixture
def busy(plan, log, tmp_path):
    """A database with the first events, and the connection that keeps everybody else out."""
    place = f"sqlite:///{tmp_path}/mirror.db"
    Mirror(place, plan, "line", log[:4]).open()
    with closing(sqlite3.connect(tmp_path / "mirror.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield place, connection


@pytest.mark.slow
def test_a_storage_that_is_slow_to_open_holds_nothing_up(plan, log, expected, busy):
    """The one who holds the database is the one who opens the mirror and hands events over."""
    said, (place, connection) = [], busy
    mirror = Mirror(place, plan, "line", log[:8], warn=said.append)
    thread = MirrorThread(mirror, said.append, said.append)
    for event in log[8:]:
        thread.follow(event)
    connection.execute("ROLLBACK")
    thread.close()
    assert shown(RDBStorage(place)) == expected
    assert said == []


@pytest.mark.slow
def test_the_end_waits_for_the_opening_no_longer_than_its_patience(plan, log, busy):
    """What is given up is told, and nothing is written afterwards: the sweep may then be another
    process's.
    """
    said, (place, connection) = [], busy
    mirror = Mirror(place, plan, "line", log, warn=said.append)
    thread = MirrorThread(mirror, said.append, said.append)
    thread.close(patience_seconds=0.2)
    assert said == [
        "Optuna's mirror is old: its storage takes more than 0.2 s. The log has all events; a "
        "resume writes them there."
    ]
    connection.execute("ROLLBACK")
    before = shown(RDBStorage(place))
    thread.close()
    assert shown(RDBStorage(place)) == before
    assert len(before) < plan.trials
    assert len(said) == 1


@pytest.mark.slow
def test_a_wait_is_told_and_ctrl_c_ends_it(plan, log, busy):
    """Soon after a resume, say, which writes thousands of trials."""
    said, (place, connection) = [], busy
    mirror = Mirror(place, plan, "line", log, warn=said.append)
    thread = MirrorThread(mirror, said.append, said.append)
    # A shell in the background has its children ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    # To the thread that waits: a signal of another one is only looked at when the wait is over.
    threading.Timer(TELL_SECONDS + 0.3, signal.pthread_kill, [main, signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.close(patience_seconds=30.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert said == [
        "waiting for Optuna's mirror, 30 s at most. Ctrl-C leaves it; the log has everything, and "
        "a resume writes it there."
    ]
    connection.execute("ROLLBACK")
    thread.close()
    assert len(shown(RDBStorage(place))) < plan.trials
