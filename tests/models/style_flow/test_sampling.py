"""Inversion and generation: what comes back, guidance, rescaling and noise."""

from __future__ import annotations

import math

import pytest
import torch

from models.draws import draw_normal
from models.integration import SOLVERS
from models.style_flow.conditioning import NULL_STYLE
from models.style_flow.flow import start_of
from models.style_flow.sampling import (
    generate,
    guidance_weight,
    guided_velocity,
    inversion_error,
    invert,
    rescaled,
    transfer,
)
from models.style_flow.settings import (
    FlowSettings,
    GuidanceSettings,
    LangevinSettings,
    SamplingSettings,
)
from settings.flat import replace
from settings.schema import SettingsError

SEED = torch.tensor([5, 6, 7])
STYLE = torch.tensor([0, 2, 1])
PLAIN = GuidanceSettings(start=1.0, end=1.0)


def smooth(x, t, style):
    """A field whose flow is not solved exactly by any of the solvers."""
    s = (style.to(x.dtype) + 1.0)[:, None, None, None]
    return torch.sin(s * x) + torch.cos(3.0 * t)[:, None, None, None] * x / 2.0


def sampling(steps, solver="euler", **changes):
    settings = {"guidance": PLAIN, "begin": "inverted", "t0": 0.0, **changes}
    return SamplingSettings(steps=steps, inversion_steps=steps, solver=solver, **settings)


@pytest.mark.parametrize("solver", SOLVERS)
def test_generation_undoes_inversion_within_the_order_of_the_solver(latents, solver):
    x = latents().double()
    few, many = (
        inversion_error(smooth, x, STYLE, sampling(n, solver)).mean().item() for n in (8, 16)
    )
    slope = math.log2(few / many)
    assert slope > SOLVERS[solver].order - 0.4
    assert many < 0.1


def test_a_transfer_is_the_inversion_in_one_style_and_generation_in_the_other(latents):
    x, settings = latents().double(), sampling(64, "rk4")
    back = transfer(smooth, x, STYLE, STYLE, SEED, settings)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    start = invert(smooth, x, STYLE, settings)
    moved = transfer(smooth, x, STYLE, STYLE.flip(0), SEED, settings)
    assert torch.equal(moved, generate(smooth, start, STYLE.flip(0), SEED, settings))
    assert torch.equal(moved[1], transfer(smooth, x, STYLE, STYLE, SEED, settings)[1])
    assert (moved - x)[0].abs().max() > 0.1


def test_a_transfer_by_noise_begins_where_a_training_does(latents):
    x, t0 = latents(), 0.6
    drawn = start_of(x, SEED, FlowSettings())
    still = transfer(
        lambda x, t, s: torch.zeros_like(x), x, STYLE, STYLE, SEED,
        sampling(4, begin="noised", t0=t0),
    )  # fmt: skip
    torch.testing.assert_close(still, (1.0 - t0) * drawn.noise + t0 * x)
    moved = transfer(linear, x, STYLE, STYLE, SEED, sampling(50, "rk4", begin="noised", t0=t0))
    expected = still * torch.exp((1.0 - t0) * STYLE)[:, None, None, None]
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)


def test_an_inversion_may_end_on_the_way(latents):
    x, t0 = latents().double(), 0.6
    start = invert(linear, x, STYLE, sampling(50, "rk4", t0=t0))
    expected = x * torch.exp(-(1.0 - t0) * STYLE.double())[:, None, None, None]
    torch.testing.assert_close(start, expected, rtol=1e-6, atol=1e-9)


def test_guidance_falls_over_the_way_that_is_left():
    settings = GuidanceSettings(start=3.0, end=1.0)
    weights = guidance_weight(settings, torch.tensor([0.6, 0.8, 1.0]), 0.6)
    torch.testing.assert_close(weights, torch.tensor([3.0, 2.0, 1.0]))


def test_a_t0_below_0_that_is_no_sign_is_refused():
    with pytest.raises(SettingsError, match=r"0 to 0\.999, or be -1"):
        replace(SamplingSettings(), {"t0": -0.5})


