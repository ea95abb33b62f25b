"""What the author of a system imports, in one place. Everything behind it may move; these names
stay.

    from trainables.api import Built, Composite, Loaders, Metric, Phase, Settings, SystemBase, ...

For systems, ours and those of other repositories. A term, a metric or a data set of this
repository lives below the systems, and imports from its own room.
"""

from __future__ import annotations

from data.cache import cached_folder
from data.files import DataError
from data.split import random_split
from losses.adversarial import adversarial_term
from losses.balancers.settings import BalancerSettings
from losses.composite import Composite
from losses.counts import (
    differences,
    hole_values,
    images,
    images_with_hole,
    marked,
    samples_of,
    values,
    values_of,
    weighted_values,
)
from losses.schedules import ScheduleSettings
from losses.terms import Tensors, Term, TermSettings
from metrics.health import HealthSettings
from metrics.metric import Column, Metric, per_sample
from models.draws import draw_integers, draw_normal, draw_uniform
from models.gathered import GathersOverUpdate
from models.integration import (
    SOLVERS,
    Velocity,
    guided,
    integrate,
    shift_time,
    time_grid,
    trajectory,
    twice_differentiable,
)
from settings.schema import Settings, SettingsError, setting
from trainables.examination import Exam, Examination
from trainables.external import External, external_file
from trainables.optimizing.optimizer import OptimizerSettings, RateSettings
from trainables.parts import Built, Finding, Forward, Loaders, Modules, Order, Phase
from trainables.reference import Reference
from trainables.request import Drawn, Generates, Measures, Request, Solver, Solvers
from trainables.stepping.orders import grouped, permuted, stratified
from trainables.stepping.train_settings import SystemSettings, TrainSettings
from trainables.system import SystemBase

__all__ = [  # noqa: RUF022 - by what they are for
    # settings
    "Settings",
    "setting",
    "SettingsError",
    "ScheduleSettings",
    "TermSettings",
    "BalancerSettings",
    "HealthSettings",
    "OptimizerSettings",
    "RateSettings",
    "TrainSettings",
    "SystemSettings",
    # the loss: terms, and what their sums are divided by
    "Term",
    "Tensors",
    "Composite",
    "adversarial_term",
    "samples_of",
    "values_of",
    "marked",
    "images",
    "values",
    "differences",
    "hole_values",
    "images_with_hole",
    "weighted_values",
    # randomness of a forward: by the seeds of the samples
    "draw_normal",
    "draw_uniform",
    "draw_integers",
    "GathersOverUpdate",
    # a flow: dx/dt = v(x, t), sampled or trained through
    "SOLVERS",
    "Velocity",
    "time_grid",
    "shift_time",
    "integrate",
    "trajectory",
    "guided",
    "twice_differentiable",
    # measures
    "Metric",
    "per_sample",
    "Examination",
    "Exam",
    "Column",
    # the system
    "SystemBase",
    "Built",
    "External",
    "external_file",
    "Phase",
    "Modules",
    "Forward",
    "Loaders",
    "Finding",
    "Reference",
    # `generate`: what it takes, what it is asked for, what it returns
    "Generates",
    "Request",
    "Measures",
    # `solvers` and `optimal_steps`: ways to make samples, and what they have made
    "Solver",
    "Solvers",
    "Drawn",
    # data
    "Order",
    "permuted",
    "grouped",
    "stratified",
    "DataError",
    "cached_folder",
    "random_split",
]
