"""Two real processes (gloo) train as one does while layers open one after another, and two parts
of a batch as a whole one. fp32.
"""

from __future__ import annotations

import pytest

from trainables.npt.system import Npt

pytestmark = pytest.mark.slow

GENTLE = {
    **Npt.small,
    "optimizer.lr": 1e-3,
    "optimizer.warmup": 0.0,
    # With 1e-8 Adam takes a whole step for a gradient that is nothing but rounding.
    "optimizer.eps": 1e-4,
    "train.steps": 4,
    "train.report_every": 4,
    "train.test": False,
}
EACH = {
    "windows": {"npt.layers.order": "one_by_one", "npt.layers.length": 0.25},
    "windows, curriculum, drawn codes": {
        "npt.layers.order": "one_by_one",
        "npt.layers.start": 0.25,
        "npt.layers.length": 0.25,
        "npt.curriculum.enabled": True,
        "model.bottleneck": True,
        "model.teacher_share": 0.5,
        "loss.bottleneck.enabled": True,
        "loss.guidance.enabled": True,
    },
}


@pytest.mark.parametrize("case", EACH.values(), ids=EACH)
def test_a_step_is_the_same_however_it_is_cut(ranks, shared_cache, tmp_path, case):
    settings, cache = {**GENTLE, **case}, str(shared_cache)
    ranks.same_however_cut(tmp_path, "npt", settings, rel=1e-5, cache=cache)
