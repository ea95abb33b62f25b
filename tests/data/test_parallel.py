"""Work on many items: its order, its errors, and the line that says how far it is."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

import data.parallel
from data.parallel import each


@pytest.mark.parametrize("workers", [1, 3, None])
def test_results_come_in_the_order_of_the_items(workers):
    def work(item: int) -> int:
        time.sleep(0.002 * (9 - item))
        return item * item

    assert each(work, range(10), "squaring", workers) == [n * n for n in range(10)]


def test_workers_work_at_the_same_time():
    both = threading.Barrier(2, timeout=30.0)
    assert sorted(each(lambda _: both.wait(), range(2), "waiting", 2)) == [0, 1]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_ends_the_work(workers):
    done = []

    def work(item: int) -> None:
        if item == 2:
            raise ValueError("item 2")
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(ValueError, match="item 2"):
        each(work, range(1000), "working", workers)
    assert len(done) < 500


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet_seconds", "said"),
    [
        (Terminal(), 0.0, "\rreading: 4 of 4\n"),
        (Terminal(), 60.0, ""),
        (io.StringIO(), 0.0, ""),
    ],
)
def test_a_terminal_alone_is_told_of_what_takes_long(monkeypatch, stream, quiet_seconds, said):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(data.parallel, "_QUIET_SECONDS", quiet_seconds)
    each(lambda _: None, range(4), "reading", 2)
    assert stream.getvalue() == said
