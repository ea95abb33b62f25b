"""The outcome of a sweep in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from results.directory import Sweep
from results.front import Hypervolumes, reference_text
from results.leaderboard import number
from results.ranking import documented, judged, leader, score
from results.references import (
    Gain,
    Look,
    affordable,
    gains_without_error,
    last_test,
    objective_of,
    read_references,
    validation_look,
)
from settings.words import counted, worded

_NAMED = 3
"""References that are named with their figures."""


def headline(frame: pd.DataFrame, sweep: Sweep, volumes: Hypervolumes | None) -> str:
    """Sentences on the best trial, its lead over the document's point and its ties; with several
    objectives also on the front, its knee and its hypervolume (`results.front.hypervolumes`).
    Where it does not beat every reference by two standard errors, that comes first.
    """
    look, test = validation_look(frame, sweep), last_test(frame, sweep)
    text = _best(frame, sweep, look)
    if volumes is not None:
        text = f"{_front(frame, sweep, volumes)} {text}"
    before, after = _beside(frame, sweep, text, look, test is None)
    return " ".join(part for part in (before, after, _test(sweep, test)) if part)


def _best(frame: pd.DataFrame, sweep: Sweep, look: Look | None) -> str:
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
    return f"{text}; {_against_document(best, frame, sweep, look)}.{_ties(best, frame)}"


def _beside(
    frame: pd.DataFrame, sweep: Sweep, text: str, look: Look | None, is_untested: bool
) -> tuple[str, str]:
    """The text with what the references say of the winner, before it or after it."""
    best, every = leader(frame, sweep), read_references(sweep)
    if best is None or not math.isfinite(best["value"]) or not every:
        return "", text
    who = f"Trial {best['trial']}"
    last = {str(name).removeprefix("last/"): value for name, value in best.items()}
    references = affordable(sweep, every, last if look is None else look.spent)
    dearer = len(every) - len(references)
    if look is None:
        gains = gains_without_error(score(best), sweep, references)
    else:
        gains = look.gains(sweep)
    if gains:
        said, beats = _against_references(gains, who, len(references), dearer)
        if look is not None:
            said += _caveat(look, gains, is_untested)
        return (text, said) if beats else (said, text)
    named = ((name, objective_of(sweep, it)) for name, it in references.items())
    name, value = next(named, ("", math.nan))
    if not math.isfinite(value):
        no_more = " and costs no more" if dearer else ""
        return text, f"No reference has a value of {sweep.objective.metric}{no_more}."
    gain = (value - score(best)) * (1 if sweep.objective.mode == "min" else -1)
    side = "better" if gain > 0 else "worse"
    than = f"{side} than the best reference, {name} ({number(value)}), by {number(abs(gain))}"
    said = (
        f"{who} is {than}; there is no error of it before the sweep is finished and its winner "
        "measured by unit."
    )
    return (text, said) if gain > 0 else (said, text)


def _against_references(
    gains: Mapping[str, Gain], who: str, count: int, dearer: int
) -> tuple[str, bool]:
    """A sentence on how the winner stands beside the references, and whether it beats them all.

    Args:
        count: of the references that spend no more, those without the objective included.
        dearer: how many spend more, and are not compared.
    """
    others = [f"{count - len(gains)} more have no such value"] if len(gains) < count else []
    others += [f"{dearer} more cost more than it, and are not compared"] if dearer else []
    silent = f" ({'; '.join(others)})" if others else ""
    open_ones = [name for name, gain in gains.items() if not gain.beats]
    if not open_ones:
        name, gain = next(iter(gains.items()))
        if len(gains) == 1:
            return f"It beats the only reference, {name}, by {gain}{silent}.", True
        return f"It beats every reference; the best of them, {name}, by {gain}{silent}.", True
    told = ", ".join(f"{name} {gains[name]}" for name in open_ones[:_NAMED])
    more = f" and {len(open_ones) - _NAMED} more" if len(open_ones) > _NAMED else ""
    if all(gain.paired.mean <= 0.0 for gain in gains.values()):
        verdict = "beats no reference"
    else:
        which = "any" if len(open_ones) == len(gains) else "every"
        verdict = f"is not shown to beat {which} reference by two standard errors"
    return f"{who} {verdict}: {told}{more}{silent}; positive is better.", False


def _caveat(look: Look, gains: Mapping[str, Gain], is_untested: bool) -> str:
    """What the errors are of, and which of the ways out were not taken."""
    if all(gain.paired.error is None for gain in gains.values()):
        return ""
    alone = len(look.winner) == 1
    of = "of one training each (--repeats adds seeds)" if alone else "and repeats"
    chosen = ", on the samples that chose the winner (--test has others)" if is_untested else ""
    return f" Errors are over units {of}{chosen}."


def _test(sweep: Sweep, look: Look | None) -> str:
    """What the test split says; "" without a look at it."""
    if look is None:
        return ""
    values = [objective_of(sweep, measured) for measured in look.winner]
    which = "" if look.number == 1 else f", look {look.number}"
    value = number(sum(values) / len(values))
    text = f"On the test split{which}: {sweep.objective.metric} {value}"
    over = look.over_document(sweep)
    if over is not None:
        text += f", over the documented point {look.document} {over}"
    gains = look.gains(sweep)
    beaten = sum(gain.beats for gain in gains.values())
    if gains:
        name, gain = next(iter(gains.items()))
        text += f", over the best reference {name} {gain}"
        text += f"; it beats {beaten} of {len(gains)} references by two standard errors"
    return f"{text}."


def _against_document(
    best: pd.Series, frame: pd.DataFrame, sweep: Sweep, look: Look | None
) -> str:
    document = documented(frame, sweep)
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
    over = None if look is None else look.over_document(sweep)
    units = "" if over is None or over.paired.error is None else f", by unit {over}"
    return f"{than} by {number(abs(gain))}{share}{units}{caution}"


def _ties(best: pd.Series, frame: pd.DataFrame) -> str:
    """A sentence on the repeated configurations that share the winner's rank."""
    if not _has_repeats(best):
        return ""
    rank = frame["repeats/rank"]
    tied = frame.loc[(rank == best["repeats/rank"]).fillna(False), "trial"].tolist()
    others = [str(trial) for trial in tied if trial != best["trial"]]
    count = int(best["repeats/n"])
    draws = f" Mean ± standard error of {counted(count, 'fresh seed')}"
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
    text = f"{counted(size, 'trial makes', 'trials make')} the front."
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
    document = documented(frame, sweep)
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
        f" {count} of the front {worded(count, 'is', 'are')} at least as good as the "
        f"documented point {document['point']} in every objective."
    )