def linear(x, t, style):
    """exp: x(1) = x(0) e^style."""
    return style.to(x.dtype)[:, None, None, None] * x


def test_an_inversion_is_the_flow_backwards(latents):
    x = latents().double()
    found = invert(linear, x, STYLE, sampling(50, "rk4"))
    expected = x * torch.exp(-STYLE.double())[:, None, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def recording(network, styles):
    def velocity(x, t, style):
        styles.append(style.clone())
        return network(x, t, style)

    return velocity


def test_an_inversion_is_not_guided(make, latents):
    styles = []
    invert(recording(make(), styles), latents(), STYLE, SamplingSettings(inversion_steps=3))
    assert len(styles) == 3
    assert all(torch.equal(style, STYLE) for style in styles)


def test_guidance_falls_from_2_to_1():
    weights = guidance_weight(GuidanceSettings(), torch.tensor([0.0, 0.25, 1.0]))
    assert weights.tolist() == [2.0, 1.75, 1.0]


def test_a_guided_velocity_is_the_extrapolation_of_both(make, latents):
    network, x = make().double(), latents().double()
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = guided_velocity(network, STYLE, GuidanceSettings())(x, t)
    v_c = network(x, t, STYLE)
    v_u = network(x, t, torch.full_like(STYLE, NULL_STYLE))
    w = torch.tensor([2.0, 1.5, 1.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(found, v_u + w * (v_c - v_u))
    styles = []
    unguided = guided_velocity(recording(network, styles), STYLE, PLAIN)(x, t)
    assert torch.equal(unguided, v_c)
    assert [style.tolist() for style in styles] == [STYLE.tolist()]


def test_rescaling_moves_the_deviation_to_that_of_the_conditional_velocity(latents):
    v, conditional = 3.0 * latents(seed=1) + 0.5, latents(seed=2)
    whole = rescaled(v, conditional, 1.0).flatten(1)
    torch.testing.assert_close(whole.std(dim=1), conditional.flatten(1).std(dim=1))
    torch.testing.assert_close(
        rescaled(v, conditional, 0.7), 0.7 * rescaled(v, conditional, 1.0) + 0.3 * v
    )
    assert torch.equal(rescaled(v, conditional, 0.0), v)
    assert torch.isfinite(rescaled(0.0 * v, conditional, 0.7)).all()


def test_noise_is_added_after_the_steps_that_begin_at_its_time_or_later(latents):
    """Of a velocity of 0 only the noise remains, which is known."""
    x = latents()
    langevin = LangevinSettings(sigma=0.1, since=0.5)
    settings = sampling(10, langevin=langevin)
    found = generate(lambda x, t, s: torch.zeros_like(x), x, STYLE, SEED, settings)
    noise = sum(draw_normal(SEED, f"flow.langevin.{n}", x.shape[1:]) for n in range(5, 10))
    torch.testing.assert_close(found, x + 0.1 * 0.1**0.5 * noise)
    quiet = sampling(10, langevin=LangevinSettings(sigma=0.0))
    assert torch.equal(generate(lambda x, t, s: torch.zeros_like(x), x, STYLE, SEED, quiet), x)


def test_a_result_is_drawn_by_its_seed_whatever_the_batch(make, latents):
    network, x = make(), latents()
    settings = SamplingSettings(
        steps=4,
        inversion_steps=4,
        guidance=GuidanceSettings(rescale=0.7),
        langevin=LangevinSettings(sigma=0.1),
    )
    together = transfer(network, x, STYLE, STYLE.flip(0), SEED, settings).detach()
    again = transfer(network, x, STYLE, STYLE.flip(0), SEED, settings).detach()
    assert torch.equal(together, again)
    alone = transfer(network, x[2:], STYLE[2:], STYLE[:1], SEED[2:], settings).detach()
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-5)
    other = transfer(network, x, STYLE, STYLE.flip(0), SEED + 1, settings).detach()
    assert (other - together).abs().max() > 1e-3
