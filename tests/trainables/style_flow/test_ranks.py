"""Two real processes (gloo) train a flow through its integration as one does, and two parts of a
batch as a whole one. fp32.
"""

from __future__ import annotations

import pytest

from trainables.style_flow.system import StyleFlow

pytestmark = pytest.mark.slow

GENTLE = {
    **StyleFlow.small,
    "optimizer.lr": 1e-3,
    "optimizer.warmup": 0.0,
    # With 1e-8 Adam takes a whole step for a gradient that is nothing but rounding.
    "optimizer.eps": 1e-4,
    "train.steps": 4,
    "train.report_every": 4,
    "train.test": False,
    "flow.checkpointing": True,
    "loss.swd.group": "sample",
    "label_drop.share": 0.4,
}
EACH = {
    "energy": {},
    "every term": {
        "loss.velocity.enabled": True,
        "loss.divergence.enabled": True,
        "loss.trajectory.enabled": True,
        "loss.repulsion.enabled": True,
        "flow.bend": 1.0,
    },
    "of an update": {"label_drop.per": "update", "loss.swd.directions": "update"},
}


@pytest.mark.parametrize("own", EACH.values(), ids=EACH)
def test_a_step_is_the_same_however_it_is_cut(ranks, shared_cache, tmp_path, own):
    settings, cache = {**GENTLE, **own}, str(shared_cache)
    ranks.same_however_cut(tmp_path, "style_flow", settings, rel=1e-5, cache=cache)
