"""Optuna's samplers, and quasi-random points. A study is made anew from the log at every ask, so
that an answer depends on the log and the seed alone.

With conditional keys, `tpe` learns each group of keys that exist together; `random` and `qmc` do
not learn; `gp` and `nsga2` learn the keys that every trial has, and draw the others at random.
Choices are categorical to all of them.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.log import SweepState
from search.objectives import Values
from search.optuna.distributions import directions, distribution, encode, from_unit, suggest
from search.optuna.trials import HEALTH
from search.plan import Plan
from search.samplers.ask import Row, active_of, level_of, rows_at
from search.seeds import derive
from search.state_cache import cached_for

_KEPT = 1 << 14
"""Number of Optuna's trials that are cached from one ask to the next, for each sweep."""

_NUMBERS = 1 << 40
"""Offset of the numbers of the trials that Optuna is told of, in their order; the asked trial has
number 0.
"""

_EPOCH = datetime.datetime(2000, 1, 1)


def ask_optuna(plan: Plan, state: SweepState, trial: int, bracket: int) -> dict[str, Any]:
    """A suggestion of one of Optuna's samplers, from the trials at one level (`level_of`)."""
    sampler = MAKERS[plan.sampler](plan, derive(plan.seed, "sampler", trial))
    rows: list[FrozenTrial] = []
    if plan.sampler != "random":
        draw = Random(derive(plan.seed, "level", trial))
        rows = history(plan, state, level_of(plan, state, bracket, draw), draw)
    # It announces every study that it makes, and warns of what only its authors can act on.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=_Told(rows),
        sampler=sampler,
        directions=directions(plan.goal),
    )
    asked = study.ask()
    values: dict[str, Any] = {}
    for key in plan.space.order():
        if plan.space.is_active(key, values, values):
            values[key] = suggest(asked, key, plan.space.domains[key])
    return values


def ask_qmc(plan: Plan, state: SweepState, trial: int, bracket: int) -> dict[str, Any]:
    """Point number `trial`, documented points not counted, of the scrambled Sobol sequence (Owen
    1998) over all keys; the coordinates of inactive keys are not used.

    It does not depend on the log. The first 2^m trials are evenly spread.
    """
    from scipy.stats import qmc

    generator = np.random.default_rng(derive(plan.seed, "sampler"))
    sequence = qmc.Sobol(len(plan.space.domains), seed=generator)
    index = max(trial - len(plan.points), 0)
    if index:
        sequence.fast_forward(index)
    point = dict(zip(plan.space.order(), sequence.random(1)[0].tolist(), strict=True))
    return active_of(plan, {k: from_unit(d, point[k]) for k, d in plan.space.domains.items()})


def history(plan: Plan, state: SweepState, step: int, draw: Random) -> list[FrozenTrial]:
    """The rows of a level (`rows_at`) as Optuna's trials.

    A trial with a value is COMPLETE, with its values at the level and the amount by which it
    misses each constraint. So is an ill one (`Told`), as infeasible, with the worst values of the
    level: left out or told as FAIL, it would be forgotten, and of PRUNED trials only TPE learns. A
    trial without a value is RUNNING, which the constant liar counts as bad.
    """
    rows = rows_at(plan, state, step, draw)
    ill = {
        row.number
        for row in rows
        if row.values is not None and not plan.goal.is_measured(row.values)
    }
    worst = _worst(plan, rows) if ill else {}
    cache = cached_for(plan, state, _Cache)
    told = []
    for row in rows:
        key = (row.number, step, bool(ill))
        entry = cache.get(key)
        if entry is None or entry[0] is not row.values or entry[1] is not row.sampled:
            values = worst if row.number in ill else row.values
            entry = (row.values, row.sampled, _frozen(plan, row, values, ill, cache))
            if row.values and row.number not in ill:
                cache[key] = entry
        told.append(entry[2])
    while len(cache) > _KEPT:
        del cache[next(iter(cache))]
    return told


def _worst(plan: Plan, rows: Sequence[Row]) -> dict[str, float]:
    """The worst value of every column; 0 for one without values, as all are infeasible then."""
    worst = {}
    for column in plan.goal.columns:
        measured = [row.values[column] for row in rows if row.values and column in row.values]
        least = any(o.metric == column and o.mode == "max" for o in plan.goal.objectives)
        least = least or any(
            c.metric == column and c.relation == ">=" for c in plan.goal.constraints
        )
        worst[column] = (min if least else max)(measured, default=0.0)
    return worst


