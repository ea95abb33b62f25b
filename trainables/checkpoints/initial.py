"""What freshly built modules get before a training makes anything of them: the weights of another
training (`train.init_from`), and what the system makes of those (`Built.ready`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import Checkpoint, CheckpointError
from trainables.checkpoints.restore import stripped, validated
from trainables.parts import Built
from trainables.stepping.train_settings import Tree
from trainables.system import PreparedT, System, offers

_SHOWN = 5
"""Names that a warning lists."""


def begun(
    system: System[Tree, PreparedT], settings: Tree, built: Built, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Begins the life of a training. What nothing is left of to begin anew, for all of it was
    taken, is ready as it is.

    Returns:
        {"checkpoint", "system", "taken": how many, "left", "missing": names}; {} without
        `train.init_from`.

    Raises:
        CheckpointError, SettingsError: as `initial_weights`.
    """
    taken = initial_weights(system, settings, built, warn) if settings.train.init_from else {}
    if built.ready is not None and (not taken or taken["missing"]):
        built.ready(built.modules)
    return taken


def initial_weights(
    system: System[Tree, PreparedT], settings: Tree, built: Built, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Puts the weights of `train.init_from` into fresh modules: the moving average where it has
    one. Of a training of this system whole modules are taken, by their names; of another system
    what the member `initial` says. Modules whose weights come from a file elsewhere keep them.

    Tensors that are left there or begin anew here are counted and named through `warn`.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or of a system that `initial` does
            not know.
        SettingsError: tensors there have other shapes, or `initial` names what is not there.
    """
    train = settings.train
    path = checkpoint.find(Path(train.init_from).expanduser(), best=True)
    name = checkpoint.read_meta(path)["system"]
    if name != system.name and not offers(system, "initial"):
        raise CheckpointError(
            f"train.init_from: {path} is a checkpoint of system {name!r}, not of {system.name!r}, "
            "which has no member `initial` that says what it takes from another. Name a training "
            f"of {system.name}, or write the member."
        )
    stored = checkpoint.load(path, name, train.external)
    theirs, ours = validated(stored.tensors), _tensors(built)
    is_same = name == system.name
    if is_same:
        _compare_external(built, stored, warn)
        pairs = {key: key for key in theirs if _module(key) in {_module(own) for own in ours}}
    else:
        pairs = dict(system.initial(name, sorted(theirs)))
        _check(pairs, theirs, ours, system.name, path)
        _check_shapes(pairs, theirs, ours, system.name)
    try:
        _fill(built, {own: theirs[their] for their, own in pairs.items()}, strict=is_same)
    except RuntimeError as error:  # torch's word for keys or shapes that do not fit
        raise SettingsError(
            f"train.init_from: {path} was trained with another network: "
            f"{' '.join(str(error).split())[:300]}. Take its `model.*` settings (they are in its "
            "meta.json), or begin without it."
        ) from error
    counts = {
        "checkpoint": str(path),
        "system": name,
        "taken": len(pairs),
        "left": sorted(
            key for key in theirs.keys() - pairs.keys() if _module(key) not in built.external
        ),
        "missing": _not_filled(ours, pairs.values()),
    }
    if counts["left"] or counts["missing"]:
        warn(
            f"train.init_from: of {path} {counts['taken']} tensors are taken; "
            f"{_named(counts['left'])} left there, and "
            f"{_named(counts['missing'])} begin anew here."
        )
    return counts


def _tensors(built: Built) -> dict[str, Tensor]:
    """What the modules hold that is not external, by `module.<name>.<key>`."""
    return {
        f"module.{name}.{key}": tensor
        for name, module in built.modules.items()
        if name not in built.external
        for key, tensor in module.state_dict().items()
    }


def _module(key: str) -> str:
    """The module of `module.<name>.<key>`."""
    return key.split(".")[1]


def _compare_external(built: Built, stored: Checkpoint, warn: Callable[[str], None]) -> None:
    """Says where the other training had another external module."""
    for name in built.external.keys() & stored.external.keys():
        if built.external[name].fingerprint != stored.external[name].fingerprint:
            warn(
                f"train.init_from: {stored.path} was trained with another {name} "
                f"({stored.external[name].file}) than the one here ({built.external[name].file}), "
                "which stays."
            )


def _check_shapes(
    pairs: Mapping[str, str],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    system: str,
) -> None:
    """Refuses pairs of `initial` whose shapes differ."""
    for their, own in pairs.items():
        shapes = list(theirs[their].shape), list(ours[own].shape)
        if shapes[0] != shapes[1]:
            raise SettingsError(
                f"train.init_from: member `initial` of {system} gives {their} {shapes[0]} to "
                f"{own} {shapes[1]}, and a tensor is taken as it is. Leave the pair out, or take "
                "settings under which the two have one shape."
            )


def _check(
    pairs: Mapping[str, str],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    system: str,
    path: Path,
) -> None:
    """Refuses names of `initial` that are not there, or ours more than once."""
    taken = list(pairs.values())
    wrong = {
        f"{path} does not have": sorted(pairs.keys() - theirs.keys()),
        f"the modules of {system} do not have": sorted(set(taken) - ours.keys()),
        "it gives several tensors": sorted({name for name in taken if taken.count(name) > 1}),
    }
    for what, names in wrong.items():
        if names:
            raise SettingsError(
                f"train.init_from: member `initial` of {system} names {names[0]!r}, which {what} "
                f"({len(names)} such). It returns their names (`module.<name>.<key>`, of those it "
                "is given) with ours; a module of Built.external is not among them."
            )


def _fill(built: Built, tensors: Mapping[str, Tensor], strict: bool) -> None:
    for name, module in built.modules.items():
        if values := stripped(tensors, f"module.{name}."):
            module.load_state_dict(values, strict=strict)


def _not_filled(ours: Mapping[str, Tensor], taken: Iterable[str]) -> list[str]:
    """Our names without a value; tied weights have theirs by any of their names."""
    filled = set(taken)
    places = {ours[name].data_ptr() for name in filled}
    return sorted(k for k in ours.keys() - filled if ours[k].data_ptr() not in places)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})" if names else "none"
