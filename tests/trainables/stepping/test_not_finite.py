"""Overflows in a row end a training; test_loop_gpu.py has them under a gradient scaler."""

from __future__ import annotations

import pytest

from trainables.stepping.not_finite import NonFiniteError, Overflows


def test_a_finite_step_ends_a_row_of_overflows():
    overflows, rows = Overflows(limit=3), []
    for step, is_overflow in enumerate((True, True, False, True, True)):
        overflows.note(step, is_overflow)
        rows.append(overflows.in_a_row)
    assert rows == [1, 2, 0, 1, 2]
    with pytest.raises(NonFiniteError, match=r"^step 5: 3 fp16 steps in a row"):
        overflows.note(5, is_overflow=True)


def test_a_row_goes_on_from_a_checkpoint():
    overflows = Overflows(limit=3)
    overflows.in_a_row = 2
    with pytest.raises(NonFiniteError):
        overflows.note(7, is_overflow=True)
