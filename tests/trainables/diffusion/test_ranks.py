"""Two real processes (gloo) train a diffusion as one, and two micro-batches as one batch, with its
regularisers on. fp32.
"""

from __future__ import annotations

import pytest

from trainables.diffusion.system import Diffusion

pytestmark = pytest.mark.slow

GENTLE = {
    **Diffusion.small,
    "optimizer.lr": 1e-3,
    "optimizer.warmup": 0.0,
    # With 1e-8 Adam takes a whole step for a gradient that is nothing but rounding.
    "optimizer.eps": 1e-4,
    "train.ema_decay": 0.5,
    "train.steps": 4,
    "train.report_every": 4,
    "train.test": False,
}
SHARED = {
    "strategy.curriculum.enabled": True,
    "strategy.jitter.enabled": True,
    "strategy.min_snr.enabled": True,
    "regulariser.input_noise.enabled": True,
    "regulariser.feature_noise.enabled": True,
    "regulariser.self_conditioning.enabled": True,
    "loss.consistency.enabled": True,
    "optimizer.noise.eta": 0.01,
    "optimizer.sam.radius": 0.05,
}
EACH = {
    "score_aug": {
        **SHARED,
        "score_aug.enabled": True,
        "score_aug.kind": "v2",
        "score_aug.brightness.enabled": True,
    },
    "score_aug of an update": {"score_aug.enabled": True, "score_aug.per": "batch"},
    "sda, regional": {**SHARED, "loss.sda.enabled": True, "loss.regional.enabled": True},
    "sda of an update": {"loss.sda.enabled": True, "loss.sda.per": "batch"},
}


@pytest.mark.parametrize("own", EACH.values(), ids=EACH)
def test_a_step_is_the_same_however_it_is_cut(ranks, shared_cache, tmp_path, own):
    settings, cache = {**GENTLE, **own}, str(shared_cache)
    ranks.same_however_cut(tmp_path, "diffusion", settings, rel=1e-4, cache=cache)
