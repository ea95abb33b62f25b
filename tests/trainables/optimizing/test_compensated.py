"""Parameters in bf16 follow torch's rules as if they were in fp32, but for what a forward sees of
them.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.checkpoints.begin import load_optimizer
from trainables.optimizing.compensated import LOWER, Compensated, join, split
from trainables.optimizing.optimizer import OptimizerSettings, make_optimizer
from trainables.optimizing.sharpness import SharpnessSettings, aside

KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
every_kind = pytest.mark.parametrize("kind", KINDS)
HALF = torch.bfloat16
LEAST = torch.finfo(torch.float32).tiny


def numbers_of(patterns):
    """fp32 numbers by their bits."""
    return torch.tensor(patterns, dtype=torch.int64).to(torch.int32).view(torch.float32)


def halves_of(exact):
    upper = torch.empty_like(exact, dtype=HALF)
    lower = torch.empty_like(exact, dtype=torch.int16)
    split(exact, upper, lower)
    return upper, lower


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=64))
def test_both_halves_are_the_number_and_the_upper_one_is_the_nearest(patterns):
    exact = numbers_of(patterns)
    exact = exact[exact.isfinite()]
    upper, lower = halves_of(exact)
    assert torch.equal(join(upper, lower).view(torch.int32), exact.view(torch.int32))
    nearest = exact.to(HALF)
    off = [(each.double() - exact.double()).abs() for each in (upper, nearest)]
    assert torch.equal(*(torch.where(far.isfinite(), far, 0.0) for far in off))
    assert torch.equal(upper.isinf(), nearest.isinf()), "what is beyond the largest one"


def test_what_is_not_finite_stays_so():
    """All bits set is what CUDA makes of 0 / 0: rounded as a number it would be -0."""
    patterns = [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFFC00000, 0x7F800000, 0xFF800000]
    exact = numbers_of(patterns)
    for found in (halves_of(exact)[0].float(), join(*halves_of(exact))):
        assert found.isnan().tolist() == [True] * 4 + [False] * 2
        assert found[4:].tolist() == [float("inf"), float("-inf")]


def test_what_lies_otherwise_in_memory_is_split_where_it_lies():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    upper = nn.Parameter(image.to(HALF))
    lower = torch.zeros_like(upper, dtype=torch.int16)
    split(image, upper, lower)
    assert torch.equal(join(upper, lower), image)
    assert upper.is_contiguous(memory_format=torch.channels_last)


def settings_of(kind, **changes):
    betas = {} if kind == "sgd" else {"beta2": 0.99, "eps": 1e-6}
    return OptimizerSettings(**{"kind": kind, "lr": 1e-3, "beta1": 0.8, **betas, **changes})


def pairs_of(shapes, seed=0):
    """(in bf16, the same in fp32)."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator).to(HALF) for shape in shapes]
    return [nn.Parameter(v.clone()) for v in values], [nn.Parameter(v.float()) for v in values]


def gradients_of(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator).to(HALF) for p in parameters]


