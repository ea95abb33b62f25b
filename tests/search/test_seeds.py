from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from search.seeds import derive


def test_a_seed_is_a_promise():
    """Written down once: a change here changes every sweep that has been started."""
    assert derive(0, "trial", 0) == 2462979012
    assert derive(7, "sampler", 12) == 3351676664


def test_it_is_sha256_of_the_parts_with_their_lengths():
    digest = hashlib.sha256(b"1:75:trial2:12").digest()
    assert derive(7, "trial", 12) == int.from_bytes(digest[:4], "big")


def test_parts_that_concatenate_alike_differ():
    assert derive(1, "a", 11) != derive(1, "a1", 1)
    assert derive(1, 1, "a") != derive(11, "a")
    assert derive(1, "trial", 2) != derive(1, "sampler", 2)


@given(st.integers(), st.text(), st.integers(0))
def test_seeds_fit_numpy_and_torch(seed, name, number):
    assert 0 <= derive(seed, name, number) < 2**32


def test_seeds_of_many_trials_differ():
    assert len({derive(3, "trial", number) for number in range(2000)}) == 2000
