"""Importance of the searched keys for being among the best trials: PED-ANOVA, by Optuna.

Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
Arbitrary Subspaces" (IJCAI 2023); keys that are active only under a condition as in its
conditional extension, which Optuna implements.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from results.directory import History, Sweep
from search.log import COMPLETE, TrialRecord
from search.optuna.distributions import distribution, encode
from search_spaces.domains import Domain, domain_from_json
from search_spaces.space import Space
from settings.schema import Value

MIN_TRIALS = 10
"""Number of complete trials below which nothing is computed."""

TOP_TRIALS = 5
"""Least number of trials in the best quantile; Optuna advises five or more."""

TOP_QUANTILE = 0.1
"""Share of the best trials, whose distribution of values is compared with that of all."""


@dataclass(frozen=True)
class Importance:
    """Shares that add up to 1, largest first; empty where they could not be computed.

    Attributes:
        metric: the column by which trials are best.
        trials: number of complete trials inside the space that were used.
        note: a remark for the reader: why the shares are empty, or how reliable they are.
    """

    metric: str
    trials: int
    shares: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def importance(
    sweep: Sweep, history: History, frame: pd.DataFrame, metric: str | None = None
) -> Importance:
    """The importance of each searched key for one metric at the last report; the objective by
    default.

    Only complete trials inside the space count: a stopped trial was judged at another step, and a
    documented point outside has values that the space does not know.
    """
    name = metric or sweep.objective.metric
    mode = sweep.mode(name)
    if mode not in ("min", "max"):
        usable = [key for key in sweep.metrics if sweep.mode(key)] or [sweep.objective.metric]
        raise ValueError(
            f"{name} has no better direction, so no trial is best by it. "
            f"Choose one of: {', '.join(usable)}."
        )
    values = frame["value"] if metric is None else frame[f"last/{name}"]
    by_trial = dict(zip(frame["trial"], values, strict=True))
    domains = {key: domain_from_json(node) for key, node in sweep.domains.items()}
    used = [
        (params, by_trial[trial.number])
        for trial in history.trials
        if trial.status == COMPLETE
        and trial.repeat_of is None
        and math.isfinite(by_trial.get(trial.number, math.nan))
        and (params := _drawn(sweep, trial, domains))
    ]
    count = len(used)
    if count < MIN_TRIALS:
        return Importance(
            name, count, note=f"too few complete trials: {count} of the {MIN_TRIALS} that it takes"
        )
    if len({value for _, value in used}) == 1:
        return Importance(name, count, note=f"all {count} complete trials have the same {name}")
    quantile = max(TOP_QUANTILE, TOP_TRIALS / count)
    shares = _ped_anova(used, domains, mode == "max", quantile)
    if not shares:
        return Importance(name, count, note="no key decides whether a trial is among the best")
    enough = round(TOP_TRIALS / TOP_QUANTILE)
    weak = f"; below {enough} trials the order is a hint, not a finding" if count < enough else ""
    note = f"PED-ANOVA, best {quantile:.0%} of {count} complete trials{weak}"
    return Importance(name, count, shares, note)


def _drawn(sweep: Sweep, trial: TrialRecord, domains: Mapping[str, Domain]) -> dict[str, Value]:
    """The values of the active searched keys; none for a trial that left the space."""
    drawn = {key: value for key, value in trial.sampled.items() if key in domains}
    if trial.outside or not all(domains[key].contains(value) for key, value in drawn.items()):
        return {}
    if trial.point:  # a preset also sets keys that are not active in it
        active = Space(sweep.space, sweep.system, domains).active({**sweep.settings, **drawn})
        drawn = {key: value for key, value in drawn.items() if key in active}
    return drawn


def _ped_anova(
    used: Sequence[tuple[dict[str, Value], float]],
    domains: Mapping[str, Domain],
    maximize: bool,
    quantile: float,
) -> dict[str, float]:
    import optuna

    study = _quiet_study(maximize)
    distributions = {key: distribution(domain) for key, domain in domains.items()}
    trials = [
        optuna.trial.create_trial(
            params={key: encode(domains[key], drawn[key]) for key in drawn},
            distributions={key: distributions[key] for key in drawn},
            value=value,
        )
        for drawn, value in used
    ]
    study.add_trials(trials)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        # Of quantiles that select the same trials; they end in equal shares, handled below.
        warnings.simplefilter("ignore")
        raw = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(raw.values())
    if not total > 0:
        return {}
    return {key: value / total for key, value in sorted(raw.items(), key=lambda item: -item[1])}


def _quiet_study(maximize: bool) -> Any:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize" if maximize else "minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)
