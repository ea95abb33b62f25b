"""The flow in training: its starts, its steps, and the gradient through them."""

from __future__ import annotations

import pytest
import torch

from models.draws import draw_uniform
from models.style_flow.flow import End, Start, laid_out, start_of, step_times, transport
from models.style_flow.settings import LAYOUTS, FlowSettings
from settings.schema import SettingsError

SEED = torch.tensor([11, 12, 13])
STYLE = torch.tensor([0, 2, 1])


def test_the_last_t_is_exactly_1_for_every_count_of_steps_and_start():
    seeds = torch.arange(200)
    starts = 0.999 * draw_uniform(seeds, "starts").double()
    counts = [1 + int(n) for n in 24 * draw_uniform(seeds, "counts")]
    pairs = zip(counts, starts.view(-1, 1), strict=True)
    for count, t0 in pairs:
        settings = FlowSettings(steps=count)
        times = step_times(t0, settings)
        assert times[0] == t0
        assert times[-1] == 1.0
        torch.testing.assert_close(
            times.diff(dim=0)[:, 0], ((1.0 - t0) / count).expand(count), rtol=1e-9, atol=1e-15
        )
        end = transport(lambda x, t: x, Start(torch.ones(1, 1), t0, torch.ones(1, 1)), settings)
        assert end.t == 1.0


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_moving_rule_leaves_a_part_of_the_way(count):
    """002-M10: dt = (1 - t) / n, made anew in each step, as a loop."""
    t = t0 = torch.tensor([0.01, 0.4], dtype=torch.float64)
    times = step_times(t0, FlowSettings(steps=count, step_rule="moving"))
    for found in times[1:]:
        t = t + (1.0 - t) / count
        torch.testing.assert_close(found, t)
    left = (1.0 - times[-1]) / (1.0 - t0)
    assert left.tolist() == pytest.approx([(1.0 - 1.0 / count) ** count] * 2)


def test_a_start_mixes_noise_and_source_at_a_time_between_the_bounds():
    seeds = torch.arange(2_000)
    source = torch.full((2_000, 1, 2, 2), 3.0)
    start = start_of(source, seeds, FlowSettings(t0_low=0.2, t0_high=0.7))
    assert start.t0.dtype == torch.float64
    assert 0.2 <= start.t0.min() < 0.21 and 0.69 < start.t0.max() < 0.7
    assert start.t0.mean() == pytest.approx(0.45, abs=3 * 0.5 / 12**0.5 / 2_000**0.5)
    t0 = start.t0.float()[:, None, None, None]
    torch.testing.assert_close(start.x, (1.0 - t0) * start.noise + t0 * source)
    assert start.noise.std() == pytest.approx(1.0, abs=0.03)
    whole = start_of(source, seeds, FlowSettings(start="source"))
    assert torch.equal(whole.x, source)


def test_a_start_is_drawn_by_its_seed_whatever_the_batch():
    source = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    low = torch.tensor([0.0, 0.5, 0.9])
    together = start_of(source, SEED, FlowSettings(), low)
    assert (together.t0 >= low).all()
    for i in (2, 0):
        alone = start_of(source[i : i + 1], SEED[i : i + 1], FlowSettings(), low[i : i + 1])
        assert torch.equal(alone.x[0], together.x[i])
        assert torch.equal(alone.t0[0], together.t0[i])


def gradients(network, x, settings, by_hand=False):
    """The end point, and the gradients of its squares in the source and every parameter."""
    network.zero_grad()
    source = x.clone().requires_grad_()
    start = start_of(source, SEED, settings)
    velocity = network.of_style(STYLE)
    if by_hand:
        place, t = start.x, start.t0
        dt = (1.0 - t) / settings.steps
        for step in range(settings.steps):
            now = t + step * dt
            place = place + dt[:, None, None, None] * velocity(place, now)
        end = End(place, t + settings.steps * dt)
    else:
        end = transport(velocity, start, settings)
    end.x.square().sum().backward()
    return end.x.detach(), [source.grad, *(p.grad for p in network.parameters())]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("variant", ["base", "plus"])
def test_the_gradient_through_the_steps_is_that_of_the_unrolled_loop(
    make, latents, variant, count
):
    network, x = make(variant=variant).double(), latents().double()
    settings = FlowSettings(steps=count, checkpointing=False)
    end, expected = gradients(network, x, settings, by_hand=True)
    kept, found = gradients(network, x, settings)
    torch.testing.assert_close(kept, end)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    again, checkpointed = gradients(network, x, FlowSettings(steps=count))
    assert torch.equal(again, kept)
    torch.testing.assert_close(checkpointed, found, rtol=1e-12, atol=1e-14)
    assert sum(g.abs().sum() == 0 for g in found) == 1  # the token: no style was dropped


def test_checkpointing_keeps_a_state_a_step(make, latents):
    network, x = make(), latents()

    def kept(steps, checkpointing):
        sizes = {}

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        settings = FlowSettings(steps=steps, checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            end = transport(network.of_style(STYLE), start_of(x, SEED, settings), settings)
        assert end.x.requires_grad
        return sum(sizes.values())

    assert kept(12, False) - kept(4, False) > 10 * (kept(12, True) - kept(4, True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_changes_nothing_but_the_memory(make, latents, layout):
    network, x = make().double(), latents().double()
    seen = []

    def velocity(place, t):
        seen.append(place.is_contiguous(memory_format=torch.channels_last))
        return network(place, t, STYLE)

    start = start_of(x, SEED, FlowSettings())
    end = transport(velocity, start, FlowSettings(layout=layout))
    plain = transport(network.of_style(STYLE), start, FlowSettings())
    torch.testing.assert_close(end.x, plain.x)
    assert seen == [layout == "channels_last"] * 4
    turned = x.transpose(2, 3)
    place = []
    laid_out(lambda x, t: place.append(x.is_contiguous()), layout)(turned, None)
    assert place == [layout == "contiguous"]


def test_bounds_of_t0_that_leave_nothing_are_refused():
    with pytest.raises(SettingsError, match=r"flow.t0_low must lie below flow.t0_high, not 0.5"):
        FlowSettings(t0_low=0.5, t0_high=0.5)


def test_a_network_in_bfloat16_moves_a_state_in_float32(make, latents):
    network, start = make(), start_of(latents(), SEED, FlowSettings())
    plain = transport(network.of_style(STYLE), start, FlowSettings())
    with torch.autocast("cpu", torch.bfloat16):
        end = transport(network.of_style(STYLE), start, FlowSettings())
    end.x.square().sum().backward()
    assert end.x.dtype == torch.float32
    assert 0.0 < (end.x - plain.x).norm() < 0.03 * (plain.x - start.x).norm()
    assert all(parameter.grad.isfinite().all() for parameter in network.condition.parameters())
