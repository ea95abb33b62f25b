"""From defaults, preset, file, space, overrides and sampled values to one checked tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from settings.command import command
from settings.files import (
    PRESETS,
    SUFFIXES,
    SettingsFile,
    list_presets,
    preset_file,
    read_settings_file,
)
from settings.flat import leaves, replace, unknown_key
from settings.schema import Leaf, Settings, SettingsError, conform
from settings.systems import as_stored
from settings.timeline import Stretch

Tree = TypeVar("Tree", bound=Settings)


@dataclass(frozen=True)
class Resolved(Generic[Tree]):
    """A legal tree and where each of its values comes from.

    Attributes:
        origins: every key -> "default", "preset NAME", "file PATH", the name of what fixes it
            ("space NAME"), "override" or "sampled".
        timeline: settings that change during the training; a key that an override sets is not
            among them.
    """

    settings: Tree
    origins: dict[str, str]
    timeline: tuple[Stretch, ...] = ()

    def keys_from(self, origin: str) -> tuple[str, ...]:
        """The keys of one kind of origin ("override", "preset", ...), in the order of the tree."""
        return tuple(key for key, name in self.origins.items() if name.split(" ")[0] == origin)


def resolve(
    system_settings_class: type[Tree],
    system_name: str,
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    fixed: tuple[str, Mapping[str, Any]] | None = None,
    overrides: Sequence[str] = (),
    sampled: Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
    presets_root: Path = PRESETS,
    with_timeline: bool = False,
    stored: bool = False,
) -> Resolved[Tree]:
    """The settings of a run. Precedence: default < preset < file < fixed < override <
    sampled.

    Each value is checked where it is set, so the error names its file and line; rules between keys
    are checked once, on the whole tree.

    Args:
        fixed: what sets values besides the user ("space caps"), and the values by dotted key.
        overrides: `key=value`, as they stand on the command line.
        sampled: what a search decided, by dotted key.
        refused: key or prefix of keys -> why it does not exist, for the error message.
        with_timeline: whether the caller can follow the timeline of a file.
        stored: whether the file is that of a training, which has stored all its settings there.

    Raises:
        SettingsError: an unknown preset, file, key or value; a preset that is a file; a key that
            two overrides set.
    """
    known = leaves(system_settings_class)
    reasons = dict(refused or {})
    changes: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    files = _files(system_name, preset, file, presets_root)
    layers = [(origin, content.values, content.places) for origin, content in files]
    if stored:
        layers.insert(0, (f"file {file}", as_stored(system_name, {}), {}))
    if fixed is not None:
        layers.append((*fixed, {}))  # type: ignore[arg-type]  # its values are checked below
    overridden = parse_overrides(overrides)
    layers.append(("override", dict(overridden), {}))
    layers.append(("sampled", dict(sampled or {}), {}))
    for origin, values, places in layers:
        for key, value in values.items():
            changes[key] = _checked(key, value, known, reasons, places.get(key, origin))
            origins[key] = origin
    timed = [(origin, content.timeline) for origin, content in files if content.timeline]
    if timed and not with_timeline:
        raise SettingsError(
            f"{timed[-1][0]} has a timeline, which `{command('train')}` follows and nothing else. "
            "Take it out, or train it."
        )
    stretches = []
    for stretch in timed[-1][1] if timed else ():
        own = {
            key: _checked(key, value, known, reasons, timed[-1][0])
            for key, value in stretch.values.items()
            if key not in overridden
        }
        stretches.append(Stretch(stretch.until, own))
    return Resolved(replace(system_settings_class(), changes), origins, tuple(stretches))


def _files(
    system_name: str, preset: str | None, file: str | Path | None, presets_root: Path
) -> list[tuple[str, SettingsFile]]:
    """The values from files with their origins, lowest precedence first."""
    found = []
    if preset is not None:
        _refuse_file(system_name, preset, presets_root)
        found.append((f"preset {preset}", preset_file(system_name, preset, presets_root)))
    if file is not None:
        found.append((f"file {file}", read_settings_file(file)))
    return found


def _refuse_file(system_name: str, preset: str, presets_root: Path) -> None:
    """Refuses a path where a preset is named, which would be taken for an unknown name."""
    path, known = Path(preset), list_presets(system_name, presets_root)
    if preset in known or (path.suffix not in SUFFIXES and not path.is_file()):
        return
    is_known = path.stem in known and not path.exists()
    raise SettingsError(
        f"--preset takes a name, and {preset!r} is a file. Give "
        + (f"the name, --preset {path.stem}." if is_known else f"it as --settings {preset}.")
    )


def parse_overrides(overrides: Iterable[str]) -> dict[str, str]:
    """`key=value` arguments by key, the values still text. Raises `SettingsError`."""
    parsed: dict[str, str] = {}
    for argument in overrides:
        key, equals, value = argument.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            raise SettingsError(
                f"an override is key=value, as in loss.l1.weight=0.5, not {argument!r}."
            )
        if key.startswith("-"):
            raise SettingsError(
                f"{argument!r} is neither an option nor an override: settings have no dashes. "
                f"Write {key.lstrip('-')}={value}."
            )
        if key in parsed:
            raise SettingsError(
                f"two overrides set {key}: {key}={parsed[key]} and {key}={value}. Keep one."
            )
        parsed[key] = value
    return parsed


def _checked(
    key: str, value: object, known: Mapping[str, Leaf], refused: Mapping[str, str], place: str
) -> Any:
    """The value in its leaf's type; an error starts with the value's origin."""
    try:
        for prefix, reason in refused.items():
            if key == prefix or key.startswith(f"{prefix}."):
                raise SettingsError(f"{key} is refused: {reason}")
        if key not in known:
            raise unknown_key(key, known)
        return conform(key, known[key], value)
    except SettingsError as error:
        raise SettingsError(f"{place}: {error}") from None
