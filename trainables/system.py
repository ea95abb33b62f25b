"""The contract of a system: what the loop and the sweep know of a model, and nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from losses.composite import Composite
from losses.terms import Tensors
from metrics.metric import Metric
from settings.renamed import current_name
from settings.schema import Settings, SettingsError

SYSTEMS: Mapping[str, str] = {
    "hdr_patch": "trainables.hdr_patch:HdrPatch",
    "conditioner": "trainables.conditioner.system:Conditioner",
    "compression": "trainables.compression.system:Compression",
    "field_vae": "trainables.conditioner.field_vae:FieldVae",
}
"""Every system by name, as "module:attribute". A new system is one line here."""

Forward = Callable[[Mapping[str, nn.Module], Tensors, Any], Mapping[str, Tensor]]
"""`forward(modules, batch, settings) -> prediction`, named tensors."""


@dataclass(frozen=True)
class Phase:
    """Who is updated, from which forward, with which Composite. Most systems have one, a GAN has
    two.

    Attributes:
        name: of the phase, and in the columns of every phase but the first.
        modules: names of the modules in `Built.modules` whose parameters this phase updates.
        forward: makes the prediction that the terms and the metrics read.
        composite: the terms that are summed and back-propagated.
        optimizer: settings key of the node that owns the optimizer (`optimizer`,
            `critic_optimizer`).
        shared: `shared(modules) -> parameters` with respect to which a balancer compares the
            gradients of the terms (usually the last ones that all terms depend on); all
            parameters of the phase where None.
        keeps: tensors of the prediction that later phases of the same step find in their batch as
            "<phase>.<tensor>", detached: a critic judges what the generator has just made, without
            a second forward.
        without: term -> the forward while that term weighs nothing, which leaves out what only
            the term reads: a critic that is not heard yet is not asked either.
    """

    name: str
    modules: tuple[str, ...]
    forward: Forward
    composite: Composite
    optimizer: str = "optimizer"
    shared: Callable[[Mapping[str, nn.Module]], Sequence[nn.Parameter]] | None = None
    keeps: tuple[str, ...] = ()
    without: Mapping[str, Forward] = field(default_factory=dict)

    def forward_for(self, weights: Mapping[str, float]) -> Forward:
        """The forward of a step at which the terms have these weights."""
        idle = (forward for term, forward in self.without.items() if weights[term] == 0.0)
        return next(idle, self.forward)

    def handed_on(self, prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What later phases find in their batch."""
        return {f"{self.name}.{key}": prediction[key].detach() for key in self.keeps}


@dataclass
class Built:
    """What `build` makes: the modules by name, and per-parameter exceptions.

    Attributes:
        modules: every module; what no phase updates is frozen (no parameter requires a gradient).
        no_decay: names "<module>.<parameter>" that get no weight decay beside those with one axis.
        meta: what the modules took from `prepared` (shapes), as JSON holds it. It is stored in
            every checkpoint, and `rebuild` makes the same modules from it.
    """

    modules: dict[str, nn.Module]
    no_decay: frozenset[str] = frozenset()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaders:
    """The data of a trial.

    Attributes:
        train: map-style. `train[(index, seed)]` returns a dict of tensors; all that is random
            about a sample (crop, flip, noise) comes from the seed, so that the loader's position
            is the step alone.
        validation: map-style. `validation[index]` returns a dict of tensors and is fixed.
        test: the same of samples that no decision looks at; None where there are none.
        collate: makes a batch of a list of samples; torch's default where None.
        notes: what was kept and what was left out, by name.
        warnings: what was left out or repaired, in words with the file names.
    """

    train: Dataset
    validation: Dataset
    collate: Callable[[Sequence[Any]], Any] | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    test: Dataset | None = None


@dataclass(frozen=True)
class Finding:
    """What a look at settings and data found before a training.

    Attributes:
        text: what is wrong and the way out.
        hopeless: no training with these settings can work; `train` refuses it, a sweep runs and
            marks it.
    """

    text: str
    hopeless: bool = False