class _Cache(dict[tuple[int, int, bool], tuple[Any, Any, FrozenTrial]]):
    """Cache of the trials of earlier asks."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._all = {k: distribution(d) for k, d in plan.space.domains.items()}
        self._some: dict[tuple[str, ...], dict[str, BaseDistribution]] = {}

    def distributions_of(self, active: tuple[str, ...]) -> dict[str, BaseDistribution]:
        if active not in self._some:
            self._some[active] = {key: self._all[key] for key in active}
        return self._some[active]


def _frozen(
    plan: Plan,
    row: Row,
    values: Values | None,
    ill: Container[int],
    cache: _Cache,
) -> FrozenTrial:
    """The row as Optuna's trial. Where any trial of the level is in `ill`, health is a constraint
    of every one.
    """
    domains = plan.space.domains
    active = plan.space.active(row.sampled, among=row.sampled)
    state = TrialState.RUNNING if values is None else TrialState.COMPLETE
    trial = _FrozenRow(
        number=row.number + _NUMBERS,
        trial_id=row.number + _NUMBERS,
        state=state,
        value=None,
        values=None if values is None else [values[o.metric] for o in plan.goal.objectives],
        datetime_start=_EPOCH,
        datetime_complete=_EPOCH if state.is_finished() else None,
        params={key: encode(domains[key], row.sampled[key]) for key in active},
        distributions=cache.distributions_of(active),
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    if values is not None:
        trial.limits = {str(c): c.excess(values) for c in plan.goal.constraints}
        if ill:
            trial.limits[HEALTH] = 1.0 if row.number in ill else -1.0
    return trial


class _FrozenRow(FrozenTrial):
    """A trial whose constraints are read as they are: Optuna unpacks them from its attributes each
    time, once a group of keys for every trial.
    """

    limits: dict[str, float] = {}  # noqa: RUF012 - never written to

    @property
    def constraints(self) -> dict[str, float]:
        return self.limits


class _Told(InMemoryStorage):
    """Optuna's storage in memory, with given trials added as they are. Optuna's own way to add one
    (`Study.add_trial`) checks and copies each, at every ask.
    """

    def __init__(self, rows: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._rows = rows

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        asked = super().get_all_trials(study_id, deepcopy, states)
        return [row for row in self._rows if states is None or row.state in states] + asked


def _random(plan: Plan, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(plan: Plan, seed: int) -> BaseSampler:
    """Multivariate TPE, by groups of keys where a space has conditions: without groups a joint
    model has only the keys that every trial has, which may be none.

    It is multivariate for several objectives as well, where Optuna's default is one key at a time:
    that was never better (100 trials of ZDT1 with six keys and of a convex front, 6 seeds), and
    splits the trials once a key instead of once an ask.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if any(domain.when for domain in plan.space.domains.values()):
            return _Grouped(seed)
        return _Joint(plan, seed)


class _Grouped(TPESampler):
    """Multivariate TPE by groups of keys that exist together: those of Optuna's own `group=True`,
    but each is drawn when the first of its keys is asked for. Optuna draws all of them for every
    trial, and most of them are not used where a space has many conditions.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._group_of: dict[str, dict[str, BaseDistribution]] = {}
        self._drawn: dict[str, Any] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Finds the groups. Nothing is drawn before it is asked for."""
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._group_of, self._drawn = _groups(t.distributions for t in told), {}
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name not in self._drawn:
            group = self._group_of.get(param_name, {})
            self._drawn.update(self._sample_relative(study, trial, group))
        if param_name in self._drawn:
            return self._drawn[param_name]
        # Fewer trials than TPE starts from, or none with this key.
        return super().sample_independent(study, trial, param_name, param_distribution)


def _groups(
    told: Iterable[dict[str, BaseDistribution]],
) -> dict[str, dict[str, BaseDistribution]]:
    """The keys that exist together with each key: in the same ones of the given trials, in
    alphabetical order. Trials with the same active keys share one dict.
    """
    members: dict[str, int] = {}
    distributions: dict[str, BaseDistribution] = {}
    for number, active in enumerate({id(active): active for active in told}.values()):
        distributions.update(active)
        for key in active:
            members[key] = members.get(key, 0) | 1 << number
    found: dict[int, dict[str, BaseDistribution]] = {}
    for key in sorted(key for key, domain in distributions.items() if not domain.single()):
        found.setdefault(members[key], {})[key] = distributions[key]
    return {key: found[members[key]] for group in found.values() for key in group}


class _Joint(TPESampler):
    """Multivariate TPE over a space without conditions, which is given instead of inferred from
    all trials.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._space = {
            key: distribution(plan.space.domains[key]) for key in sorted(plan.space.domains)
        }

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space


def _gp(plan: Plan, seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _nsga2(plan: Plan, seed: int) -> BaseSampler:
    return _Steady(seed=seed)


class _Steady(NSGAIISampler):
    """NSGA-II (Deb et al. 2002) in steady state: the parents are the elite of all trials, by rank
    and crowding distance, as soon as there is a population of them.

    Optuna stores a generation in each trial, which the log does not have; and repeatedly selecting
    the elite among the newest generation and the last elite selects the elite of all.
    """

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return int(len(trials) >= (self.population_size or 0))

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


MAKERS: Mapping[str, Callable[[Plan, int], BaseSampler]] = {
    "random": _random,
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
}
"""Optuna's samplers by name."""
