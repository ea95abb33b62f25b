"""Orders of the training samples: which samples a batch has, and that nothing else decides it."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.stepping.batches import Share, StepSampler
from trainables.stepping.orders import grouped, hash63, permuted, stratified

labels = st.lists(st.sampled_from("abcd"), min_size=1, max_size=30)
cuts = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
"""batch size, accumulate, ranks"""


def micros(order, size, share, first=0, last=12, seed=3):
    """This rank's micro-batches, of (index, sample seed)."""
    return list(StepSampler(size, share, seed, first, last, order))


def together(order, size, batch, accumulate, world, last=12):
    """The micro-batches of all ranks together."""
    ranks = [
        micros(order, size, Share(batch, accumulate, world, r), last=last) for r in range(world)
    ]
    return [list(chain(*parts)) for parts in zip(*ranks, strict=True)]


def indices(order, size, batch, count, seed=3):
    """The first `count` batches, as indices."""
    index = order(size, batch)
    return [[index(seed, n * batch + at) for at in range(batch)] for n in range(count)]


# All orders


def test_a_permutation_is_the_order_of_old():
    """Checkpoints rely on it: numpy's permutation from the hash of seed, 1 and epoch."""
    for epoch in range(3):
        expected = np.random.default_rng(hash63(5, 1, epoch)).permutation(11)
        index = permuted()(11, 4)
        assert [index(5, 11 * epoch + at) for at in range(11)] == expected.tolist()


@given(labels, cuts)
def test_a_step_of_strata_or_permutations_is_the_same_however_it_is_cut(names, cut):
    batch, accumulate, world = cut
    size, whole = len(names), batch * accumulate * world
    for order in (permuted(), stratified(names)):
        expected = micros(order, size, Share(whole, 1))
        parts = together(order, size, *cut)
        found = [chain(*parts[n : n + accumulate]) for n in range(0, len(parts), accumulate)]
        assert [sorted(step) for step in found] == [sorted(step) for step in expected]


@given(labels, cuts)
def test_of_groups_a_micro_batch_over_all_ranks_is_the_unit(names, cut):
    """Ranks cut it; `accumulate` has the same ones, more of them to a step."""
    batch, accumulate, world = cut
    order, size = grouped(names), len(names)
    alone = together(order, size, batch * world, 1, 1, last=12 * accumulate)
    assert together(order, size, *cut) == alone
    assert all(len({names[index] for index, _ in micro}) == 1 for micro in alone)


@given(labels, cuts, st.integers(0, 11))
def test_a_training_can_be_resumed_from_any_step(names, cut, first):
    batch, accumulate, world = cut
    share = Share(batch, accumulate, world, world - 1)
    for order in (permuted(), grouped(names), stratified(names)):
        whole = micros(order, len(names), share)
        assert micros(order, len(names), share, first) == whole[first * accumulate :]


def test_seeds_and_epochs_have_orders_of_their_own():
    names = "aabb" * 10
    for order in (permuted(), grouped(names), stratified(names)):
        first, second = np.reshape(indices(order, 40, 10, 8), (2, 40)).tolist()
        other = np.ravel(indices(order, 40, 10, 4, seed=4)).tolist()
        assert len({tuple(found) for found in (first, second, other, range(40))}) == 4


def test_two_samples_never_share_a_seed():
    """Those that a small group repeats in one batch are augmented differently."""
    drawn = list(chain(*micros(grouped("abc"), 3, Share(8, 1), last=6)))
    assert len({seed for _, seed in drawn}) == len(drawn) == 48


# Groups


