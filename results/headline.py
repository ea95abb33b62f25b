"""The outcome of a sweep in a few sentences."""

from __future__ import annotations

import math

import pandas as pd

from results.directory import Sweep
from results.front import Hypervolumes, reference_text
from results.leaderboard import judged, leader, number, reference, score


def headline(frame: pd.DataFrame, sweep: Sweep, volumes: Hypervolumes | None) -> str:
    """Sentences on the best trial, its lead over the document's point and its ties; with several
    objectives also on the front, its knee and its hypervolume (`results.front.hypervolumes`).
    """
    text = _best(frame, sweep)
    return text if volumes is None else f"{_front(frame, sweep, volumes)} {text}"


def _best(frame: pd.DataFrame, sweep: Sweep) -> str:
    metric = sweep.objective.metric
    best = leader(frame, sweep)
    if best is None:
        return f"No trial has reported {metric} yet."
    if best["violation"] > 0:
        return (
            f"No complete trial keeps the constraints yet; trial {best['trial']} "
            f"({best['state']}) misses them by {number(best['violation'])}."
        )
    if best["state"] == "failed":
        return (
            f"No trial is complete; trial {best['trial']} came to {metric} "
            f"{number(best['value'])} before it failed."
        )
    if not best["feasible"]:  # ill health has stopped it
        return (
            f"No trial is complete yet; trial {best['trial']} is no result: {best['stop_reason']}."
        )
    verb = "is best" if best["is_best"] else f"is ahead ({best['state']})"
    if len(sweep.objectives) > 1:
        verb += " by the first objective"
    text = f"Trial {best['trial']} {verb}: {metric} {estimate(best)}"
    return f"{text}; {_against_document(best, frame, sweep)}.{_ties(best, frame)}"


def _against_document(best: pd.Series, frame: pd.DataFrame, sweep: Sweep) -> str:
    document = reference(frame, sweep)
    if document is None:
        return "no documented point was run"
    if document["trial"] == best["trial"]:
        return f"it is the documented point {document['point']}"
    there, here = score(document), score(best)
    if document["state"] in ("failed", "stopped"):
        return (
            f"the documented point {document['point']} has no result ({document['state']} at step "
            f"{document['steps']})"
        )
    if not math.isfinite(there):
        return f"the documented point {document['point']} has no value ({document['state']})"
    gain = (there - here) * (1 if sweep.objective.mode == "min" else -1)
    share = f" ({abs(gain / there):.1%})" if there else ""
    side = "better" if gain >= 0 else "worse"
    both = document["state"] == "complete" == best["state"]
    caution = "" if both else ", of trials not both complete"
    if document["violation"] > 0:
        caution += ", and that point misses the constraints"
    if _has_repeats(best) and not _has_repeats(document):
        caution += ", which was trained once"
    than = f"{side} than the documented point {document['point']}"
    return f"{than} by {number(abs(gain))}{share}{caution}"


def _ties(best: pd.Series, frame: pd.DataFrame) -> str:
    """A sentence on the repeated configurations that share the winner's rank."""
    if not _has_repeats(best):
        return ""
    rank = frame["repeats/rank"]
    tied = frame.loc[(rank == best["repeats/rank"]).fillna(False), "trial"].tolist()
    others = [str(trial) for trial in tied if trial != best["trial"]]
    count = int(best["repeats/n"])
    draws = f" Mean ± standard error of {count} fresh seed{'s' if count > 1 else ''}"
    repeated = int((frame["repeats/n"] > 0).sum())
    if repeated == 1:
        return f"{draws}; no other configuration was repeated."
    if count == 1:
        return f"{draws}; one draw has no standard error, so its lead over the others may be luck."
    if not others:
        return f"{draws}; no other configuration is within two standard errors of it."
    if len(others) == 1:
        return f"{draws}; trial {others[0]} ties with it: it is within two standard errors."
    return f"{draws}; trials {', '.join(others)} tie with it: within two standard errors."


def _has_repeats(row: pd.Series) -> bool:
    return bool(row.get("repeats/n", 0) > 0)


def estimate(row: pd.Series) -> str:
    """The first objective: the mean over repeats with its standard error, or the one value."""
    if not _has_repeats(row):
        return number(row["value"])
    error = row["repeats/se"]
    spread = f" ± {error:.2g}" if math.isfinite(error) else ""
    return number(row["repeats/mean"]) + spread


def _front(frame: pd.DataFrame, sweep: Sweep, volumes: Hypervolumes) -> str:
    front = frame[frame["is_pareto"]]
    if front.empty:
        return "No trial is complete and feasible yet, so there is no front."
    size = len(front)
    text = f"{size} trial{' makes' if size == 1 else 's make'} the front."
    if volumes.reference:
        last = volumes.course["hypervolume"].iloc[-1]
        text += f" Hypervolume {number(last)} up to {reference_text(volumes.reference)}."
    knees = frame[frame["is_knee"]]
    if not knees.empty:
        values = ", ".join(
            f"{o.metric} {number(judged(knees, sweep, o.metric).iloc[0])}"
            for o in sweep.objectives
        )
        text += f" Knee: trial {knees['trial'].iloc[0]} ({values})."
    return text + _dominating(front, frame, sweep)


def _dominating(front: pd.DataFrame, frame: pd.DataFrame, sweep: Sweep) -> str:
    document = reference(frame, sweep)
    if document is None or document["is_pareto"] or document["state"] != "complete":
        return ""
    better = pd.Series(True, index=front.index)
    for objective in sweep.objectives:
        values = judged(frame, sweep, objective.metric)
        there = float(values[frame["trial"] == document["trial"]].iloc[0])
        gain = there - values[front.index]
        better &= (gain if objective.mode == "min" else -gain) >= 0
    count = int(better.sum())
    return (
        f" {count} of the front {'is' if count == 1 else 'are'} at least as good as the "
        f"documented point {document['point']} in every objective."
    )
