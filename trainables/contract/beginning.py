"""The rules of what modules begin with: weights from files, and what makes them ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from trainables.contract.examined import Examined, cloned, same
from trainables.contract.fault import Fault
from trainables.external import External, fingerprint, read_tensors
from trainables.parts import Built
from trainables.stepping.devices import seed_torch


def holds_external_weights_as_they_are(examined: Examined) -> Iterator[Fault]:
    """A module of `Built.external` is frozen and has the weights of its file, and neither `build`
    nor `ready` changes them.
    """
    built = examined.system.build(examined.settings, examined.prepared)
    used = {name for phase in examined.declared for name in phase.modules}
    for name, external in built.external.items():
        subject = f"Built.external[{name!r}]"
        if name not in built.modules:
            yield Fault(
                subject, "it is a module", f"there are {', '.join(built.modules)}", "Mend the name"
            )
        elif not isinstance(external, External):
            yield Fault(
                subject,
                "it is what `external_file` makes",
                f"it is a {type(external).__name__}",
                "Let `prepare` make it of the path, and `build` load its `file`",
            )
        elif name in used:
            yield Fault(
                subject,
                "no phase updates it, for no checkpoint has its weights",
                "a phase names it",
                "Take it out of the phase's modules, or out of Built.external",
            )
        else:
            yield from _weights(subject, built, name, external)


def _weights(subject: str, built: Built, name: str, external: External) -> Iterator[Fault]:
    way_out = "Make it by `external_file` in `prepare`, of a file with the module's state dict"
    in_file = fingerprint(read_tensors(external.file))
    if in_file != external.fingerprint:
        yield Fault(
            subject,
            "its fingerprint is that of its file",
            f"it is {external.fingerprint[:12]}, and that of {external.file} {in_file[:12]}",
            way_out,
        )
        return
    for when in ("build", "ready"):
        if when == "ready" and built.ready is not None:
            built.ready(built.modules)
        if fingerprint(built.modules[name].state_dict()) != in_file:
            yield Fault(
                subject,
                "the module has the weights of its file, as they are",
                f"after {when} it has others",
                f"{way_out}, and load it unchanged",
            )
            return


def is_made_ready_from_the_seed(examined: Examined) -> Iterator[Fault]:
    """`Built.ready` gives the same for one state of torch's generator."""
    states, prepared = [], examined.prepared
    for _ in range(2):
        seed_torch(3, torch.cuda.is_available())
        built = examined.system.build(examined.settings, prepared)
        if built.ready is None:
            return
        built.ready(built.modules)
        tensors = ((n, k, v) for n, m in built.modules.items() for k, v in m.state_dict().items())
        states.append(cloned({f"{name}.{key}": value for name, key, value in tensors}))
    if not same(*states):
        yield Fault(
            "Built.ready",
            "one state of torch's generator gives one model",
            "two models of one seed differ after it",
            "Draw from torch's current generator and no other",
        )


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (
    holds_external_weights_as_they_are,
    is_made_ready_from_the_seed,
)