def step_with(optimizer, parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.to(parameter.dtype)
    optimizer.step()


def groups_of(parameters):
    """Two, with a decay and a rate of their own."""
    first, *others = parameters
    return [
        {"params": [first], "weight_decay": 0.3, "rate": 1.0},
        {"params": others, "weight_decay": 0.0, "rate": 0.25},
    ]


@every_kind
def test_it_is_torchs_rule_in_fp32_to_the_bit(kind):
    """Under changing rates, and a parameter that has no gradient at first."""
    settings = settings_of(kind)
    short, full = pairs_of([(4, 3), (5,), ()])
    ours = make_optimizer(settings, groups_of(short))
    theirs = make_optimizer(settings, groups_of(full))
    assert type(theirs) is KINDS[kind]
    for step in range(60):
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * 1e-3 / (1 + step)
        gradients = gradients_of(short, step)
        gradients[1] = None if step < 3 else gradients[1]
        step_with(ours, short, gradients)
        step_with(theirs, full, gradients)
    for mine, exact in zip(short, full, strict=True):
        assert torch.equal(join(mine, ours.state[mine][LOWER]), exact)
        assert torch.equal(mine.float(), exact.to(HALF).float())
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            assert (key in ours.state[mine]) == (key in theirs.state[exact])
            if key in theirs.state[exact]:
                assert torch.equal(ours.state[mine][key], theirs.state[exact][key])


@every_kind
def test_parameters_in_fp32_beside_them_are_updated_as_torch_does(kind):
    settings = settings_of(kind, beta1=0.0) if kind == "sgd" else settings_of(kind)
    (short,), (full, alone) = pairs_of([(3,)])[0], pairs_of([(3,), (2, 2)])[1]
    again = nn.Parameter(alone.detach().clone())
    ours = make_optimizer(settings, [{"params": [short, alone], "weight_decay": 0.1}])
    theirs = make_optimizer(settings, [{"params": [full, again], "weight_decay": 0.1}])
    for step in range(10):
        gradients = gradients_of([short, alone], step)
        step_with(ours, [short, alone], gradients)
        step_with(theirs, [full, again], gradients)
    assert torch.equal(alone, again)
    assert LOWER not in ours.state[alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@every_kind
def test_without_bf16_it_is_torchs_own_optimizer(kind, dtype):
    parameter = nn.Parameter(torch.ones(2, dtype=dtype))
    assert type(make_optimizer(settings_of(kind), [{"params": [parameter]}])) is KINDS[kind]


@every_kind
def test_updates_below_the_last_bit_add_up(kind):
    """100 of 1e-4 each from 1, whose neighbours in bf16 are 0.0039 below and 0.0078 above."""
    rounding, parameter = (nn.Parameter(torch.ones(3, dtype=HALF)) for _ in range(2))
    settings = settings_of(kind, lr=1e-4, weight_decay=0.0, beta1=0.0)
    ours = make_optimizer(settings, [{"params": [parameter], "weight_decay": 0.0}])
    theirs = KINDS[kind]([rounding], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        for optimizer, each in ((ours, parameter), (theirs, rounding)):
            step_with(optimizer, [each], [torch.ones(3)])
    assert torch.equal(rounding, torch.ones_like(rounding)), "torch rounds each of them away"
    torch.testing.assert_close(parameter, torch.full_like(parameter, 0.99), rtol=0, atol=0.0020)
    exact = join(parameter, ours.state[parameter][LOWER])
    torch.testing.assert_close(exact, torch.full_like(exact, 0.99), rtol=0, atol=1e-5)


def test_the_second_moment_falls():
    """v = (1 - beta2) beta2^n after n steps without a gradient; 0.999 v is v in bf16."""
    short, rounding = (nn.Parameter(torch.ones(2, dtype=HALF)) for _ in range(2))
    ours = make_optimizer(settings_of("adamw", beta2=0.999), [{"params": [short]}])
    theirs = torch.optim.AdamW([rounding])
    for step in range(1001):
        for optimizer, each in ((ours, short), (theirs, rounding)):
            step_with(optimizer, [each], [torch.full((2,), float(step == 0))])
    moment = ours.state[short]["exp_avg_sq"]
    expected = torch.full((2,), 0.001 * 0.999**1000)
    torch.testing.assert_close(moment, expected, rtol=1e-3, atol=0.0)
    assert bool((theirs.state[rounding]["exp_avg_sq"] > 2.0 * expected).all())


@every_kind
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(kind, tmp_path):
    settings = settings_of(kind)
    whole, part = pairs_of([(4, 3), (5,)])[0], pairs_of([(4, 3), (5,)])[0]
    one, two = (make_optimizer(settings, groups_of(each)) for each in (whole, part))
    for step in range(6):
        step_with(one, whole, gradients_of(whole, step))
        if step < 3:
            step_with(two, part, gradients_of(part, step))
    torch.save(two.state_dict(), tmp_path / "state.pt")
    again = make_optimizer(settings, groups_of(part))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 6):
        step_with(again, part, gradients_of(part, step))
    for mine, theirs in zip(whole, part, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(one.state[mine], again.state[theirs], rtol=0.0, atol=0.0)


@every_kind
def test_a_state_of_before_is_taken_on_in_fp32(kind):
    """torch's, with moments in bf16: a checkpoint that was made before this rule."""
    settings = settings_of(kind)
    (parameter,), _ = pairs_of([(4, 3)])
    theirs = KINDS[kind]([parameter], **({"momentum": 0.8} if kind == "sgd" else {}))
    for step in range(3):
        step_with(theirs, [parameter], gradients_of([parameter], step))
    ours = make_optimizer(settings, [{"params": [parameter], "weight_decay": 0.0}])
    load_optimizer(ours, theirs.state_dict())
    before = {key: value.clone() for key, value in theirs.state[parameter].items()}
    for key, value in ours.state[parameter].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key].float())
    step_with(ours, [parameter], gradients_of([parameter], 3))
    assert bool(parameter.isfinite().all())


def test_a_step_aside_leaves_the_lower_bits_with_their_parameter():
    """SAM puts the upper half back to the bit; so the number is back as well."""
    (parameter,), _ = pairs_of([(4, 3)])
    ours = make_optimizer(settings_of("adamw"), [{"params": [parameter]}])
    step_with(ours, [parameter], gradients_of([parameter], 0))
    exact = join(parameter, ours.state[parameter][LOWER])
    with aside([parameter], SharpnessSettings(radius=0.5)):
        assert not torch.equal(join(parameter, ours.state[parameter][LOWER]), exact)
    assert torch.equal(join(parameter, ours.state[parameter][LOWER]), exact)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    parameter = nn.Parameter(torch.ones(2, dtype=HALF))
    ours = Compensated([{"params": [parameter]}], "adamw", 0.1, (0.9, 0.999), 1e-8)

    def closure():
        loss = parameter.float().square().sum()
        loss.backward()
        return loss

    assert ours.step(closure).item() == 2.0
    torch.testing.assert_close(parameter, torch.full_like(parameter, 0.9), rtol=0, atol=2e-3)
