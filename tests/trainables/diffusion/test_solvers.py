"""Solvers of a diffusion compared by what they make of the same noise, on flows that are known."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from models.diffusion.strategies.build import make_strategy
from models.draws import draw_normal
from ray_jobs.drawing import distances
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.inspecting.solvers import solvers
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.request import Request

SYSTEM = Diffusion()
VELOCITY = 0.7

pytestmark = pytest.mark.usefixtures("one_thread")


class Constant(nn.Module):
    """The velocity of a flow that moves every value by the same."""

    def forward(self, x, t, embedding=None, context=None):
        return torch.full_like(x, VELOCITY)


class Gaussian(nn.Module):
    """What the best network of rectified flow says on data of mean 0 and variance 1: v = E[x_0 -
    noise | x_t] = (1 - 2 t) / ((1 - t)^2 + t^2) x_t.
    """

    def forward(self, x, t, embedding=None, context=None):
        t = t.view(-1, *[1] * (x.ndim - 1))
        return (1.0 - 2.0 * t) / ((1.0 - t).square() + t.square()) * x


class Noise(nn.Module):
    """What the best network of DDPM says there, of a schedule with alpha^2 + sigma^2 = 1:
    E[noise | x_t] = sigma x_t.
    """

    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy

    def forward(self, x, t, embedding=None, context=None):
        sigma = self.strategy.coefficients(t).sigma.to(x.dtype)
        return sigma.view(-1, *[1] * (x.ndim - 1)) * x


def made(cache, network=None, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **named})
    torch.manual_seed(0)
    modules = dict(SYSTEM.build(settings, SYSTEM.prepare(settings, cache)).modules)
    if network is not None:
        modules["network"] = network
    for module in modules.values():
        module.eval()
    return settings, modules


def draw(settings, modules, solver, number, options=None, folder=None, **request):
    chosen = replace(GenerateSettings(), {**(options or {}), **solver.at(number)})
    with torch.no_grad():
        asked = Request(target=folder, options=chosen, **{"count": 3, "batch_size": 2, **request})
        return SYSTEM.draw(settings, modules, asked)


def exact(settings, modules, found, **request):
    return draw(settings, modules, found.reference, found.reference_number, **request).samples


def error(settings, modules, solver, number, truth, **request):
    drawn = draw(settings, modules, solver, number, **request).samples
    return float(distances(drawn, truth).mean())


def of_noise(settings, modules, x):
    """The images of x [B, c, *s], float64, and what a value of 1 there is in the image."""
    space = modules["space"]
    shift, one = (space.decode(torch.full_like(x, value)).double() for value in (0.0, 1.0))
    return shift + (one - shift) * x.double(), float((one - shift).mean())


def by_name(found):
    return {solver.name: solver for solver in found.each}


@pytest.mark.slow
def test_every_solver_is_exact_on_a_constant_velocity_and_monais_is_not(shared_cache):
    """In 27 steps, the document's optimum, MONAI's steps sum to 1.0067 (001-M6)."""
    settings, modules = made(shared_cache, Constant())
    found = solvers(settings, GenerateSettings())
    assert (found.reference.name, found.reference_number) == ("rk4", 200)
    names = [solver.name for solver in found.each]
    assert names[:4] == ["euler", "midpoint", "heun", "rk4"]
    assert names[-1] == "monai"
    truth = exact(settings, modules, found, count=1)
    for name, solver in by_name(found).items():
        number = 1e-3 if solver.by_tolerance else 27
        off = error(settings, modules, solver, number, truth, count=1)
        if name == "monai":
            _, factor = of_noise(settings, modules, torch.zeros(1, 1, 16, 16))
            assert off == pytest.approx(0.0067 * VELOCITY * factor, rel=0.05)
        else:
            assert off < 1e-6, name


def test_errors_on_gaussian_data_fall_with_the_slopes_of_the_solvers(shared_cache):
    """Data of variance 1 end where the noise began, x_t = sqrt((1 - t)^2 + t^2) x_1; the slopes
    between 8 and 32 steps are those of `benchmarks.rivals.flow_solvers` (float32 hides what RK4
    gains beyond 16).
    """
    settings, modules = made(shared_cache, Gaussian())
    found = solvers(settings, GenerateSettings())
    seeds = torch.cat([seeds for _, seeds in Request(target=None, count=3).batches()])
    truth, _ = of_noise(settings, modules, draw_normal(seeds, "noise", (1, 16, 16)))
    assert float(distances(exact(settings, modules, found), truth).max()) < 2e-6
    expected = {"euler": (32, 0.97), "midpoint": (32, 3.0), "heun": (32, 3.0), "rk4": (16, 5.0)}
    for name, (last, slope) in expected.items():
        solver = by_name(found)[name]
        few, many = (error(settings, modules, solver, n, truth) for n in (8, last))
        assert math.log(few / many) / math.log(last / 8) == pytest.approx(slope, abs=0.3), name


def test_an_adaptive_solver_is_nearer_for_a_smaller_tolerance_and_asks_more(shared_cache):
    pytest.importorskip("torchdiffeq")
    settings, modules = made(shared_cache, Gaussian())
    found = solvers(settings, GenerateSettings())
    solver = by_name(found)["torchdiffeq:bosh3"]
    assert solver.by_tolerance
    drawn = [draw(settings, modules, solver, tolerance) for tolerance in (1e-2, 1e-5)]
    truth = exact(settings, modules, found)
    wide, narrow = (float(distances(each.samples, truth).mean()) for each in drawn)
    assert narrow < 0.1 * wide
    assert drawn[1].evaluations > drawn[0].evaluations


@pytest.mark.parametrize(("name", "a_step"), [("euler", 1), ("heun", 2), ("rk4", 4), ("monai", 1)])
def test_evaluations_are_counted_and_noise_is_that_of_the_seed(shared_cache, name, a_step):
    settings, modules = made(shared_cache, Constant())
    solver = by_name(solvers(settings, GenerateSettings()))[name]
    drawn = draw(settings, modules, solver, 5)
    assert drawn.evaluations == 3 * 5 * a_step
    assert drawn.samples.shape == (3, 1, 16, 16)
    again, other = (draw(settings, modules, solver, 5, seed=seed).samples for seed in (0, 1))
    assert torch.equal(again, drawn.samples)
    assert float(distances(other, drawn.samples).min()) > 0.01


def test_images_are_those_that_generate_writes(shared_cache, tmp_path):
    settings, modules = made(shared_cache, Gaussian())
    solver = by_name(solvers(settings, GenerateSettings()))["heun"]
    drawn = draw(settings, modules, solver, 4, seed=3)
    options = replace(GenerateSettings(), solver.at(4))
    with torch.no_grad():
        asked = Request(target=tmp_path, options=options, count=3, batch_size=2, seed=3)
        SYSTEM.generate(settings, modules, asked)
    for index, image in enumerate(drawn.samples):
        stored = np.asarray(nibabel.load(tmp_path / f"{index:06d}.nii.gz").dataobj)
        wanted = image.clamp(0.0, 1.0).numpy().transpose(2, 1, 0)
        np.testing.assert_allclose(stored, wanted, atol=1e-6)
    assert (drawn.samples < 0.0).any(), "they are not cut"


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_ddpm_is_compared_with_ddim_of_every_step(shared_cache, prediction):
    """From t = 1 with v; with epsilon from the first step whose log-SNR is -8 or more."""
    changes = {"strategy__kind": "ddpm", "strategy__ddpm__steps": 40}
    changes["strategy__ddpm__prediction"] = prediction
    settings, modules = made(shared_cache, Gaussian(), **changes)
    found = solvers(settings, GenerateSettings())
    alpha_bar = np.cumprod(1.0 - cosine_betas(40))
    above = np.log(alpha_bar / (1.0 - alpha_bar)) >= -8.0
    assert found.reference_number == (40 if prediction == "v" else above.sum())
    assert [solver.name for solver in found.each] == ["ddim", "ancestral"]
    assert [solver.draws for solver in found.each] == [False, True]
    truth = exact(settings, modules, found)
    assert error(settings, modules, found.each[0], found.reference_number, truth) == 0.0
    assert error(settings, modules, found.each[0], 5, truth) > 0.0


def cosine_betas(steps):
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2.0) ** 2
    return np.minimum(1.0 - f[1:] / f[:-1], 0.999)


def test_ddim_comes_nearer_with_more_steps_and_the_ancestral_sampler_does_not(shared_cache):
    changes = {"strategy__kind": "ddpm", "strategy__ddpm__steps": 200}
    settings, modules = made(shared_cache, **changes)
    modules["network"] = Noise(make_strategy(settings.strategy))
    found = solvers(settings, GenerateSettings())
    ddim, ancestral = found.each
    truth = exact(settings, modules, found)
    few, many = (error(settings, modules, ddim, number, truth) for number in (10, 40))
    assert many < 0.4 * few
    far = error(settings, modules, ancestral, found.reference_number, truth)
    assert far > 2.0 * few, "another image of the same law"


def test_the_solver_that_the_options_ask_for_is_the_chosen_one(shared_cache):
    flow = replace(SYSTEM.Settings(), SYSTEM.small)
    ddpm = replace(flow, {"strategy.kind": "ddpm"})

    def chosen(settings, **changes):
        named = {f"sampling.{key.replace('__', '.')}": value for key, value in changes.items()}
        return solvers(settings, replace(GenerateSettings(), named)).chosen

    assert chosen(flow).name == "euler"
    assert chosen(flow, rflow__solver="heun").name == "heun"
    library = chosen(flow, rflow__solver="torchdiffeq", rflow__torchdiffeq__method="rk4")
    assert (library.name, library.by_tolerance) == ("torchdiffeq:rk4_38", False)
    assert chosen(flow, rflow__solver="torchdiffeq").by_tolerance
    assert (chosen(ddpm).name, chosen(ddpm).draws) == ("ddim", False)
    assert chosen(ddpm, ddpm__eta=0.5).draws
    assert chosen(ddpm, ddpm__solver="ancestral").name == "ancestral"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.restart.enabled": True}, "adds noise on the way"),
        ({"filter.enabled": True}, "draws images again"),
        ({"rejection.checkpoint": "runs/head"}, "goes back on the way"),
    ],
)
def test_what_is_no_function_of_the_noise_and_the_steps_is_refused(changes, message):
    settings = replace(SYSTEM.Settings(), SYSTEM.small)
    with pytest.raises(SettingsError, match=message):
        solvers(settings, replace(GenerateSettings(), changes))
