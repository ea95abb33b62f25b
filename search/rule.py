"""The scheduler of a plan, loaded by its name."""

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
        SettingsError: the plan has settings that this scheduler cannot work with.
    """
    module, attribute = SCHEDULERS[plan.scheduler].split(":")
    scheduler: Scheduler = getattr(importlib.import_module(module), attribute)(plan)
    return scheduler


def rule(plan: Plan, state: SweepState) -> Scheduler:
    """The plan's scheduler, made once for a plan and a state. Its decisions follow from the two;
    it may cache what it has computed.
    """
    return cached_for(plan, state, load_scheduler)
