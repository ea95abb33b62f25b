"""Guidance moves a prediction as its formula says, and is refused where nothing has taught it."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.guidance import check_guidance, guided_prediction, is_guided
from models.diffusion.strategies.sampling import sample
from models.diffusion.strategies.settings import (
    GuidanceSettings,
    SamplingSettings,
    StrategySettings,
)
from settings.flat import replace
from settings.schema import SettingsError

KINDS = {
    "rflow": {},
    "epsilon": {"kind": "ddpm"},
    "v": {"kind": "ddpm", "ddpm.prediction": "v"},
}
SEEDS = torch.arange(4)


def strategy(kind):
    return make_strategy(replace(StrategySettings(), KINDS[kind]))


def of_image(made, value):
    """The prediction of a network that is sure of one image."""

    def predict(x, t):
        clean = torch.full_like(x, value)
        at = made.coefficients(t)
        noise = (x - at.alpha.float()[:, None] * clean) / at.sigma.float()[:, None]
        return made.target(clean, noise, t)

    return predict


def test_the_factor_is_linear_in_t():
    guided = guided_prediction(
        lambda x, t: 2.0 + 0.0 * x,
        lambda x, t: 0.5 + 0.0 * x,
        GuidanceSettings(start=3.0, end=1.5),
    )
    t = torch.tensor([1.0, 0.5, 0.2, 0.0])
    expected = 0.5 + (1.5 + 1.5 * t) * 1.5
    torch.testing.assert_close(guided(torch.zeros(4, 1), t)[:, 0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "end"), [(2.0, 2.0), (0.0, 0.0), (0.5, 0.5)])
def test_guiding_a_prediction_is_guiding_the_image(kind, start, end):
    """Whatever is predicted: of images u and c the sample is u + w (c - u)."""
    made = strategy(kind)
    settings = replace(SamplingSettings(steps=10), {"guidance.start": start, "guidance.end": end})
    found = sample(
        made, of_image(made, 0.4), SEEDS, (1,), settings, unconditional=of_image(made, -0.1)
    )
    expected = torch.full((4, 1), -0.1 + start * 0.5)
    torch.testing.assert_close(found.x, expected, rtol=0.0, atol=1e-3)
    assert found.evaluations == 2 * 4 * 10


def test_a_factor_that_falls_moves_a_flow_by_its_mean():
    """Velocities 1 and .2 throughout: x_0 = noise + the integral of .2 + w(t) .8, by hand; the
    midpoint rule is exact for what is linear in t.
    """
    settings = replace(
        SamplingSettings(steps=3),
        {"guidance.start": 3.0, "guidance.end": 1.0, "rflow.solver": "midpoint"},
    )
    found = sample(
        strategy("rflow"),
        lambda x, t: torch.ones_like(x),
        SEEDS,
        (1,),
        settings,
        unconditional=lambda x, t: torch.full_like(x, 0.2),
        noise=torch.zeros(4, 1),
    )
    torch.testing.assert_close(found.x, torch.full((4, 1), 0.2 + 2.0 * 0.8))


def test_without_guidance_the_unconditional_network_is_not_asked():
    def never(x, t):
        raise AssertionError

    predict = of_image(strategy("rflow"), 0.4)
    assert not is_guided(GuidanceSettings())
    assert guided_prediction(predict, never, GuidanceSettings()) is predict
    found = sample(
        strategy("rflow"), predict, SEEDS, (1,), SamplingSettings(steps=5), unconditional=never
    )
    assert found.evaluations == 20


@pytest.mark.parametrize(("start", "end"), [(2.0, 1.0), (1.0, 1.5), (0.5, 1.0)])
def test_guidance_needs_an_unconditional_branch(start, end):
    """001-M21: a network whose condition was never dropped has none."""
    settings = GuidanceSettings(start=start, end=end)
    with pytest.raises(SettingsError, match=r"this one's dropout is 0, .* stay at 1, not"):
        check_guidance(settings, 0.0)
    check_guidance(settings, 0.15)
    check_guidance(GuidanceSettings(), 0.0)
    with pytest.raises(ValueError, match="needs the unconditional prediction"):
        guided_prediction(lambda x, t: x, None, settings)
