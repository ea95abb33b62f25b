"""A progressive training: a chain of trainings that differ in some settings, each of which begins
with the best weights of the one before and ends at its last step or its plateau.

`DIR/stages.json` says what is planned and what has happened; `DIR/stage-1`, `DIR/stage-2`, ... are
ordinary trainings. A chain that was killed resumes with the first stage that has not ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings.atomic_file import atomic_file
from settings.paths import STAGES as FILE
from settings.schema import SettingsError, Value
from settings.systems import current_name
from settings.words import counted

if TYPE_CHECKING:
    from trainables.parts import Built

FORMAT = 1
_BETWEEN_VALUES = re.compile(r",(?![^\[]*\])")
"""A comma that is not inside a list."""

_INIT_FROM = "train.init_from"


@dataclass(frozen=True)
class Stage:
    """One training of the chain.

    Attributes:
        settings: those that differ between the stages; text until they are resolved.
        finished: whether the next one may begin.
        step: its last step; None before its end.
        stop_reason: why it ended by itself, such as its plateau, or has failed; None where it ran
            all its steps.
        best: the objective's column, the step at which it was best, and its value there.
    """

    number: int
    settings: Mapping[str, Any]
    finished: bool = False
    step: int | None = None
    stop_reason: str | None = None
    best: Mapping[str, Any] | None = None

    @property
    def line(self) -> str:
        """Its own settings as they are typed."""
        return "  ".join(f"{key}={_text(value)}" for key, value in self.settings.items())

    def ended(
        self, report: Mapping[str, Any], best: Mapping[str, Any] | None, failure: str
    ) -> Stage:
        """The stage after a training with that last report.

        One that was ended for ill health, or has failed (`run.why_failed`), is not finished: no
        stage should begin with its weights.
        """
        from settings.stop_reasons import PATIENCE, STOP_REASON

        reason = failure or report.get(STOP_REASON)
        finished = reason is None or reason.startswith(PATIENCE)
        step = int(report["step"])
        return replace(self, finished=finished, step=step, stop_reason=reason, best=best)


@dataclass(frozen=True)
class Chain:
    """All stages of a progressive training, of which the first ones may have ended."""

    system: str
    stages: tuple[Stage, ...]

    @property
    def waiting(self) -> Sequence[Stage]:
        """The stages that are still to be trained; where all have ended the last one, which may
        be given more steps.
        """
        left = [stage for stage in self.stages if not stage.finished]
        return left or self.stages[-1:]

    def overridden(self, values: Mapping[str, str]) -> Chain:
        """The chain with these values in the settings of all stages that wait."""
        chain = self
        for stage in self.waiting:
            settings = {key: values.get(key, value) for key, value in stage.settings.items()}
            chain = chain.with_stage(replace(stage, settings=settings))
        return chain

    def with_stage(self, stage: Stage) -> Chain:
        """The chain with this stage in place of the one of its number."""
        changed = [stage if old.number == stage.number else old for old in self.stages]
        return replace(self, stages=tuple(changed))


def parse(options: Sequence[str]) -> tuple[Stage, ...]:
    """The stages that `--stages key=value,value,...` asks for; each such option gives every stage
    one of its values.

    Raises:
        SettingsError: no key=value, a key twice, fewer than two values, unequal numbers of them.
    """
    values: dict[str, list[str]] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        given = [value.strip() for value in _BETWEEN_VALUES.split(text)]
        if not (equals and key and all(given)):
            raise SettingsError(
                "--stages takes a key and its value in each stage, as in --stages "
                f"data.image_size=64,128,256, not {option!r}."
            )
        if key in values:
            raise SettingsError(f"--stages gives {key} twice. Keep one of them.")
        if key == _INIT_FROM:
            raise SettingsError(
                f"--stages cannot give {key}: a stage begins with the weights of the one before. "
                f"For the first one write {key}=... without --stages."
            )
        if len(given) == 1:
            raise SettingsError(
                f"--stages {option} is one stage. Give a value for each stage, separated by "
                f"commas, or write {option} without --stages."
            )
        values[key] = given
    counts = {key: len(given) for key, given in values.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise SettingsError(f"--stages needs as many values for every key, not {shown}.")
    rows = zip(*values.values(), strict=True)
    return tuple(Stage(n, dict(zip(values, row, strict=True))) for n, row in enumerate(rows, 1))


def resolved(
    system: Any, chain: Chain, stage: Stage, directory: Path, given: Mapping[str, Any]
) -> Any:
    """All settings of a stage; from the second on it begins with the weights of the stage before.

    Args:
        given: the arguments of `settings.resolve.resolve` that all stages share.

    Raises:
        SettingsError: illegal settings; the message names the stage.
    """
    from settings.resolve import parse_overrides, resolve
    from trainables.checkpoints.checkpoint import at_stage

    overrides, values = list(given.get("overrides", ())), dict(stage.settings)
    if twice := parse_overrides(overrides).keys() & values.keys():
        raise SettingsError(
            f"{', '.join(sorted(twice))}: given once for all and once for each stage. Keep one."
        )
    if stage.number > 1:
        overrides = [text for text in overrides if text.partition("=")[0].strip() != _INIT_FROM]
        values[_INIT_FROM] = str(at_stage(directory, stage.number - 1))
    arguments = {**given, "overrides": overrides, "fixed": ("--stages", values)}
    try:
        tree = resolve(system.Settings, chain.system, **arguments)
    except SettingsError as error:
        raise SettingsError(f"stage {stage.number} ({stage.line}): {error}") from None
    timed = {key for stretch in tree.timeline for key in stretch.values}
    if both := timed & stage.settings.keys():
        raise SettingsError(
            f"{', '.join(sorted(both))}: the timeline changes it within a training, --stages "
            "from one to the next. Keep one."
        )
    return tree


def planned(stage: Stage, flat: Mapping[str, Value]) -> Stage:
    """The stage before it is trained or resumed: its settings as the tree has them, no longer as
    text, and no end.
    """
    return Stage(stage.number, {key: flat[key] for key in stage.settings})


Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


def shapes(built: Built) -> Shapes:
    """The shapes of a network's parameters and buffers, by module and name, without external
    modules.
    """
    return {
        name: {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        for name, module in built.modules.items()
        if name not in built.external
    }


def check_fit(chain: Sequence[Stage], networks: Sequence[Shapes]) -> None:
    """Checks that the network of each stage can take the weights of the stage before.

    The rule is that of `trainables.checkpoints.initial.initial_weights`: names and shapes are
    equal; a module that only one of the two has is no obstacle.

    Args:
        chain: the stages in turn.
        networks: the shapes of each (`shapes`).
    """
    for stage, before, now in zip(chain[1:], networks, networks[1:], strict=False):
        for module in sorted(before.keys() & now.keys()):
            old, new = before[module], now[module]
            for key in [*old, *new]:
                if old.get(key) != new.get(key):
                    raise SettingsError(
                        f"stage {stage.number} ({stage.line}) cannot begin with the weights of "
                        f"the stage before: {module}.{key} is {_shape(new.get(key))} here and "
                        f"{_shape(old.get(key))} there. Vary only what leaves the network as it "
                        "is, such as the size of its inputs, train.* or loss.*."
                    )


def lines(chain: Chain, trees: Sequence[Any]) -> list[str]:
    """A line for each stage that waits: its own settings, and what may end it."""
    said = []
    for stage, tree in zip(chain.waiting, trees, strict=True):
        head = f"stage {stage.number} of {len(chain.stages)}"
        length = counted(tree.train.steps, "step")
        said.append(f"{head}: {stage.line}  ({length}, {_plateau(tree.train)})")
    return said


def _plateau(train: Any) -> str:
    """A remark on whether a plateau may end a training before `train.steps`."""
    if not train.patience:
        return "for train.patience=0 looks for no plateau"
    if (train.patience + 1) * train.report_every >= train.steps:
        return (
            f"too few for train.patience={train.patience}: they have a validation every "
            f"{train.report_every}"
        )
    return f"or {counted(train.patience, 'validation')} without a better objective"


def why(stage: Stage) -> str:
    return "" if stage.stop_reason is None else f": {stage.stop_reason}"


def best(folder: Path, column: str) -> dict[str, Any] | None:
    """Column, step and value of a training's best report."""
    from trainables.checkpoints import checkpoint

    noted = checkpoint.read_meta(checkpoint.find(folder)).get("best")
    return {"column": column, "step": noted[0], "value": noted[1]} if noted else None


def read(directory: Path) -> Chain | None:
    """The chain in a directory; None where there is no progressive training.

    Raises:
        SettingsError: the file is damaged, or of a newer version.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
        if (version := document["format"]) <= FORMAT:
            for row in document["stages"]:
                del row["folder"]  # for readers of the file
            stages = tuple(Stage(**row) for row in document["stages"])
            return Chain(current_name(document["system"]), stages)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error!r}). Its stages are ordinary trainings: go on with "
            "one of them by --resume --dir, or begin anew in another directory."
        ) from error
    raise SettingsError(
        f"{path} has format {version}, and this version reads up to {FORMAT}. Go on with the "
        "version that wrote it, or a newer one."
    )


def write(directory: Path, chain: Chain) -> None:
    """Writes `stages.json`, whole or not at all."""
    from trainables.checkpoints.checkpoint import at_stage

    rows = [
        {"folder": at_stage(directory, stage.number).name, **asdict(stage)}
        for stage in chain.stages
    ]
    content = {"format": FORMAT, "system": chain.system, "stages": rows}
    with atomic_file(directory / FILE) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a scalar"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
