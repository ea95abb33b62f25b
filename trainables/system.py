"""The contract of a system: what the loop and the sweep know of a model, and nothing else."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from torch import Tensor

from losses.terms import Tensors
from metrics.health import HealthSettings
from metrics.metric import Metric
from settings.flat import nearest_names
from settings.rooms import hidden_by_ours
from settings.schema import Settings, SettingsError
from settings.systems import SYSTEMS, current_name
from trainables.examination import Examination
from trainables.parts import Built, Finding, Loaders, Modules, Phase
from trainables.reference import Reference
from trainables.request import Drawn, Generates, Measures, Request, Solvers

SettingsT = TypeVar("SettingsT", bound=Settings)
"""The tree of a system's settings."""

PreparedT = TypeVar("PreparedT")
"""What its `prepare` makes."""

_NOTHING: Any = None
"""What a system without `prepare` has prepared."""


class System(Protocol[SettingsT, PreparedT]):
    """A model with its data, loss and measures. All members are pure but for `prepare`'s cache.

    Everybody writes `name`, `Settings`, `build`, `loaders`, `phases` and `metrics`; the others
    have the defaults that stand here for a class derived from `SystemBase`.

    Attributes:
        name: by which `load_system` finds it, of `settings/systems.py` or "module:attribute".
        Settings: its settings tree, with the nodes `optimizer` and `train`.
        prepare_reads: settings keys (patterns) that `prepare` reads; a space that searches one of
            them is refused.
        refused: settings key -> why it does not exist, for what is left out on purpose.
        changeable: further settings (patterns) that may change while a training goes on from a
            checkpoint, beside those of the loss and the optimizer
            (`trainables.checkpoints.changeable`).
        small: settings that bring a training down to seconds, its length aside: for checks of the
            system, and for what is measured of the platform around it.
        audit: settings under which every term has something to do, where the defaults leave one
            idle.
        originals: settings under which `loaders` gives training samples as they were before
            augmentation.
        generates: what `generate` takes, where it is offered.
    """

    name: str
    Settings: type[SettingsT]
    prepare_reads: tuple[str, ...] = ()
    refused: Mapping[str, str] = MappingProxyType({})
    changeable: tuple[str, ...] = ()
    small: Mapping[str, Any] = MappingProxyType({})
    audit: Mapping[str, Any] = MappingProxyType({})
    originals: Mapping[str, Any] = MappingProxyType({})
    generates: Generates = Generates()

    def build(self, settings: SettingsT, prepared: PreparedT) -> Built:
        """The modules, freshly initialised from the current random state."""
        ...

    def loaders(self, settings: SettingsT, prepared: PreparedT) -> Loaders: ...

    def phases(self, settings: SettingsT, prepared: PreparedT | None) -> Sequence[Phase]:
        """The phases in the order in which they are updated. `prepared` is None where only the
        names of the terms are asked for.
        """
        ...

    def metrics(self, settings: SettingsT, prepared: PreparedT | None) -> Sequence[Metric]:
        """Measures of the first phase's prediction; `prepared` is None where only the
        declarations are asked for.
        """
        ...

    def prepare(self, settings: SettingsT, cache: Path) -> PreparedT:
        """Makes what all trials share: converted data, statistics, frozen networks; something
        picklable. By default nothing.

        Runs once per sweep before any trial and is cached by a hash of the settings in
        `prepare_reads`.
        """
        return _NOTHING

    def references(self, settings: SettingsT, prepared: PreparedT) -> Mapping[str, Reference]:
        """What a trained network has to beat, by name, fitted on the training split alone; one for
        each value where a searched choice makes it. `untrained` is the platform's own.
        """
        return {}

    def examinations(
        self, settings: SettingsT, prepared: PreparedT | None
    ) -> Sequence[Examination]:
        """Measures that are no sums over validation batches, run every `train.examine_every`
        reports; `prepared` is None where only the declarations are asked for.
        """
        return ()

    def unit_key(self, settings: SettingsT) -> str:
        """The settings key, a whole number from 0 on, of which every value draws other units (new
        scenes, patients, designs, or another split of those in a folder), so that a claim about
        them can be repeated; "" where no setting does.
        """
        return ""

    def preflight(self, settings: SettingsT, prepared: PreparedT) -> Sequence[Finding]:
        """Objections to these settings, from a sample of the data; quick, for it runs before every
        trial. By default there are none.

        A function of what it reads of its arguments: a sweep gives trials that differ in nothing
        of that one answer.
        """
        return ()

    def health(self, settings: SettingsT) -> HealthSettings | None:
        """The thresholds of the signs of ill health: the settings' node `health`; None for no
        signs.
        """
        node: HealthSettings | None = getattr(settings, "health", None)
        return node

    def rebuild(self, settings: SettingsT, meta: Mapping[str, Any]) -> Built:
        """Builds the modules as `build` does, from the `Built.meta` of a checkpoint instead of
        data, and without files: the weights follow. Where it is left out, a checkpoint is opened
        by `build(settings, None)`.
        """
        return self.build(settings, _NOTHING)

    def initial(self, name: str, names: Sequence[str]) -> Mapping[str, str]:
        """What a training begins with of another system's checkpoint (`train.init_from`).

        Args:
            name: of the other system.
            names: of its tensors, `module.<module>.<key>`; their values are those of the moving
                average where there is one.

        Returns:
            theirs -> ours, of those that are taken.
        """
        raise SettingsError(f"system {self.name} has no member `initial`.")

    def audit_tensors(
        self, settings: SettingsT, prepared: PreparedT
    ) -> Mapping[str, tuple[Tensors, Tensors]]:
        """Phase -> (prediction, batch), of four samples or more, on which its terms are looked at
        (`trainables.contract`); a phase that is left out takes the first training batch and the
        forward of untrained modules.
        """
        return {}

    def tensorboard_names(self, settings: SettingsT) -> Mapping[str, str | tuple[str, ...]]:
        """Column -> the tag (or tags) that the source document has for it, written beside the
        column's own name; one `*` stands for any text
        (`trainables.reporting.tensorboard.TensorBoard`).
        """
        return {}

    def tensorboard_figures(self, settings: SettingsT) -> Mapping[str, tuple[str, ...]]:
        """The tags of figures: name of a figure -> its tags."""
        return {}

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        """A drawing of a batch, [3, H, W] in [0, 1], for the figures `val.samples` (the first
        validation samples) and, where `tensorboard_figures` names them, `val.worst_batch`,
        `test_best.worst_batch` and `test_latest.worst_batch`.
        """
        raise SettingsError(f"system {self.name} has no member `picture`: nothing is drawn of it.")

    def charts(
        self, settings: SettingsT, report: Mapping[str, float | str | None]
    ) -> Mapping[str, Tensor]:
        """Figures of the columns of a report, by name, [3, H, W] in [0, 1], drawn where the
        examinations are due.
        """
        return {}

    def generate(self, settings: SettingsT, modules: Modules, request: Request) -> Measures:
        """Applies the trained model: to a user's inputs, or to draws, for the verb `generate`.

        Args:
            modules: those of a checkpoint, in eval mode on the device to use. There is no
                `prepared`: what the inputs need is in the settings and the modules.
            request: the samples of this process, and where they go; within `generates`.
        """
        raise SettingsError(f"system {self.name} has no member `generate`.")

    def solvers(self, settings: SettingsT, request: Request) -> Solvers:
        """The ways in which `draw` can make a sample of its noise, for the verbs `solvers` and
        `optimal_steps`, under the options of the request, as far as they hold for all of them.

        Raises:
            SettingsError: options under which they cannot be compared.
        """
        raise SettingsError(f"system {self.name} has no member `solvers`.")

    def draw(self, settings: SettingsT, modules: Modules, request: Request) -> Drawn:
        """The samples that `generate` would write, as they are, in the order of their indices;
        equal noise for equal seeds, whatever the solver.
        """
        raise SettingsError(f"system {self.name} has no member `draw`.")

    def encode(
        self,
        settings: SettingsT,
        modules: Modules,
        prepared: PreparedT,
        splits: Sequence[str],
        source: Mapping[str, Any],
        output: Path | None,
    ) -> Mapping[str, Any]:
        """The latents of the data, for networks that are trained on them; the verb
        `encode_latents` calls it.

        Args:
            modules: as those of `generate`.
            splits: those of `SPLITS` to write.
            source: path, step and fingerprint of the checkpoint, for the file to name.
            output: the file to write (`data.latents`); None measures only.

        Returns:
            what is known of the latents, as JSON holds it, with `samples`: how many of each split.
        """
        raise SettingsError(f"system {self.name} has no member `encode`.")

    def prepare_volumes(
        self, settings: SettingsT, cache: Path, given: Collection[str] = ()
    ) -> tuple[SettingsT, PreparedT]:
        """The settings, and what `prepare` makes of them, under which `encode` gives whole volumes
        to a model of slices.

        Args:
            given: keys of the settings that the user has asked for, and that therefore stay.
        """
        raise SettingsError(
            f"system {self.name} has no member `prepare_volumes`: it encodes samples as they are. "
            "Leave out --volumes."
        )

    def profile_cases(
        self, settings: SettingsT, kinds: Sequence[str], sizes: Sequence[str]
    ) -> Sequence[tuple[Mapping[str, Any], SettingsT]]:
        """Every kind of model with every size of its samples, for the verb `profile`.

        Args:
            kinds, sizes: in the user's words; empty for those of the settings.

        Returns:
            for each case its `kind`, `size` and `batch_size`, and its settings.

        Raises:
            SettingsError: there is no such kind or size, or they do not fit.
        """
        raise SettingsError(f"system {self.name} has no member `profile_cases`.")

    def profile_step(self, settings: SettingsT, steps: int) -> Mapping[str, Any]:
        """Measures a training step of one case, in a process that does nothing else.

        Returns:
            `parameters`, `critic_parameters` (0 for none), `latent` [c, *s], `step_seconds`,
            `peak_mb` (10^6 bytes) and `device`; where there are some, `tokens` (of each level)
            and `activations_mb` (what is kept for the backward pass); of others `--json` alone
            speaks.
        """
        raise SettingsError(f"system {self.name} has no member `profile_step`.")

    def augmentations(self, settings: SettingsT) -> Mapping[str, Mapping[str, Any]]:
        """Every augmentation of a single sample, by name, with the settings under which `loaders`
        has this one alone, and always, for the verb `visualize_augmentations`. By default none is
        shown by itself.
        """
        return {}

    def augmented_views(
        self, settings: SettingsT, prepared: PreparedT, batch: Tensors
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """Further figures for the verb `visualize_augmentations`: of what a training does to its
        samples behind the loader. By default there are none.

        Args:
            batch: of the loader, as it is without augmentation.

        Returns:
            figure -> column -> images [B, n, H, W] or [B, n, D, H, W] in [0, 1], whose n channels
            are shown side by side.
        """
        return {}


class SystemBase(System[SettingsT, PreparedT]):
    """What the class of a system derives from: `SystemBase[MySettings, MyPrepared]` where
    `settings` and `prepared` are to have types, or plain `SystemBase`. A class that fulfils
    `System` by itself as far as it must is given the rest by `load_system`.
    """


def offers(system: System, member: str) -> bool:
    """Whether a system has a member of `SystemBase` as its own."""
    return getattr(getattr(system, member), "__func__", None) is not getattr(SystemBase, member)


def load_system(name: str) -> System:
    """The system of that name (or of one that it had), or one of your own spelled
    "module:attribute".

    Raises:
        SettingsError: the name is unknown (the nearest and all known ones are listed), there is no
            such module or attribute (the message says where a package of ours hides it), or the
            system calls itself otherwise.
    """
    name = current_name(name)
    if name not in SYSTEMS and ":" not in name:
        nearest = nearest_names(name, SYSTEMS, alike=0.5)  # of few words one is always near
        guess = f"Nearest: {', '.join(nearest)}. " if nearest else ""
        raise SettingsError(
            f"there is no system {name!r}. {guess}Systems: {', '.join(sorted(SYSTEMS))}, or your "
            "own as module:attribute."
        )
    module, _, attribute = SYSTEMS.get(name, name).partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # somebody's own module: whatever it raises
        raise SettingsError(f"system {name!r} cannot be loaded: {_why(error, module)}") from error
    if isinstance(kind, type) and not issubclass(kind, SystemBase):
        kind = type(kind.__name__, (kind, SystemBase), {"__module__": kind.__module__})
    system: System = kind()
    declared = getattr(system, "name", None)
    if declared != name:
        raise SettingsError(
            f"system {name!r} calls itself {declared!r}, by which its checkpoints could not be "
            f"opened again: set `name = {name!r}` in {module}:{attribute}."
        )
    return system


def _why(error: Exception, module: str) -> str:
    """The cause of an error, its place, and the way out where it is known."""
    hidden = hidden_by_ours(error) if isinstance(error, (ImportError, AttributeError)) else ""
    if hidden:
        return f"{error}. {hidden}"
    if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
        return f"{error}. Name its folder in PYTHONPATH, or run from there."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.lineno]
    theirs = [frame for frame in frames if "importlib" not in frame.filename]
    is_here = theirs[-1].filename == __file__
    place = "" if is_here else f" ({theirs[-1].filename}:{theirs[-1].lineno})"
    kind = "" if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: "
    return f"{kind}{error}{place}."
