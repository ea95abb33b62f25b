"""By which solvers images are made of noise, for the verbs `solvers` and `optimal_steps`.

Of rflow the truth is what RK4 makes of the same noise with 200 steps; of ddpm what DDIM makes with
every step of the training.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.settings import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    LIBRARY,
    MONAI,
    SamplingSettings,
)
from models.integration import SOLVERS
from settings.flat import replace
from trainables.api import SettingsError, Solver, Solvers
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.use import GenerateSettings

REFERENCE, REFERENCE_STEPS = "rk4", 200

_STEPS = "sampling.steps"
_FLOW, _DDPM = "sampling.rflow.solver", "sampling.ddpm.solver"
_METHOD, _RTOL, _ATOL = (f"sampling.rflow.torchdiffeq.{key}" for key in ("method", "rtol", "atol"))
_ETA = "sampling.ddpm.eta"


def solvers(settings: DiffusionSettings, options: GenerateSettings) -> Solvers:
    """Those of the strategy; `rk4_38` is torchdiffeq's `rk4`, which is Kutta's 3/8 rule.

    Raises:
        SettingsError: options that change an image by more than the number of steps.
    """
    _check(options)
    if settings.strategy.kind == "ddpm":
        return _of_ddpm(settings, options.sampling)
    ours = [_flow(name) for name in SOLVERS]
    library = []
    if importlib.util.find_spec("torchdiffeq") is not None:
        library = [_library(method) for method in (*FIXED_METHODS, *ADAPTIVE_METHODS)]
    asked = options.sampling.rflow
    chosen = _library(asked.torchdiffeq.method) if asked.solver == LIBRARY else _flow(asked.solver)
    return Solvers(
        reference=_flow(REFERENCE),
        reference_number=REFERENCE_STEPS,
        each=(*ours, *library, _flow(MONAI)),
        chosen=chosen,
    )


def _flow(name: str) -> Solver:
    return Solver(name=name, options={_FLOW: name}, varies=(_STEPS,))


def _library(method: str) -> Solver:
    """A solver of torchdiffeq; an adaptive one goes the whole way as one step of the grid."""
    name = f"{LIBRARY}:{'rk4_38' if method == 'rk4' else method}"
    options: dict[str, Any] = {_FLOW: LIBRARY, _METHOD: method}
    if method in ADAPTIVE_METHODS:
        options |= {_STEPS: 1}
        return Solver(name=name, options=options, varies=(_RTOL, _ATOL), by_tolerance=True)
    return Solver(name=name, options=options, varies=(_STEPS,))


def _of_ddpm(settings: DiffusionSettings, sampling: SamplingSettings) -> Solvers:
    ddim = Solver(name="ddim", options={_DDPM: "ddim", _ETA: 0.0}, varies=(_STEPS,))
    ancestral = Solver(
        name="ancestral", options={_DDPM: "ancestral"}, varies=(_STEPS,), draws=True
    )
    chosen, asked = ddim, sampling.ddpm
    if asked.solver == "ancestral":
        chosen = ancestral
    elif asked.eta > 0.0:
        options = {_DDPM: "ddim", _ETA: asked.eta}
        name = f"ddim, eta {asked.eta:g}"
        chosen = Solver(name=name, options=options, varies=(_STEPS,), draws=True)
    # sampling may begin at an earlier step than the last one
    strategy = make_strategy(settings.strategy)
    times = strategy.sampling_times(replace(sampling, {"steps": strategy.levels}))
    every = round(float(times[0]) * strategy.levels)
    each = (ddim, ancestral) if chosen in (ddim, ancestral) else (ddim, ancestral, chosen)
    return Solvers(reference=ddim, reference_number=every, each=each, chosen=chosen)


def _check(options: GenerateSettings) -> None:
    wrong = {
        "sampling.restart.enabled=true adds noise on the way": options.sampling.restart.enabled,
        "filter.enabled=true draws images again": options.filter.enabled,
        "rejection.checkpoint goes back on the way": bool(options.rejection.checkpoint),
    }
    for what, is_on in wrong.items():
        if is_on:
            raise SettingsError(
                f"{what}, so that an image is not that of its noise and a number of steps, and "
                "solvers cannot be compared by it. Leave it out."
            )
