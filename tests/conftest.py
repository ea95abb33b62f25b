"""What every test shares: threads, hypothesis, limits of the tiers, skipping without a GPU."""

from __future__ import annotations

import os

# Before torch is imported, and in the environment, so that processes that a test starts (Ray's
# workers too) add floating point numbers in the same order as the test itself.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a limit on one example is a timed assertion, and fails on a busy machine.
# Reproducible, so that a build fails for what changed; `--hypothesis-profile=explore` looks for
# more.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("tests")

TIER_LIMITS_SECONDS = {"slow": 600, "ray": 300, "gpu": 600}
"""Limits where the 60 s of setup.cfg are too few; a test's own `timeout` mark wins."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limits = [
            seconds
            for name, seconds in TIER_LIMITS_SECONDS.items()
            if item.get_closest_marker(name)
        ]
        if limits and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(max(limits)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
