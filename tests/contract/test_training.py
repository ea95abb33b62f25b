"""What the loop does with every system: it learns, resumes exactly, and keeps its columns."""

from __future__ import annotations

import math

import pytest

from ray_jobs.training.range_test import Range, range_test
from settings.flat import replace
from trainables.contract import training

# The plain resume is slow as well: the one with averages and accumulation, below, does all that it
# does.
RULES = [
    pytest.param(
        rule,
        id=rule.__name__,
        marks=[pytest.mark.slow] if rule is training.resumes_exactly else [],
    )
    for rule in training.RULES
]


@pytest.mark.parametrize("rule", RULES)
def test_it_keeps_the_rule(case, rule):
    assert not [str(fault) for fault in rule(case)]


@pytest.mark.slow
def test_a_resumed_training_with_averages_and_accumulation_equals_a_whole_one(case):
    changes = {"train.ema_decay": 0.5, "train.accumulate": 2}
    assert not [str(fault) for fault in training.resumes_exactly(case, changes)]


@pytest.mark.slow
def test_bf16_trains(case, tmp_path):
    settings = replace(case.settings, {"train.precision": "bf16"})
    assert training.trained(case, tmp_path, settings)[-1]["step"] == 4


@pytest.mark.slow
def test_a_range_test_finds_the_loss_of_every_phase_at_growing_rates(case):
    """Three updates, of each phase in turn."""
    for phase in case.declared:
        found = range_test(
            case.system, case.settings, case.prepared, Range(1e-6, 1e-4, 3, phase.name)
        )
        assert found.phase == phase.name
        assert [row.rate for row in found.rows] == pytest.approx([1e-6, 1e-5, 1e-4])
        assert all(math.isfinite(row.loss) for row in found.rows)
        assert found.diverged_at is None
