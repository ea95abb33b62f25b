"""A checkpoint opened for use: its modules, without the data that they were trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from settings.command import command
from settings.flat import replace
from settings.schema import Settings
from trainables.checkpoints import checkpoint
from trainables.external import External
from trainables.parts import Built
from trainables.stepping.train_settings import SystemSettings
from trainables.system import PreparedT, SettingsT, System, load_system, offers


@dataclass(frozen=True)
class Opened:
    """What a checkpoint holds, ready to be used.

    Attributes:
        modules: in eval mode, on the CPU, with the moving average of the weights where there is
            one.
    """

    path: Path
    step: int
    system: System
    settings: SystemSettings
    modules: Mapping[str, nn.Module]


def open_checkpoint(path: Path, moved: str = "") -> Opened:
    """The modules of one checkpoint (a step-* folder); neither `prepare` nor data is needed.

    Args:
        moved: another `train.external` than the training's own.

    Raises:
        CheckpointError: it is damaged, its modules need to know what it does not say, or external
            ones cannot be had.
    """
    meta = checkpoint.read_meta(path)
    system = load_system(meta["system"])
    settings = replace(system.Settings(), meta["settings"])
    modules = built_without_data(system, settings, meta, path).modules
    tensors = checkpoint.load(path, system.name, moved or settings.train.external).tensors
    load_validated(modules, tensors)
    for module in modules.values():
        module.eval()
    return Opened(path, meta["step"], system, settings, modules)


def load_validated(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Puts the weights that were validated into freshly built modules: the moving average where
    the checkpoint has one; every key must match.
    """
    weights = validated(tensors)
    for name, module in modules.items():
        fill(module, stripped(weights, f"module.{name}."), f"module {name}")


def validated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint that were validated, by `module.<name>.<key>`."""
    weights = {key: value for key, value in tensors.items() if key.startswith("module.")}
    for key, value in tensors.items():
        name, is_weight, rest = key.removeprefix("ema.").partition(".module.")
        if key.startswith("ema.") and is_weight:
            weights[f"module.{name}.{rest}"] = value
    return weights


def fill(module: nn.Module, tensors: Mapping[str, Tensor], stored: str) -> None:
    """Puts stored weights into a module; every key must match.

    Args:
        stored: what holds them, as the error names it.

    Raises:
        CheckpointError: they are of another network.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"{stored} was stored from another network than the {type(module).__name__} that is "
            "built here. Use it with the settings and the version that wrote it, or begin anew "
            f"without it ({' '.join(str(error).split())[:200]} ...)."
        ) from error


def built_for(
    system: System[SettingsT, PreparedT],
    settings: SettingsT,
    prepared: PreparedT,
    meta: Mapping[str, Any],
) -> Built:
    """The modules that take the weights of a checkpoint with this meta; an empty meta is that of a
    training that begins. Where the system has `rebuild`, weights to begin with
    (`model.pretrained`) are not looked for.
    """
    if not offers(system, "rebuild") or not meta.get("built"):
        return system.build(settings, prepared)
    return _rebuilt(system, settings, meta["built"])


def data_external(
    system: System[SettingsT, PreparedT],
    settings: SettingsT,
    prepared: PreparedT,
    built: Built,
    meta: Mapping[str, Any],
) -> Mapping[str, External]:
    """The external modules that the data were prepared with, which `build` declares and `rebuild`
    does not know.
    """
    if built.external or not meta.get("external"):
        return built.external
    return system.build(settings, prepared).external


def _rebuilt(system: System, settings: Settings, meta: Mapping[str, Any]) -> Built:
    return dataclasses.replace(system.rebuild(settings, meta), meta=meta)


def built_without_data(
    system: System, settings: Settings, meta: Mapping[str, Any], path: Path
) -> Built:
    """The modules of a checkpoint with this meta, under these settings, with weights of no use.

    Raises:
        CheckpointError: they need to know what it does not say.
    """
    if not offers(system, "rebuild"):
        return system.build(settings, None)
    if "built" not in meta:
        raise checkpoint.CheckpointError(
            f"{path} does not say what its modules were built from, for an earlier version wrote "
            f"it. Train one step more with this version ({command('train')} --resume), and take "
            "that."
        )
    return _rebuilt(system, settings, meta["built"])  # its meta may be empty


def stripped(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
