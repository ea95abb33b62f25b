"""What the loop does with every system: it learns, resumes exactly, and keeps its columns."""

from __future__ import annotations

import pytest

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
