"""The rules of what a system declares: members, settings, metrics, terms. No data is looked at."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Callable, Iterator

from losses.terms import TermSettings
from metrics.metric import Column, Metric
from settings.flat import flatten, leaves, replace
from settings.schema import SettingsError
from trainables.contract.examined import Examined
from trainables.contract.fault import Fault
from trainables.system import offers

REQUIRED = ("build", "loaders", "phases", "metrics")
MEMBERS = (*REQUIRED, "prepare", "preflight")


def has_the_members(examined: Examined) -> Iterator[Fault]:
    """Every member of `System` is there, as a method of (settings, prepared) or (settings, cache).
    """
    for member in MEMBERS:
        method = getattr(examined.system, member)
        there = callable(method) and (member not in REQUIRED or offers(examined.system, member))
        count = len(inspect.signature(method).parameters) if there else None
        if count != 2:
            yield Fault(
                f"member {member}",
                "it is a method of two arguments beside self (`trainables.system.System`)",
                "it is missing" if count is None else f"it takes {count}",
                "Write it as the contract has it",
            )
    if not isinstance(examined.system.prepare_reads, tuple):
        yield Fault(
            "member prepare_reads",
            "it is a tuple of patterns of settings keys",
            f"it is {examined.system.prepare_reads!r}",
            'Write prepare_reads = ("data.*",)',
        )


def has_the_nodes_of_the_loop(examined: Examined) -> Iterator[Fault]:
    """The tree has `train` and the optimizer of every phase, `optimizer` for the first one."""
    keys = leaves(examined.system.Settings)
    for node in ("train", *dict.fromkeys(phase.optimizer for phase in examined.declared)):
        if not any(key.startswith(f"{node}.") for key in keys):
            yield Fault(
                f"node {node}",
                "the settings tree has the nodes that the loop reads",
                "it is missing",
                f"Add {node}: TrainSettings or OptimizerSettings",
            )
    if examined.declared[0].optimizer != "optimizer":
        yield Fault(
            f"phase {examined.declared[0].name}",
            "the first phase is updated by the node `optimizer`",
            f"it names {examined.declared[0].optimizer!r}",
            "Rename the node",
        )


def survives_json(examined: Examined) -> Iterator[Fault]:
    """A configuration is the same after a round trip through JSON, whatever the keys' order."""
    flat = flatten(examined.settings)
    stored = json.loads(json.dumps(flat))
    for values in (stored, dict(reversed(stored.items()))):
        if replace(examined.system.Settings(), values) != examined.settings:
            yield Fault(
                "Settings",
                "a configuration survives JSON, in any order of its keys",
                "it came back as another",
                "Let every leaf be made by `setting`, and keep values in the leaf's own type",
            )
            return


def explains_every_key(examined: Examined) -> Iterator[Fault]:
    """Every leaf has a line of help."""
    for key, leaf in leaves(examined.system.Settings).items():
        if not leaf.help.strip():
            yield Fault(f"key {key}", "every key has a line of help", "it has none", "Write it")


def refuses_what_does_not_exist(examined: Examined) -> Iterator[Fault]:
    """`refused` names keys that are not there."""
    keys = list(leaves(examined.system.Settings))
    for key in examined.system.refused:
        if there := fnmatch.filter(keys, f"{key}*"):
            yield Fault(
                f"refused {key}",
                "what is refused does not exist",
                f"there is {there[0]}",
                "Take it out of `refused`, or remove the key",
            )


def declares_metrics(examined: Examined) -> Iterator[Fault]:
    """Metrics, and the columns of examinations, have unique and free names with their units, a
    line of help, and one of them a direction.
    """
    try:
        metrics = list(examined.measures)
    except SettingsError as error:
        yield Fault("examinations", "their names are free", str(error), "Rename one")
        return
    names = [metric.name for metric in metrics if isinstance(metric, Metric | Column)]
    if not any(metric.mode is not None for metric in metrics):
        yield Fault(
            "metrics",
            "one has a better direction, or nothing could be an objective",
            f"none of {len(metrics)} has",
            'Give one mode="min" or "max"',
        )
    for metric in metrics:
        subject = f"metric {metric.name}"
        if names.count(metric.name) > 1:
            yield Fault(subject, "names are unique", "it stands twice", "Rename one")
        if metric.mode not in ("min", "max", None):
            yield Fault(subject, "mode is min, max or None", f"it is {metric.mode!r}", "Change it")
        if not metric.help.strip():
            yield Fault(subject, "every metric has a line of help", "it has none", "Write it")
        if metric.name.startswith(("loss.", "critic.")):
            yield Fault(
                subject, "loss.* and critic.* are the columns of terms", "it has one", "Rename it"
            )
        if metric.unit == "dB" and not metric.name.endswith("_db"):
            yield Fault(
                subject, "units stand in names", "decibels without _db at the end", "Add it"
            )


def reads_keys_that_exist(examined: Examined) -> Iterator[Fault]:
    """Every pattern of `reads` and `prepare_reads` fits a key."""
    keys = list(leaves(examined.system.Settings))
    readers = {f"metric {metric.name}": metric.reads for metric in examined.measures}
    for phase, name, _ in examined.nodes():
        readers[f"term {name}"] = phase.composite.terms[name].reads
    readers["member prepare"] = examined.system.prepare_reads
    for reader, patterns in readers.items():
        for pattern in patterns:
            if not fnmatch.filter(keys, pattern):
                yield Fault(reader, "what it reads exists", f"{pattern} fits no key", "Mend it")


def has_a_node_for_every_term(examined: Examined) -> Iterator[Fault]:
    """Each term has a `TermSettings` at `<prefix>.<term>`, and no two phases share a prefix."""
    prefixes = [phase.composite.prefix for phase in examined.declared]
    if len(set(prefixes)) < len(prefixes):
        yield Fault(
            "phases",
            "each has a prefix of its own for its terms",
            f"they have {', '.join(prefixes)}",
            'Give the second one Composite(terms, settings.critic, "critic")',
        )
    for phase, name, node in examined.nodes():
        value = getattr(getattr(examined.settings, phase.composite.prefix), name, None)
        if not isinstance(value, TermSettings):
            yield Fault(
                f"term {name}",
                f"its settings node {node} is a TermSettings",
                f"it is {type(value).__name__}",
                "Add the node, or derive it from TermSettings",
            )


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (
    has_the_members,
    has_the_nodes_of_the_loop,
    survives_json,
    explains_every_key,
    refuses_what_does_not_exist,
    declares_metrics,
    reads_keys_that_exist,
    has_a_node_for_every_term,
)
