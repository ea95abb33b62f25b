"""All rules of the contract, asked of one system."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trainables.contract import (
    beginning,
    beside,
    cases,
    declarations,
    examinations,
    metrics,
    samples,
    terms,
    training,
)
from trainables.contract.examined import Examined
from trainables.contract.fault import Fault
from trainables.stepping.inputs import SCHEDULE

SYSTEM = "system"
"""The subject of an exception, which no rule can name more closely."""

Rule = Callable[[Examined], Iterable[Fault]]


def keeps_the_rules_of_terms(examined: Examined) -> Iterator[Fault]:
    """Every rule of `trainables.contract.terms`, for every term."""
    for case in cases.term_cases(examined):
        yield from terms.faults_of_term(case)


RULES: tuple[Rule, ...] = (
    *declarations.RULES,
    *samples.RULES,
    *beginning.RULES,
    terms.counts_the_batch_alone,
    keeps_the_rules_of_terms,
    *metrics.RULES,
    *examinations.RULES,
    *beside.RULES,
    *training.RULES,
)
"""In the order in which they are asked: later ones assume that the earlier ones hold."""


def faults_of(rule: Rule, examined: Examined) -> list[Fault]:
    """The faults that a rule finds, or the exception of the system's own code as one."""
    faults: list[Fault] = []
    try:
        faults += rule(examined)
    except Exception as error:  # somebody's own code: whatever it raises is told
        faults.append(_raised(rule, error))
    return faults


def check(examined: Examined, said: Callable[[str], None] = lambda line: None) -> list[Fault]:
    """The faults of a system, each once; an exception is told once, whichever rules it came to.
    Where a member is missing, or declarations are broken, nothing further is asked.

    Args:
        said: is told what is looked at.
    """
    faults: dict[Fault, None] = {}
    for rule in RULES:
        if faults and rule in (declarations.RULES[1], samples.RULES[0]):
            break
        said(rule.__name__.replace("_", " "))
        for fault in faults_of(rule, examined):
            is_told = any(fault.value == earlier.value for earlier in faults)
            if not (fault.subject == SYSTEM and is_told):
                faults[fault] = None
    return list(faults)


def _raised(rule: Rule, error: Exception) -> Fault:
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    outside = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    theirs = [frame for frame in outside if Path(frame.filename).parent != ours]
    last = (theirs or outside or frames)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    text = " ".join(str(error).split())[:300]
    way_out = "Mend what raises, or give settings under which it does not (key=value)"
    if isinstance(error, KeyError) and SCHEDULE in text:
        way_out = (
            f"A batch has `{SCHEDULE}<settings key>` of each of Phase.schedules, but in "
            "validation not of Phase.training_schedules: ask whether it is there"
        )
    return Fault(
        SYSTEM,
        rule.__name__.replace("_", " "),
        f"{type(error).__name__} at {where}: {text}",
        way_out,
    )
