"""The scheduler of a plan, for all who ask it."""

from __future__ import annotations

import importlib

from search.log import SweepState
from search.options import SCHEDULERS
from search.plan import Plan
from search.schedulers.base import Scheduler
from search.state_cache import cached_for


def load_scheduler(plan: Plan) -> Scheduler:
    """The plan's scheduler by its name.

    Raises:
        SettingsError: the plan asks of it what it cannot do.
    """
    module, attribute = SCHEDULERS[plan.scheduler].split(":")
    scheduler: Scheduler = getattr(importlib.import_module(module), attribute)(plan)
    return scheduler


def rule(plan: Plan, state: SweepState) -> Scheduler:
    """Who goes on and who ends: the scheduler, made once for a plan and the state it is asked of
    (it keeps none of its own, but may remember what it has computed).
    """
    return cached_for(plan, state, load_scheduler)
