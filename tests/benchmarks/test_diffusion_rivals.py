"""MONAI's loop and sampler are those of the same model as ours: otherwise their times compare
nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.measuring.steps import in_turn
from benchmarks.rivals.diffusion_loop import SIDES, steps_of
from benchmarks.rivals.diffusion_sampling import samplers_of
from benchmarks.rivals.monai_flow import network_like, scheduler_like
from benchmarks.rivals.requested_bins import error_of, shuffled_error
from benchmarks.rivals.score_aug_leakage import turned_images
from models.diffusion.strategies.build import make_strategy
from settings.flat import replace
from trainables.diffusion.system import Diffusion

SYSTEM = Diffusion()
SMALL = {key: value for key, value in SYSTEM.small.items() if key.startswith(("model", "data"))}


def small(**changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


def test_both_networks_predict_the_same():
    settings = small()
    torch.manual_seed(0)
    ours = SYSTEM.build(settings, None).modules["network"].eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs = network_like(settings, ours.state_dict()).eval()
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0.125, 0.75])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(x, 1000.0 * t), rtol=1e-4, atol=1e-5)


def test_both_noise_an_image_alike_and_draw_times_of_one_law():
    settings = small(**{"strategy.rflow.mean": 0.5, "strategy.rflow.std": 0.7})
    strategy = make_strategy(settings.strategy, settings.sides)
    scheduler, t = scheduler_like(settings), torch.tensor([0.2, 0.9])
    clean, noise = torch.randn(2, 2, 1, 16, 16)
    noisy = scheduler.add_noise(clean, noise, 1000.0 * t)
    torch.testing.assert_close(strategy.noised(clean, noise, t), noisy)
    torch.testing.assert_close(strategy.target(clean, noise, t), clean - noise)
    torch.manual_seed(0)
    many = torch.zeros(20_000, 1)
    theirs = scheduler.sample_timesteps(many) / 1000.0
    ours = strategy.draw_times(torch.arange(20_000))
    for share in (0.1, 0.5, 0.9):
        assert float(ours.quantile(share)) == pytest.approx(
            float(theirs.quantile(share)), abs=0.015
        )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 10])
def test_both_samplers_make_the_same_images_of_one_noise(shared_cache, monkeypatch, steps):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    images = {side: make() for side, make in samplers_of(SMALL, steps).items()}
    torch.testing.assert_close(images["ours"], images["monai"], rtol=1e-4, atol=1e-4)
    assert float(images["ours"].std()) > 0.1


def test_both_loops_take_steps(shared_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    sides = {side: steps_of(side, SYSTEM.small, tmp_path / side, 1) for side in SIDES}
    times = in_turn(sides, 3)
    assert {side: len(each) for side, each in times.items()} == {"ours": 3, "monai": 3}
    assert all(second > 0.0 for each in times.values() for second in each)


def test_every_turned_image_has_its_axes_exchanged():
    images = torch.randn(8, 1, 5, 5)
    turned = turned_images(images)
    for image, other in zip(images[:, 0].numpy(), turned[:, 0].numpy(), strict=True):
        across = [image.T, image.T[::-1], image.T[:, ::-1], image.T[::-1, ::-1]]
        assert sum(np.array_equal(other, each) for each in across) == 1


def test_shuffled_requests_are_all_but_a_masks_own():
    requests = np.eye(3)
    asked = np.tile(requests, (2, 1))
    assert error_of(asked, asked) == 0.0
    assert shuffled_error(asked, asked, 3) == pytest.approx(2.0)
    assert shuffled_error(np.ones((6, 3)), asked, 3) == error_of(np.ones((6, 3)), asked)
