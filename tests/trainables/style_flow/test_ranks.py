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
    """4 samples, 2 ranks x 2, and 2 x 2 by one."""
    cuts = {"one": (1, 4, 1), "two": (2, 2, 1), "accumulated": (1, 2, 2)}
    reports = {}
    for name, (world, batch, accumulate) in cuts.items():
        settings = {**GENTLE, **own, "train.batch_size": batch, "train.accumulate": accumulate}
        cache = str(shared_cache)
        found, _ = ranks.trained(tmp_path / name, world, "style_flow", settings, cache=cache)
        reports[name] = found[0]
    for name in ("two", "accumulated"):
        for column, value in reports["one"].items():
            if "seconds" not in column and isinstance(value, float):
                near = pytest.approx(value, rel=1e-5, abs=1e-6)
                assert reports[name][column] == near, (name, column)
