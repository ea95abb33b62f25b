"""Trials that fail: by an error of their own, and for want of memory."""

from __future__ import annotations

import pytest

# Fails once for each file `token-*` beside it, at the 41st sample that a segment draws: in its
# sixth step, after the report at the fifth.
FAILING = """
import resource
from pathlib import Path

from trainables.toy import Line, Toy
from trainables.parts import Loaders

HERE = Path(__file__).parent


def fail(kind):
    if kind == "error":
        raise RuntimeError("the disk of the data is gone")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, limits[1]))
    try:
        bytearray(2**32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Tokens(Line):
    drawn = 0

    def __getitem__(self, key):
        self.drawn += 1
        tokens = sorted(HERE.glob("token-*"))
        if self.drawn == 41 and tokens:
            kind = tokens[0].read_text()
            tokens[0].unlink()
            fail(kind)
        return super().__getitem__(key)


class Failing(Toy):
    name = "failing:Failing"

    def loaders(self, settings, prepared):
        plain = super().loaders(settings, prepared)
        return Loaders(Tokens(settings.data, 1, settings.data.samples), plain.validation)
"""


@pytest.fixture
def failing(place):
    """Makes the next attempts fail, one for each kind."""
    (place / "failing.py").write_text(FAILING)
    place.environment = {"PYTHONPATH": str(place.path)}

    def make(*kinds):
        for number, kind in enumerate(kinds):
            (place / f"token-{number}").write_text(kind)

    return make


@pytest.mark.last
def test_an_error_is_tried_again_from_the_last_checkpoint(place, kit, sequential, failing):
    """Twice, in one trial, for one reason and another, and nothing is left of it in the result."""
    directory = place / "sweep"
    failing("error", "memory")
    options = kit.sequential_options(place, directory)
    ran = place.run("failing:Failing", *options, "--max-failures", 2)
    assert ran.status == 0, ran.text
    failed = [e for e in kit.events(directory, "ended") if e["state"] == "failed"]
    assert [e["trial"] for e in failed] == [0, 0]
    reasons = ["RuntimeError: the disk of the data is gone", "MemoryError:"]
    assert [e["reason"] for e in failed] == reasons
    assert [e["step"] for e in failed] == [5, 10]  # the second attempt went on from the fifth
    assert not (directory / "trials/0000/error.txt").exists()
    kit.check_equal(directory, sequential.directory)