class System(Protocol):
    """A model with its data, loss and measures. All members are pure but for `prepare`'s cache.

    It may also have

    - `refused`: settings key -> why it does not exist, for what is left out on purpose.
    - `changeable`: further settings (patterns) that may change while a training goes on from a
      checkpoint, beside those of the loss and the optimizer (`trainables.checkpoints.changeable`).
    - `tensorboard_names(settings)`: column -> the tag (or tags) that the source document has for
      it, written beside the column's own name; one `*` stands for any text
      (`trainables.reporting.tensorboard.TensorBoard`). `tensorboard_figures(settings)`: the same
      of figures.
    - `picture(prediction, batch) -> image` [3, H, W] in [0, 1]: what a batch looks like, for the
      figures `val.worst_batch`, `test_best.worst_batch` and `test_latest.worst_batch`.
    - `rebuild(settings, meta) -> Built`: as `build`, from the `Built.meta` of a checkpoint instead
      of data, and without files: the weights follow; without it a checkpoint is opened by
      `build(settings, None)`.
    - `generate(settings, modules, source, target) -> dict[str, float]`: what the trained model is
      for. Reads the user's inputs at the path `source`, writes results into the existing, empty
      folder `target`, and returns counts and measures by name. The modules are those of a
      checkpoint, in eval mode on the device to use; there is no `prepared`: what the inputs need
      is in the settings and the modules. The verb `generate` calls it.
    """

    name: str
    Settings: type[Settings]

    def prepare(self, settings: Any, cache: Path) -> Any:
        """What all trials share: converted data, statistics, frozen networks. Returns something
        picklable.

        Runs once per sweep before any trial and is cached by a hash of the settings in
        `prepare_reads`.
        """
        ...

    prepare_reads: tuple[str, ...]
    """Settings keys (patterns) that `prepare` reads; a space that searches one of them is
    refused.
    """

    def build(self, settings: Any, prepared: Any) -> Built:
        """The modules, freshly initialised from the current random state."""
        ...

    def loaders(self, settings: Any, prepared: Any) -> Loaders: ...

    def phases(self, settings: Any, prepared: Any) -> Sequence[Phase]:
        """Who is updated, in order. `prepared` is None where only the names of the terms are
        asked for.
        """
        ...

    def metrics(self, settings: Any, prepared: Any) -> Sequence[Metric]:
        """Measures of the first phase's prediction; `prepared` is None where only the
        declarations are asked for.
        """
        ...

    def preflight(self, settings: Any, prepared: Any) -> Sequence[Finding]:
        """What speaks against these settings, from a sample of the data; quick, for it runs
        before every trial.
        """
        ...


def refused(system: System) -> Any:
    """The system's `refused` as `settings.resolve.resolve` takes it, None where it has none."""
    return getattr(system, "refused", None)


def load_system(name: str) -> System:
    """The system of that name (or of one that it had), or one of your own spelled
    "module:attribute".

    Raises:
        SettingsError: the name is unknown (the known ones are listed), there is no such module or
            attribute, or the system calls itself otherwise.
    """
    name = current_name(name)
    if name not in SYSTEMS and ":" not in name:
        raise SettingsError(
            f"there is no system {name!r}. Systems: {', '.join(sorted(SYSTEMS))}, or your own as "
            "module:attribute."
        )
    module, _, attribute = SYSTEMS.get(name, name).partition(":")
    try:
        system = getattr(importlib.import_module(module), attribute)()
    except (ModuleNotFoundError, AttributeError) as error:
        raise SettingsError(f"system {name!r} cannot be loaded: {error}.") from error
    own = getattr(system, "name", None)
    if own != name:
        raise SettingsError(
            f"system {name!r} calls itself {own!r}, by which its checkpoints could not be opened "
            f"again: set `name = {name!r}` in {module}:{attribute}."
        )
    return system
