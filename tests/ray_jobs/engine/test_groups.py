"""What a worker group starts beside its workers."""

from __future__ import annotations

import pytest

from ray_jobs.engine import cluster, groups


@pytest.mark.slow  # imports much of Ray
def test_a_group_starts_no_process_that_it_does_not_need(tmp_path):
    """Ray itself still makes each callback that is left out, by that name, and nothing else is."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

    assert cluster.VARIABLES[ENABLE_PREEMPTION_WATCHER_ENV_VAR] == "0"
    group = groups.Group("one", workers=2, cpus=1, gpus=0, mark=1, scratch=tmp_path)
    trainer = groups.group_trainer(print, {}, group)
    kept = [type(callback).__name__ for callback in trainer._create_default_callbacks()]
    whole = [type(c).__name__ for c in TorchTrainer._create_default_callbacks(trainer)]
    assert set(groups.LEFT_OUT) <= set(whole)
    assert kept == [name for name in whole if name not in groups.LEFT_OUT]


@pytest.mark.slow
def test_ray_restarts_no_group_by_itself(tmp_path):
    """Neither after a failure nor on a node that is taken away: every retry has a limit of its
    own.
    """
    group = groups.Group("one", workers=2, cpus=1, gpus=0, mark=1, scratch=tmp_path)
    retries = vars(groups.group_trainer(print, {}, group).run_config.failure_config)
    limits = {name: limit for name, limit in retries.items() if name.startswith("max_")}
    assert limits and not any(limits.values())
