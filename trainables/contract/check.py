"""All rules of the contract, asked of one system."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trainables.contract import declarations, metrics, samples, terms, training
from trainables.contract.examined import Examined
from trainables.contract.fault import Fault

Rule = Callable[[Examined], Iterable[Fault]]


def keeps_the_rules_of_terms(examined: Examined) -> Iterator[Fault]:
    """Every rule of `trainables.contract.terms`, for every term."""
    for case in terms.term_cases(examined):
        for rule in terms.RULES:
            yield from rule(case)


RULES: tuple[Rule, ...] = (
    *declarations.RULES,
    *samples.RULES,
    terms.counts_the_batch_alone,
    keeps_the_rules_of_terms,
    *metrics.RULES,
    *training.RULES,
)
"""In the order in which they are asked: later ones assume that the earlier ones hold."""


def faults_of(rule: Rule, examined: Examined) -> list[Fault]:
    """What breaks a rule; an exception of the system's own code does, too."""
    faults: list[Fault] = []
    try:
        faults += rule(examined)
    except Exception as error:
        faults.append(_raised(rule, error))
    return faults


def check(examined: Examined, said: Callable[[str], None] = lambda line: None) -> list[Fault]:
    """The faults of a system, each once. Where its declarations are broken, no more is asked.

    Args:
        said: is told what is looked at.
    """
    found: dict[Fault, None] = {}
    for rule in RULES:
        if found and rule is samples.RULES[0]:
            break
        said(rule.__name__.replace("_", " "))
        found |= dict.fromkeys(faults_of(rule, examined))
    return list(found)


def _raised(rule: Rule, error: Exception) -> Fault:
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    theirs = [frame for frame in frames if Path(frame.filename).parent != ours]
    where = f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else "unknown"
    text = " ".join(str(error).split())[:300]
    return Fault(
        "system",
        rule.__name__.replace("_", " "),
        f"{type(error).__name__} at {where}: {text}",
        "Mend what raises, or give settings under which it does not (key=value)",
    )
