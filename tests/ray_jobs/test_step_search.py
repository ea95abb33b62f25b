"""The search for a number of steps: on scores whose best number is known, with noise and without,
with one valley and with two.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from ray_jobs.optimal_steps import optimal_steps
from ray_jobs.step_search import Scores, coarse_to_fine, every_number, golden_section

LOW, HIGH = 10, 50


def two_valleys(steps: int) -> float:
    """A wide valley of .30 at 20 and a narrower one of 0 at 43, 1 elsewhere."""
    wide = 0.70 * math.exp(-0.5 * ((steps - 20) / 6.0) ** 2)
    deep = 1.00 * math.exp(-0.5 * ((steps - 43) / 2.5) ** 2)
    return 1.0 - max(wide, deep)


def noisy(draw, common=0.0, own=0.0):
    """`score(steps, repeat)` of the two valleys, with noise that all numbers share in a repeat and
    noise of each number's own.
    """
    shared = np.random.default_rng((draw, 0)).normal(size=64)

    def score(steps, repeat):
        alone = np.random.default_rng((draw, 1, steps, repeat)).normal()
        return two_valleys(steps) + common * shared[repeat] + own * alone

    return score


@pytest.mark.parametrize("draw", range(5))
def test_two_valleys_under_noise_mislead_a_golden_section_and_not_ours(draw):
    score = noisy(draw, common=0.3, own=0.05)
    scores = Scores(score, repeats=8)
    found = coarse_to_fine(scores, LOW, HIGH, 0.0)
    assert abs(found.best - 43) <= 1, "its floor is flat to .08 beside the minimum"
    assert found.steps == found.best, "without a tolerance they are one"
    golden, _ = golden_section(lambda steps: score(steps, 0), LOW, HIGH)
    assert abs(golden - 20) <= 6, "it never sees the other valley"
    assert two_valleys(golden) - two_valleys(found.best) > 0.2
    assert len(scores.found) < 0.8 * (HIGH - LOW + 1)


def test_one_valley_under_noise_is_found_nearer_by_repeats():
    """Over 40 draws of the noise: what the found number is above the least score, without it."""

    def valley(steps):
        return 1e-3 * (steps - 31) ** 2

    above = {"golden": [], "ours": []}
    for draw in range(40):
        generator = np.random.default_rng(draw)
        noise = generator.normal(scale=0.05, size=(HIGH + 1, 8))

        def score(steps, repeat, noise=noise):
            return valley(steps) + noise[steps, repeat]

        ours = coarse_to_fine(Scores(score, 8), LOW, HIGH, 0.0).best
        golden, _ = golden_section(lambda steps, of=score: of(steps, 0), LOW, HIGH)
        above["ours"].append(valley(ours))
        above["golden"].append(valley(golden))
    assert np.mean(above["ours"]) < 0.5 * np.mean(above["golden"])


@given(st.integers(2, 40), st.integers(1, 60), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_the_choice_is_the_least_within_the_tolerance_of_a_falling_score(low, width, part, seed):
    """Scores that fall with the steps: coarse to fine agrees with the look at all numbers, and the
    number below the choice is outside of the tolerance.
    """
    high = low + width
    fall = np.random.default_rng(seed).uniform(0.01, 1.0, size=high + 2)
    curve = fall[::-1].cumsum()[::-1]

    def score(steps, repeat):
        return float(curve[steps]) + repeat

    tolerance = part * float(curve[low] - curve[high])
    scores = Scores(score, 2)
    found = coarse_to_fine(scores, low, high, tolerance)
    assert found.best == high
    assert (found.steps, found.best) == (
        every_number(Scores(score, 2), low, high, tolerance).steps, high,
    )  # fmt: skip
    assert scores.mean(found.steps) <= scores.mean(high) + tolerance
    assert found.steps == low or scores.mean(found.steps - 1) > scores.mean(high) + tolerance


def test_each_score_is_computed_once_and_noise_in_common_takes_no_part():
    asked = []

    def score(steps, repeat):
        asked.append((steps, repeat))
        return 1.0 / steps + 100.0 * repeat  # what a repeat adds to all of them

    scores = Scores(score, 3)
    found = coarse_to_fine(scores, LOW, HIGH, 0.0)
    assert len(asked) == len(set(asked)) == 3 * len(scores.found)
    assert found.steps == found.best == HIGH
    difference = found.neighbours[HIGH - 1]
    assert difference.is_shown
    assert difference.mean == pytest.approx(1 / 49 - 1 / 50, rel=1e-6)


def test_neighbours_that_cannot_be_told_apart_are_named():
    def flat(steps, repeat):
        return float(np.random.default_rng((steps, repeat)).normal())

    found = every_number(Scores(flat, 4), LOW, 20, 1e9)
    assert found.steps == LOW
    assert list(found.neighbours) == [LOW + 1]
    scores = Scores(flat, 4)
    every_number(scores, LOW, 20, 0.0)
    for steps in scores.found:
        for other in scores.found:
            if steps == other:
                continue
            by_scipy = ttest_rel(scores.of(steps), scores.of(other)).pvalue < 0.05
            assert scores.difference(steps, other).is_shown == by_scipy


def test_a_golden_section_finds_one_valley_without_noise():
    for lowest in range(LOW, HIGH + 1):
        found, scored = golden_section(lambda steps, at=lowest: abs(steps - at), LOW, HIGH)
        assert abs(found - lowest) <= 1, "the document's tolerance"
        assert len(scored) <= 12
        assert set(scored) <= set(range(LOW, HIGH + 1))


def test_a_score_of_ones_own_takes_the_place_of_the_distance():
    """As a metric of generated images will: a callable that is given the samples."""
    seen = []

    def draw(steps, repeat):
        return torch.full((2, 3), float(steps)) + repeat

    def score(samples, repeat):
        seen.append(tuple(samples.shape))
        return float((samples - repeat - 24.0).abs().mean())

    chosen, scores = optimal_steps(draw, score, LOW, HIGH, repeats=2, tolerance=0.0)
    assert chosen.steps == 24
    assert set(seen) == {(2, 3)}
    assert scores.mean(24) == 0.0
    within, _ = optimal_steps(draw, score, LOW, HIGH, repeats=2, tolerance=3.0, grid=True)
    assert within.steps == 21


def test_a_score_that_is_no_number_is_refused():
    scores = Scores(lambda steps, repeat: math.nan if steps == 12 else 1.0, 2)
    with pytest.raises(ValueError, match=r"the score of 12 steps is \[nan, nan\]"):
        every_number(scores, LOW, HIGH, 0.0)