@given(labels, st.integers(1, 8), st.integers(1, 5))
def test_groups_have_their_share_of_batches_and_no_sample_is_left_out(names, batch, epochs):
    """Of e epochs, ceil(e n / batch) batches of a group of n; each of its samples as often as the
    others, but for one.
    """
    sizes = Counter(names)
    expected = {name: -(-epochs * n // batch) for name, n in sizes.items()}
    drawn = indices(grouped(names), len(names), batch, sum(expected.values()))
    assert Counter(names[found[0]] for found in drawn) == expected
    times = Counter(chain(*drawn))
    assert set(times) == set(range(len(names)))
    for name in sizes:
        own = [times[i] for i, other in enumerate(names) if other == name]
        assert max(own) - min(own) <= 1
        assert min(own) >= epochs


def test_groups_take_turns_in_an_order_that_differs_from_epoch_to_epoch():
    names = "a" * 16 + "b" * 16
    drawn = "".join(names[batch[0]] for batch in indices(grouped(names), 32, 4, 24))
    epochs = {drawn[at : at + 8] for at in (0, 8, 16)}
    assert all(epoch.count("a") == 4 for epoch in epochs)
    assert len(epochs) == 3 and "aaaabbbb" not in epochs


def test_groups_in_turn_follow_each_other_and_have_the_same_batches():
    """Of every epoch the same batches as shuffled, one group's before the next one's."""
    names = "a" * 10 + "b" * 14
    shuffled = indices(grouped(names), 24, 4, 12)
    in_turn = indices(grouped(names, in_turn=True), 24, 4, 12)
    assert sorted(in_turn[:7]) == sorted(shuffled[:7])
    assert sorted(in_turn[7:]) == sorted(shuffled[7:])
    assert "".join(names[batch[0]] for batch in in_turn) == "aaabbbb" + "aabbb"
    cut = list(chain(*micros(grouped(names, in_turn=True), 24, Share(4, 1), 5, last=12)))
    assert [index for index, _ in cut] == list(chain(*in_turn[5:]))


def test_a_single_sample_and_groups_of_one_fill_their_batches():
    assert indices(grouped(["a"]), 1, 3, 2) == [[0, 0, 0], [0, 0, 0]]
    drawn = indices(grouped(range(5)), 5, 4, 5)
    assert sorted(drawn) == [[i] * 4 for i in range(5)]


# Strata


@given(
    labels,
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=4),
    st.integers(0, 9),
)
def test_strata_have_their_shares_in_every_cycle(names, shares, cycle):
    shares = {name: share for name, share in shares.items() if name in names}
    divisor = math.gcd(*shares.values())
    length = sum(shares.values()) // divisor
    drawn = indices(stratified(names, shares), len(names), length, cycle + 1)[cycle]
    assert Counter(names[i] for i in drawn) == {n: s // divisor for n, s in shares.items()}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_strata_are_spread_evenly_within_a_cycle(a, b, c, count):
    """Whatever the batch: of any run from the first position on each has its share to within 2."""
    shares = {"a": a, "b": b, "c": c}
    (drawn,) = indices(stratified("abc", shares), 3, count, 1)
    for number, share in enumerate(shares.values()):
        assert abs(drawn.count(number) - count * share / (a + b + c)) < 2


@given(labels)
def test_every_sample_of_a_stratum_comes_once_in_each_of_its_turns(names):
    sizes = Counter(names)
    index = stratified(names)(len(names), 1)
    drawn = [index(3, position) for position in range(3 * max(sizes.values()) * len(sizes))]
    for name, size in sizes.items():
        own = [i for i in drawn if names[i] == name]
        turns = [own[at : at + size] for at in range(0, len(own) - size + 1, size)]
        assert all(len(set(turn)) == size for turn in turns) and len(turns) >= 3


# What is refused


def test_labels_of_another_number_of_samples_are_refused():
    for order in (grouped("ab"), stratified("ab")):
        with pytest.raises(ValueError, match=r"for 2 samples, and there are 3\. Give one for"):
            StepSampler(3, Share(1, 1), 0, 0, 1, order)


@pytest.mark.parametrize("share", [0, -1, 0.5, True, "2"])
def test_a_share_that_is_no_number_of_samples_is_refused(share):
    with pytest.raises(ValueError, match="a share is a whole number of samples from 1 on"):
        stratified("ab", {"a": 1, "b": share})


@pytest.mark.parametrize("shares", [{"a": 1}, {"a": 1, "b": 1, "c": 1}])
def test_shares_and_strata_that_differ_are_refused(shares):
    with pytest.raises(ValueError, match="every stratum has a share and every share a stratum"):
        stratified("ab", shares)
