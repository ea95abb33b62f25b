"""What a system is made of: modules, the phases of a step, data; and what it objects to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from losses.composite import Composite
from losses.schedules import ScheduleSettings
from losses.terms import Tensors
from trainables.external import External

Modules = Mapping[str, nn.Module]
"""The modules of a system by name."""

Forward = Callable[[Modules, Tensors, Any], Tensors]
"""`forward(modules, batch, settings) -> prediction`, named tensors."""

SPLITS = ("train", "validation", "test")
"""The parts of `Loaders`, by name."""

Index = Callable[[int, int], int]
"""`index(seed, position) -> index of a training sample`, a pure function. A position counts the
samples of a training, over micro-batches and ranks.
"""


class Order(Protocol):
    """The order of the training samples; `trainables.stepping.orders` has those to choose from."""

    def __call__(self, size: int, batch: int) -> Index:
        """The order of `size` samples, in micro-batches of `batch` over all ranks together."""


@dataclass(frozen=True)
class Phase:
    """One part of a step: the modules that it updates, their forward and their Composite. Most
    systems have one phase, a GAN has two.

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
        shares_outputs: tensors of the prediction that later phases of the same step find in their
            batch as "<phase>.<tensor>", detached: a critic judges what the generator has just
            made, without a second forward.
        without: term -> the forward while that term weighs nothing, which leaves out what only
            the term reads: a critic that is not heard yet is not asked either.
        ignores_updates: whether the forward reads nothing that earlier phases of the step update
            (what they share it may), so that it need not wait for their updates.
        schedules: settings key of a schedule -> its node. Forward and terms find the value at the
            step in their batch, `schedule.<key>` float32 [B]; validation has the final value.
        training_schedules: those of them that only training reads. Validation does not have them,
            so a space may search their final values.
        host_schedules: those of them whose value in the batch stays on the CPU, for a forward that
            does something else by it (which layers learn) without waiting for the device.
        draws_by_update: whether the forward of a training draws something once for all samples of
            an update, by `update_seed` of its batch
            (`trainables.stepping.inputs.UPDATE_SEED`). What it leaves out may differ between
            updates; several workers look for that in each, and wait for the GPU once more.
    """

    name: str
    modules: tuple[str, ...]
    forward: Forward
    composite: Composite
    optimizer: str = "optimizer"
    shared: Callable[[Modules], Sequence[nn.Parameter]] | None = None
    shares_outputs: tuple[str, ...] = ()
    without: Mapping[str, Forward] = field(default_factory=dict)
    ignores_updates: bool = False
    schedules: Mapping[str, ScheduleSettings] = field(default_factory=dict)
    training_schedules: tuple[str, ...] = ()
    host_schedules: tuple[str, ...] = ()
    draws_by_update: bool = False

    @property
    def is_first(self) -> bool:
        """Whether the metrics read the prediction of this phase, and its columns need no name."""
        return self.optimizer == "optimizer"

    @property
    def column_prefix(self) -> str:
        """The prefix of the columns of its training that are no term's: `train`, `train.critic`.
        """
        return "train" if self.is_first else f"train.{self.name}"

    def forward_for(self, weights: Mapping[str, float]) -> Forward:
        """The forward of a step at which the terms have these weights."""
        idle = (forward for term, forward in self.without.items() if weights[term] == 0.0)
        return next(idle, self.forward)

    def shared_outputs(self, prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs that later phases find in their batch."""
        return {f"{self.name}.{key}": prediction[key].detach() for key in self.shares_outputs}


@dataclass
class Built:
    """What `build` makes: the modules by name, and per-parameter exceptions.

    Attributes:
        modules: every module; what no phase updates is frozen (no parameter requires a gradient).
        no_decay: names "<module>.<parameter>" that get no weight decay beside those with one axis.
        meta: what the modules took from `prepared` (shapes), as JSON holds it. It is stored in
            every checkpoint, and `rebuild` makes the same modules from it.
        external: module -> the file elsewhere that `build` has taken its weights from
            (`trainables.external.external_file`, made in `prepare`). The module is frozen: no
            phase updates it. Its weights lie once in the directory of the training or sweep and in
            no checkpoint, and are put into what `rebuild` makes; `rebuild` names none.
        groups: name -> patterns of "<module>.<parameter>". The learning rate of these parameters
            is multiplied by `optimizer.rate.<name>` of the settings, which the system declares
            (`trainables.optimizing.optimizer.RateSettings`) and a space may search.
        ready: called with the modules, on the CPU, when a training begins and the weights of
            `train.init_from` are in them: a branch copies the encoder that was loaded. Not where
            all weights are taken from there, and never on a resume.
    """

    modules: dict[str, nn.Module]
    no_decay: frozenset[str] = frozenset()
    meta: Mapping[str, Any] = field(default_factory=dict)
    external: Mapping[str, External] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ready: Callable[[Modules], None] | None = None


@dataclass(frozen=True)
class Loaders:
    """The data of a trial.

    Attributes:
        train: map-style. `train[(index, seed)]` returns a dict of tensors; all that is random
            about a sample (crop, flip, noise) comes from the seed, so that the loader's position
            is the step alone. The loop adds `seed` int64 [B] to every batch, from which a forward
            draws what is random about it (`models.draws`).
        validation: map-style. `validation[index]` returns a dict of tensors and is fixed.
        test: the same of samples that no decision looks at; None where there are none.
        units: split (validation, test) -> what each of its samples is of, in their order: the
            patient of a slice, the scene of a crop. Without it a split is one unit.
        order: of the training samples (`grouped`, `stratified`, or one of your own); a fresh
            permutation each epoch where None.
        untrainable: why these data are to measure on alone, and the way out; "" where they can be
            trained on.
    """

    train: Dataset
    validation: Dataset
    collate: Callable[[Sequence[Any]], Any] | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    test: Dataset | None = None
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    order: Order | None = None
    untrainable: str = ""


@dataclass(frozen=True)
class Finding:
    """An objection to settings and data, made before a training.

    Attributes:
        text: what is wrong and the way out.
        hopeless: no training with these settings can work; `train` refuses it, a sweep runs and
            marks it.
    """

    text: str
    hopeless: bool = False
