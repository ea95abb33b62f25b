"""The rules of a system's data and modules, and of what is random about them, on a few samples."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from losses.terms import Tensors
from settings.flat import leaves
from trainables.contract.examined import Examined, cloned, forward, same, seed_everything
from trainables.contract.fault import Fault
from trainables.contract.keys import declares, guilty
from trainables.parts import Built, Loaders, Phase
from trainables.stepping.devices import seed_torch
from trainables.stepping.inputs import SEED, in_validation
from trainables.stepping.train_settings import SystemSettings

_SEEDS = 8
"""Draws of one sample that are compared: of few, a random flip may leave all as they are."""

_EPOCHS, _POSITIONS = 2, 4096
"""Passes through the training samples in which an order is looked at, and how far at most."""


def prepares_the_same_again(examined: Examined) -> Iterator[Fault]:
    """`prepare` gives the same from the cache, in another cache, and through a pickle."""
    once = examined.prepared
    way_out = "Draw from a seed of the settings, and name every file by what it was made from"
    rule = "preparing again gives the same"
    if not _equal(examined.system.prepare(examined.settings, examined.cache), once):
        yield Fault("member prepare", rule, "another value comes out of the cache", way_out)
    with tempfile.TemporaryDirectory() as folder:
        again = examined.system.prepare(examined.settings, Path(folder))
        if not _equal(pickle.loads(pickle.dumps(again)), again):  # noqa: S301 - our own bytes
            yield Fault(
                "member prepare",
                "it returns something picklable",
                f"{type(again).__name__} comes back as another",
                "Return plain values, arrays or a frozen dataclass of them",
            )
        other = examined.system.loaders(examined.settings, again)
        pairs = zip(_some(examined.loaders), _some(other), strict=False)
        if any(not same(sample, anew) for sample, anew in pairs):
            yield Fault("member prepare", rule, "another cache gives other samples", way_out)


def _some(loaders: Loaders) -> Iterator[dict[str, torch.Tensor]]:
    train: Any = loaders.train
    validation: Any = loaders.validation
    for index in range(min(3, len(train))):
        yield train[(index, 5)]
    for index in range(min(3, len(validation))):
        yield validation[index]


def _equal(prepared: object, other: object) -> bool:
    try:
        equal = bool(prepared == other)
    except (ValueError, RuntimeError):  # arrays
        equal = False
    # Or their bytes: what holds NaN equals nothing.
    return equal or pickle.dumps(prepared) == pickle.dumps(other)


def draws_samples_from_their_seed(examined: Examined) -> Iterator[Fault]:
    """A training sample is a function of index and seed, a validation sample of its index."""
    train: Any = examined.loaders.train
    validation: Any = examined.loaders.validation
    if SEED in train[(0, 1)] and torch.equal(train[(0, 1)][SEED], train[(0, 2)][SEED]):
        yield Fault(
            "training sample",
            f"its `{SEED}`, where it has one, is its own seed, by which a forward draws",
            f"it is {train[(0, 1)][SEED].tolist()} for two seeds",
            "Leave it out, for the loop adds it; call another quantity otherwise",
        )
    draws = {
        "training sample": lambda: train[(min(1, len(train) - 1), 99)],
        "validation sample": lambda: validation[0],
    }
    for subject, draw in draws.items():
        drawn = []
        for seed in (1, 2):
            seed_everything(seed)
            state = torch.get_rng_state()
            drawn.append(draw())
        if same(*drawn) and not torch.equal(state, torch.get_rng_state()):
            yield Fault(
                subject,
                "it leaves torch's global generator alone, from which a forward draws",
                "the generator is at another place after it",
                "Draw from a torch.Generator of the sample's seed, and seed nothing else",
            )
        if not all(isinstance(value, torch.Tensor) for value in drawn[0].values()):
            kinds = {key: type(value).__name__ for key, value in drawn[0].items()}
            yield Fault(subject, "it is a dict of tensors", f"it holds {kinds}", "Convert them")
        elif not same(*drawn):
            yield Fault(
                subject,
                "all that is random about it comes from its seed",
                "drawn again, with the global generators at another place, it is another one",
                "Make a torch.Generator or numpy Generator of the seed in train[(index, seed)], "
                "draw nothing in validation[index], and let the data set count nothing",
            )


def draws_in_a_pure_order(examined: Examined) -> Iterator[Fault]:
    """`Loaders.order` gives samples that there are, as a function of seed and position alone."""
    order = examined.loaders.order
    if order is None:
        return
    train: Any = examined.loaders.train
    size, batch = len(train), examined.settings.train.batch_size
    positions = range(min(_EPOCHS * size, _POSITIONS) + batch)
    index = order(size, batch)
    drawn = [index(seed, position) for seed in (0, 1) for position in positions]
    strange = next((i for i in drawn if type(i) is not int or not 0 <= i < size), None)
    if strange is not None:
        yield Fault(
            "Loaders.order",
            f"it gives the index of one of the {size} training samples",
            f"it gives {strange!r}",
            "Return an int from 0 on",
        )
    again = order(size, batch)
    backwards = [again(seed, at) for seed in (1, 0) for at in reversed(positions)]
    if drawn != backwards[::-1]:
        yield Fault(
            "Loaders.order",
            "it is a function of seed and position, so that a training can be resumed anywhere",
            "asked again from the last position to the first, it gives other samples",
            "Draw from a generator made of the seed and the epoch, and count nothing",
        )


def validates_on_the_same_samples(examined: Examined) -> Iterator[Fault]:
    """No key that a space may search changes what trials are measured on."""

    def samples(settings: SystemSettings) -> list[tuple[str, bytes]]:
        validation: Any = examined.system.loaders(settings, examined.prepared).validation
        first = [validation[index] for index in range(min(3, len(validation)))]
        tensors = [(key, value) for sample in first for key, value in sorted(sample.items())]
        return [(key, value.numpy().tobytes()) for key, value in tensors]

    readers = [measure.reads for measure in examined.measures if measure.mode is not None]
    keys = [
        key
        for key in leaves(type(examined.settings))
        if not declares(examined.system.prepare_reads, key)
        and not all(declares(reads, key) for reads in readers)
    ]
    for key in guilty(keys, examined.settings, samples, samples(examined.settings)):
        yield Fault(
            f"key {key}",
            "all trials of a sweep are measured on the same validation samples",
            "it changes them, and a space may search it",
            "Let it change training samples alone, or name it in `prepare_reads`, or in `reads` "
            "of every metric",
        )


def builds_from_the_seed(examined: Examined) -> Iterator[Fault]:
    """Equal seeds give equal models and different seeds different ones; each module is updated by
    one phase, or frozen.
    """
    states, prepared = [], examined.prepared  # before the seed: it may draw itself
    for seed in (3, 3, 4):
        seed_torch(seed, torch.cuda.is_available())
        built = examined.system.build(examined.settings, prepared)
        states.append({k: v for k, v in _state(built).items() if v.is_floating_point()})
    if not same(states[0], states[1]):
        yield Fault(
            "member build",
            "one state of torch's generator gives one model",
            "two models of one seed differ",
            "Initialise from torch's current generator and no other",
        )
    if same(states[0], states[2]) and any(p.requires_grad for p in _parameters(built)):
        yield Fault(
            "member build",
            "another state of torch's generator gives another model",
            "models of two seeds are equal",
            "Initialise from torch's current generator, and seed nothing in build",
        )
    names = {f"{n}.{key}" for n, m in built.modules.items() for key, _ in m.named_parameters()}
    for name in sorted(set(built.no_decay) - names):
        yield Fault(f"no_decay {name}", "it names a parameter", "there is none", "Mend the name")
    used = [name for phase in examined.declared for name in phase.modules]
    for name, module in built.modules.items():
        trained = any(parameter.requires_grad for parameter in module.parameters())
        if used.count(name) != int(trained):
            yield Fault(
                f"module {name}",
                "each module is updated by one phase, or frozen",
                f"{used.count(name)} phases name it, and it "
                + ("has parameters with a gradient" if trained else "has none with a gradient"),
                "Name it in one phase's `modules`, or call requires_grad_(False)",
            )


def _state(built: Built) -> dict[str, torch.Tensor]:
    return {f"{n}.{k}": v for n, m in built.modules.items() for k, v in m.state_dict().items()}


def _parameters(built: Built) -> Iterator[torch.nn.Parameter]:
    for module in built.modules.values():
        yield from module.parameters()


def finds_its_settings_trainable(examined: Examined) -> Iterator[Fault]:
    """The pre-flight has nothing hopeless to say of the settings that are looked at."""
    for finding in examined.system.preflight(examined.settings, examined.prepared):
        if finding.hopeless or not finding.text:
            yield Fault(
                "member preflight",
                "the settings looked at are trainable, and a finding has a text",
                finding.text or "it is empty",
                "Change `small`, or give settings by key=value",
            )


def moves_what_its_phase_trains(examined: Examined) -> Iterator[Fault]:
    """Each term alone has a finite gradient that reaches what the term's own phase updates; every
    tensor of a prediction has the samples on its first axis; a forward leaves the batch alone.
    """
    settings = examined.audited
    modules = examined.modules(settings)
    for phase, prediction, batch in examined.predictions(settings, modules):
        size = len(next(iter(batch.values())))
        for key, value in prediction.items():
            if not value.ndim or value.shape[0] != size:
                yield Fault(
                    f"forward of phase {phase.name}",
                    "every tensor of a prediction has the samples on its first axis",
                    f"{key} is {list(value.shape)} for {size} samples",
                    "Keep what is no sample's in the modules",
                )
                return
        if phase.name in examined.system.audit_tensors(settings, examined.prepared):
            continue
        before = cloned(batch)
        whole = examined.with_averages(settings, copy.deepcopy(modules))
        forward(phase, whole, batch, settings)
        if not same(before, cloned(batch)):
            yield Fault(
                f"forward of phase {phase.name}",
                "a forward leaves the batch as it is",
                "the batch is another one after it",
                "Put what it makes into the prediction",
            )
        updated = [p for name in phase.modules for p in modules[name].parameters()]
        updated = [p for p in updated if p.requires_grad]
        for name, term in phase.composite.terms.items():
            total, _ = term(prediction, batch, settings)
            gradients = (
                torch.autograd.grad(total, updated, retain_graph=True, allow_unused=True)
                if total.requires_grad
                else ()
            )
            reached = [g for g in gradients if g is not None]
            if not any(bool((g != 0).any()) for g in reached):
                yield Fault(
                    f"term {name}",
                    f"its gradient reaches what phase {phase.name} updates",
                    "it is 0 for every parameter",
                    "Let the forward keep its graph, and name settings in `audit` under which "
                    "the term has something to do",
                )
            elif not all(bool(torch.isfinite(g).all()) for g in reached):
                yield Fault(
                    f"term {name}",
                    "its gradient is finite for every parameter",
                    "one holds NaN or infinity",
                    "Keep roots, logarithms and divisors away from 0 by an epsilon",
                )


def draws_by_sample(examined: Examined) -> Iterator[Fault]:
    """A forward draws from the seeds of its samples, and from no generator: those of two workers
    differ, and a validation finds them wherever the training left them. Only the dropout of
    `torch.nn` does as it likes.
    """
    settings = examined.settings
    modules = examined.with_averages(settings, examined.modules(settings))
    _without_dropout(modules)
    for phase, _, batch in examined.predictions(settings, modules):
        if phase.name not in examined.system.audit_tensors(settings, examined.prepared):
            yield from _faults(phase, modules, batch, examined, "training")
    for module in modules.values():
        module.eval()
    batch = examined.batch(settings, validation=True)
    with torch.no_grad():
        for phase in examined.system.phases(settings, examined.prepared):
            told = in_validation(phase)(batch)
            yield from _faults(phase, modules, told, examined, "validation")
            batch |= phase.shared_outputs(forward(phase, modules, told, settings))


def _without_dropout(modules: Mapping[str, nn.Module]) -> None:
    for part in (part for module in modules.values() for part in module.modules()):
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        elif isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
            part.dropout = 0.0


def _faults(
    phase: Phase,
    modules: Mapping[str, nn.Module],
    batch: Tensors,
    examined: Examined,
    when: str,
) -> Iterator[Fault]:
    before = _generators()
    phase.forward(modules, batch, examined.settings)
    after = _generators()
    moved = [name for name, state in before.items() if after[name] != state]
    if moved:
        yield Fault(
            f"forward of phase {phase.name}",
            "it draws from the seeds of its samples, so that workers and micro-batches share one "
            "law and one sequence",
            f"in {when} it draws from the generator of {', '.join(moved)}",
            'Use draw_normal(batch["seed"], "name", shape) or its kin of `trainables.api`; only '
            "torch.nn's own dropout may use torch's generator",
        )


def _generators() -> dict[str, object]:
    """Where the generators of the process stand."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["pos"],
    }


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (
    prepares_the_same_again,
    draws_samples_from_their_seed,
    draws_in_a_pure_order,
    validates_on_the_same_samples,
    builds_from_the_seed,
    finds_its_settings_trainable,
    moves_what_its_phase_trains,
    draws_by_sample,
)
