from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.bare import SIDES, steps_of
from benchmarks.rivals.npt_generation import (
    SEPARATOR,
    blocks_of,
    converters_of,
    llama_of,
    student_of,
    weights_mib,
)
from benchmarks.rivals.npt_kl import FORMS, differences, logits_of, measured
from trainables.npt.system import Npt


def test_all_forms_of_the_divergence_are_one():
    rows = list(differences(tokens=40, vocabulary=500))
    assert all(row.value < 1e-6 for row in rows if "value" in row.name)
    assert all(0.0 < row.value < 1e-5 for row in rows if "gradient" in row.name)
    teacher, student = logits_of(40, 500)
    values, gradient = measured(FORMS["chunks"], teacher.double(), student.double())
    q, p = (torch.softmax(logits.double() / 2.0, dim=-1) for logits in (student, teacher))
    torch.testing.assert_close(gradient, (2.0 * (q - p)).detach())
    assert values.shape == (40,) and bool((values > 0.0).all())


@pytest.mark.slow  # imports Llama
def test_a_student_goes_on_as_long_as_its_teacher():
    from models.npt.continuation import continued
    from models.npt.settings import LlamaSettings

    sizes = LlamaSettings(layers=3, width=32, hidden=64, heads=4, key_heads=2)
    teacher = llama_of(sizes)
    assert student_of(teacher, 0) is teacher
    texts = {}
    for count in (0, 1, 3):
        student = student_of(teacher, count, sizes)
        assert blocks_of(student, texts=2)() > 0.0
        texts[count] = continued(student, [[1, 2, 3]], 8, SEPARATOR)
    assert texts[0] != texts[1] != texts[3]
    assert weights_mib(converters_of(3, sizes)) == 3 * 4 * 64 * (32 + 32 + 64) / 2**20


@pytest.mark.slow
def test_both_loops_take_steps(shared_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    sides = {side: steps_of(side, Npt(), tmp_path / side, 2, Npt.small) for side in SIDES}
    assert all(block() > 0.0 for block in sides.values())
