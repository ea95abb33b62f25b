"""What a sampler does on its way: paths, counts, noise by sample, clipping and refusals."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.strategies.sampling import sample, sample_path
from models.draws import draw_normal
from settings.schema import SettingsError

KINDS = ("rflow", "epsilon", "v", "epsilon_100")
SEEDS = torch.arange(4096)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_restart_goes_where_it_is_told(analytic):
    made = analytic.strategy("rflow")
    settings = analytic.sampling(
        steps=10, restart__enabled=True, restart__low=0.15, restart__steps=3
    )
    path = list(sample_path(made, analytic.gaussian(made), SEEDS[:2], (1,), settings))
    down = [0.33, 0.27, 0.21, 0.15]
    expected = [1.0 - i / 10 for i in range(9)] + [0.15, *down, *down, 0.1, 0.0]
    assert [state.t for state in path] == pytest.approx(expected)
    # One evaluation of both samples a step; a restart takes none.
    assert path[-1].evaluations == 2 * (len(path) - 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{}, {"ddpm__solver": "ancestral"}, {"restart__enabled": True}]
)
def test_an_image_does_not_depend_on_its_batch(analytic, kind, changes):
    made = analytic.strategy(kind)
    torch.manual_seed(0)
    network, best = torch.nn.Conv2d(2, 2, 3, padding=1), analytic.gaussian(made)

    def predict(x, t):
        assert x.dtype == t.dtype == torch.float32 and t.shape == x.shape[:1]
        return best(x, t) + 0.1 * (1.0 - t.view(-1, 1, 1, 1)) * torch.tanh(network(x))

    settings = analytic.sampling(steps=12, **changes)
    together = sample(made, predict, SEEDS[:8], (2, 6, 5), settings)
    again = sample(made, predict, SEEDS[:8], (2, 6, 5), settings)
    alone = [sample(made, predict, seed[None], (2, 6, 5), settings).x for seed in SEEDS[:8]]
    torch.testing.assert_close(together.x, torch.cat(alone), rtol=0.0, atol=1e-5)
    assert torch.equal(together.x, again.x)
    assert (together.x[0] - together.x[1]).abs().max() > 0.1
    assert together.x.dtype == torch.float32 and not together.x.requires_grad


@pytest.mark.parametrize("steps", [7, 30, 100])
def test_a_constant_velocity_arrives_in_float32(analytic, steps):
    """001-M6: MONAI's grid of float16 and whole numbers ends up to .17 off."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (
        torch.rand(1, 1, 64, 64, generator=generator),
        torch.randn(1, 1, 64, 64, generator=generator),
    )
    velocity = clean - noise
    end = sample(
        analytic.strategy("rflow"),
        lambda x, t: velocity,
        SEEDS[:1],
        (1, 64, 64),
        analytic.sampling(steps=steps),
        noise=noise,
    )
    assert float((end.x - clean).abs().max()) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_has_every_step_from_the_noise_to_the_end(analytic, kind):
    made, settings = analytic.strategy(kind), analytic.sampling(steps=25)
    path = list(sample_path(made, analytic.gaussian(made), SEEDS[:4], (1,), settings))
    assert [state.t for state in path] == made.sampling_times(settings).tolist()
    assert len(path) == 26 and path[-1].t == 0.0
    assert torch.equal(path[0].x, draw_normal(SEEDS[:4], "noise", (1,)))
    end = sample(made, analytic.gaussian(made), SEEDS[:4], (1,), settings)
    assert torch.equal(end.x, path[-1].x)
    assert [state.evaluations for state in path] == [4 * i for i in range(26)]


@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_evaluations_are_counted(analytic, solver, stages):
    made = analytic.strategy("rflow")
    settings = analytic.sampling(steps=9, rflow__solver=solver)
    assert (
        sample(made, analytic.gaussian(made), SEEDS[:3], (1,), settings).evaluations == 27 * stages
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000, 2500])
def test_times_of_ddpm_are_steps_of_its_training(analytic, steps):
    times = analytic.strategy("v").sampling_times(analytic.sampling(steps=steps))
    assert len(times) == steps + 1 and float(times[0]) == 1.0 and float(times[-1]) == 0.0
    assert (times[1:] < times[:-1]).all()
    if steps <= 1000:
        places = 1000 * times
        assert (places - places.round()).abs().max() < 1e-9
    begun = analytic.strategy("epsilon").sampling_times(
        analytic.sampling(steps=steps, ddpm__first_log_snr=-6.0)
    )
    made = analytic.strategy("epsilon")
    assert float(made.log_snr(begun[:1])) >= -6.0
    assert float(made.log_snr(begun[:1] + 1e-3)) < -6.0
    assert len(begun) == steps + 1 and (begun[1:] < begun[:-1]).all()


# --- clipping, and what is refused ---------------------------------------------------------------


def test_nothing_is_clipped_unless_the_range_is_known(analytic):
    made = analytic.strategy("v")
    settings = analytic.sampling(steps=20)
    wide = sample(made, analytic.gaussian(made), SEEDS, (1,), settings, clean_range=(0.2, 1.2))
    assert wide.clipped == 0 and float(wide.x.min()) < 0.0
    clipped = sample(
        made,
        analytic.gaussian(made),
        SEEDS,
        (1,),
        analytic.sampling(steps=20, ddpm__clip=True),
        clean_range=(0.2, 1.2),
    )
    assert clipped.clipped > 0
    assert float(clipped.x.min()) >= 0.2 - 1e-6 and float(clipped.x.max()) <= 1.2 + 1e-6
    with pytest.raises(ValueError, match=r"which is not known here \(latents have none\)"):
        sample(made, analytic.gaussian(made), SEEDS, (1,), analytic.sampling(ddpm__clip=True))


def test_a_clipped_estimate_keeps_the_state_a_mixture_of_image_and_noise(analytic):
    """One step by hand: the noise is what the state has beside the clipped image."""
    made = analytic.strategy("epsilon")
    settings = analytic.sampling(steps=2, ddpm__clip=True, ddpm__first_log_snr=0.0)
    path = list(
        sample_path(
            made, analytic.gaussian(made), SEEDS[:6], (1,), settings, clean_range=(0.5, 0.9)
        )
    )
    times = torch.tensor([path[0].t, path[1].t], dtype=torch.float64)
    at = made.coefficients(times)
    x, t = path[0].x.double(), times[:1].expand(6)
    clean = made.clean_estimate(x, analytic.gaussian(made)(x, t), t).clamp(0.5, 0.9)
    noise = (x - at.alpha[0] * clean) / at.sigma[0]
    torch.testing.assert_close(
        path[1].x.double(), at.alpha[1] * clean + at.sigma[1] * noise, rtol=0.0, atol=1e-5
    )


def test_a_restart_without_a_way_is_refused(analytic):
    with pytest.raises(SettingsError, match=r"low lies below sampling.restart.high, not at 0\.5"):
        analytic.sampling(restart__low=0.5)
    made = analytic.strategy("epsilon")
    settings = analytic.sampling(restart__enabled=True, restart__high=0.8, ddpm__first_log_snr=0.0)
    with pytest.raises(ValueError, match=r"high is at most the first t, 0\.49.*, not 0\.8"):
        sample(made, analytic.gaussian(made), SEEDS, (1,), settings)
