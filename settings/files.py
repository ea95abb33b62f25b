"""Settings files: flat dotted keys in YAML or JSON, read strictly, and read back as written.

YAML is read by the rules of YAML 1.2: `1e-4` is a number, `no` and `on` are text, no date is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from settings.atomic_file import atomic_file
from settings.schema import SettingsError, Value
from settings.timeline import TIMELINE, Stretch, plain_timeline, read_timeline

PRESETS = Path(__file__).resolve().parent / "presets"
"""`<system>/<name>.yaml`: the documented points and recommendations of each system."""

ABOUT = "about"
"""The key of a file that is no setting: a line that says what the file is."""

CONTROL, BECAUSE = "control", "because"
"""Keys of an arm that are no settings: the arm that it is compared with, and why more than one
setting differs between them.
"""

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class SettingsFile:
    """The contents of a settings file.

    Attributes:
        values: by dotted key, in the order of the file; lists as tuples.
        lines: the line of each key, from 1; empty for JSON.
        about: the reserved line, "" where the file has none.
        notes: `CONTROL` and `BECAUSE` of an arm, where it has them.
        timeline: settings that change during a training; () where the file has none.
    """

    path: Path
    values: dict[str, Value]
    lines: dict[str, int]
    about: str = ""
    timeline: tuple[Stretch, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        """`path:line` of each key, as errors name it; the path alone for JSON."""
        return {
            key: f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)
            for key in self.values
        }


def read_settings(path: str | Path) -> dict[str, Value]:
    """The values of a settings file by dotted key; `about` and `timeline` are left out. Raises
    `SettingsError`.
    """
    return read_settings_file(path).values


def read_settings_file(path: str | Path, *, arm: bool = False) -> SettingsFile:
    """A settings file with the line of each key. Raises `SettingsError` with file and line.

    Args:
        arm: whether the file may be an arm, with `CONTROL` and `BECAUSE`; elsewhere they are keys
            as any other.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise _wrong_suffix(path)
    values: dict[str, Value] = {}
    lines: dict[str, int] = {}
    about = ""
    timeline: tuple[Stretch, ...] = ()
    notes: dict[str, str] = {}
    for key, value, line in read_pairs(path):
        where = f"{path}:{line}" if line else str(path)
        if not isinstance(key, str):
            raise SettingsError(
                f"{where}: a key is a dotted name such as model.width, not {key!r}."
            )
        reserved = {ABOUT: about, TIMELINE: timeline, **notes}
        if key in values or reserved.get(key):
            first = f" (first in line {lines[key]})" if key in lines else ""
            raise SettingsError(f"{where}: {key} is set twice{first}. Keep one of them.")
        if key == ABOUT:
            about = str(value)
            continue
        if arm and key in (CONTROL, BECAUSE):
            notes[key] = _note(where, key, value)
            continue
        if key == TIMELINE:
            timeline = read_timeline(where, value, _leaf_value)
            continue
        values[key] = _leaf_value(where, key, value)
        if line:
            lines[key] = line
    return SettingsFile(path, values, lines, about, timeline, notes)


def read_pairs(path: Path) -> list[tuple[Any, Any, int]]:
    """Key, value and line (0 for JSON) of a file's entries; a repeated key appears each time.
    Raises `SettingsError` with file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 (byte {error.start}).") from error
    return _json_pairs(path, text) if path.suffix == ".json" else _yaml_pairs(path, text)


def write_settings(
    path: str | Path,
    flat: Mapping[str, Value],
    about: str = "",
    timeline: Sequence[Stretch] = (),
) -> None:
    """Writes a flat tree as YAML or JSON, by the suffix; the file appears whole or not at all.

    Reading it back gives equal values: floats are written by `repr`, text in quotes, tuples as
    lists.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise _wrong_suffix(path)
    content: dict[str, Any] = {ABOUT: about} if about else {}
    content.update(flat)
    if timeline:
        content[TIMELINE] = plain_timeline(timeline)
    if path.suffix == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        text = yaml.dump(
            content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
        )
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def settings_hash(flat: Mapping[str, Value]) -> str:
    """SHA-256 (hex) of the values as canonical JSON: neither order nor process matters."""
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def list_presets(system: str, root: Path = PRESETS) -> tuple[str, ...]:
    """The names of a system's presets, sorted."""
    return tuple(sorted(path.stem for path in (root / system).glob("*.yaml")))


