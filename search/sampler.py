"""What to try next: Optuna's samplers over a study that is made anew from the log at every
question.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from search.distributions import distribution, encode, suggest
from search.log import COMPLETE, FAILED, STOPPED, SweepState, TrialRecord
from search.plan import Plan
from search.seeds import derive

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


def ask(plan: Plan, state: SweepState, trial: int) -> dict[str, Any]:
    """The values of every active key for trial number `trial`.

    The sampler is seeded by the master seed and the trial's number, and its history is the log:
    the answer depends on nothing else. Random search needs no history, so its answers do not even
    depend on the order of events.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study it makes
    sampler = _sampler(plan, derive(plan.seed, "sampler", trial))
    study = optuna.create_study(
        sampler=sampler, direction="minimize" if plan.mode == "min" else "maximize"
    )
    if plan.sampler != "random":
        study.add_trials(history(plan, state))
    asked = study.ask()
    values: dict[str, Any] = {}
    for key in plan.space.order():
        if plan.space.is_active(key, values, values):
            values[key] = suggest(asked, key, plan.space.domains[key])
    return values


def _sampler(plan: Plan, seed: int) -> BaseSampler:
    import optuna

    if plan.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Without groups the joint model holds only the keys that every trial has; with conditions that
    # may be none.
    grouped = any(domain.when for domain in plan.space.domains.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=grouped, constant_liar=True
        )


def history(plan: Plan, state: SweepState) -> list[FrozenTrial]:
    """The trials that the sampler is told, by number, without those outside the space."""
    distributions = {key: distribution(domain) for key, domain in plan.space.domains.items()}
    inside = [
        state.trials[number] for number in sorted(state.trials) if not state.trials[number].outside
    ]
    return [told(plan, trial, distributions) for trial in inside]


def told(
    plan: Plan, trial: TrialRecord, distributions: dict[str, BaseDistribution]
) -> FrozenTrial:
    """A trial as the sampler sees it.

    Complete: with its last value; failed where that is not finite. Stopped: pruned, ranked by its
    last step and then by the value there (a low-fidelity value must not pass for a final one).
    Still running, or to be continued: running, which the constant liar counts as bad. Given up:
    failed, which the sampler ignores.
    """
    from optuna.trial import TrialState, create_trial

    active = plan.space.active(trial.sampled)
    params = {key: encode(plan.space.domains[key], trial.sampled[key]) for key in active}
    curve = {step: value for step, value in trial.rungs.items() if math.isfinite(value)}
    status, value = TrialState.RUNNING, None
    if trial.status == COMPLETE and math.isfinite(trial.value):
        status, value = TrialState.COMPLETE, trial.value
    elif trial.status == COMPLETE or (
        trial.status == FAILED and trial.failures > plan.max_failures
    ):
        status = TrialState.FAIL
    elif trial.status == STOPPED:
        status = TrialState.PRUNED
        if math.isfinite(trial.value):
            curve[trial.step] = trial.value
    return create_trial(
        state=status,
        value=value,
        params=params,
        distributions={key: distributions[key] for key in active},
        intermediate_values=curve,
    )