def preset_file(system: str, name: str, root: Path = PRESETS) -> SettingsFile:
    """A preset by name. Raises `SettingsError` with the known names."""
    known = list_presets(system, root)
    if name not in known:
        raise SettingsError(
            f"{system} has no preset {name!r}. Presets: {', '.join(known) or 'none'}. "
            "A file of your own is --settings FILE; among the points of a space, its path."
        )
    return read_settings_file(root / system / f"{name}.yaml")


def _wrong_suffix(path: Path) -> SettingsError:
    return SettingsError(
        f"{path}: a settings file ends in {', '.join(SUFFIXES)}, not {path.suffix!r}."
    )


def _note(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{where}: {key} takes a text, not {value!r}.")
    return value


def _leaf_value(where: str, key: str, value: object) -> Value:
    if isinstance(value, Mapping):
        raise SettingsError(
            f"{where}: {key} is nested, and settings are flat. Write {_dotted(key, value)}."
        )
    if value is None:
        raise SettingsError(f"{where}: {key} has no value. Give one or remove the line.")
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(
        isinstance(item, (bool, int, float, str)) for item in value
    ):
        return tuple(value)
    raise SettingsError(f"{where}: {key} takes a scalar or a flat list of scalars, not {value!r}.")


def _dotted(prefix: str, value: object) -> str:
    """The first leaf of a nested mapping, written flat."""
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        prefix = f"{prefix}.{name}"
    return f"`{prefix}: {'...' if isinstance(value, Mapping) else value}`"


def _json_pairs(path: Path, text: str) -> list[tuple[Any, Any, int]]:
    # Objects arrive as tuples of pairs, so that the outermost keeps its repeated keys.
    try:
        content = json.loads(
            text,
            object_pairs_hook=_JsonObject,
            parse_constant=lambda name: _not_finite(path, name),
        )
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}:{error.lineno}: is not JSON: {error.msg}.") from error
    if not isinstance(content, _JsonObject):
        raise SettingsError(
            f"{path}: holds {type(content).__name__}, not an object of dotted keys."
        )
    return [(key, _plain(value), 0) for key, value in content]


class _JsonObject(tuple):
    """The pairs of a JSON object, repeated keys included."""


def _plain(value: object) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, _JsonObject):
        return value
    content = {key: _plain(item) for key, item in value}
    if len(content) < len(value):
        raise SettingsError(f"an object of {len(value)} entries sets a key twice: {content}.")
    return content


def _not_finite(path: Path, name: str) -> NoReturn:
    raise SettingsError(f"{path}: {name} is no setting; numbers must be finite.")


def _yaml_pairs(path: Path, text: str) -> list[tuple[Any, Any, int]]:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return []
            if not isinstance(root, yaml.MappingNode):
                line = root.start_mark.line + 1
                raise SettingsError(
                    f"{path}:{line}: is no mapping; it must hold `dotted.key: value` lines."
                )
            return [
                (
                    loader.construct_object(key, deep=True),
                    loader.construct_object(value, deep=True),
                    key.start_mark.line + 1,
                )
                for key, value in root.value
            ]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(f"{path}:{line}: is not YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path}: is not YAML: {error}.") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars. In SafeLoader's 1.1 `no` is false, `1e-4` text, `1:30` ninety."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As in SafeLoader, but a key that is there twice is an error."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is set twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Text in quotes unless it is a plain name: readers of YAML 1.1 and 1.2 agree on it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A name that 1.1 takes for something else (`no`) is quoted by the dumper itself.
    is_name = re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*", text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_name else '"')


_CORE_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # 1.2: 010 is ten


for _name, _pattern, _first in _CORE_SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(
    tuple,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=True
    ),
)
