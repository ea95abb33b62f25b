"""Caps, squashing and the safety clamp against closed forms, and the settings that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.hdr.cap import (
    LARGEST_CAP,
    SQUASH_LIMIT,
    CapSettings,
    ClampSettings,
    clamp_active,
    effective_cap,
    safety_clamp,
    squash,
)
from models.hdr.head import HeadSettings, LogDomainHead, largest_cap, prepare
from settings.flat import replace
from settings.schema import SettingsError

EPS = 1e-6

MakeBatch = Callable[..., dict[str, Tensor]]
HeadWith = Callable[..., LogDomainHead]


# --- caps ---------------------------------------------------------------------------------------


def test_absolute_cap_is_alpha_times_max(make_batch: MakeBatch, head_with: HeadWith) -> None:
    head = head_with({"cap.log_delta_max": 6.0, "cap.alpha": 1.2})
    batch = make_batch()
    raw = torch.randn(3, 3, 32, 32)
    prediction = head(raw, head.prepare(batch))
    torch.testing.assert_close(prediction["cap"], torch.full((3, 1, 1, 1), 7.2))
    torch.testing.assert_close(prediction["log_delta"], 7.2 * raw.tanh())


def test_proportional_cap_is_the_percentile_range_of_valid_pixels(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    head = head_with({"cap.mode": "proportional", "cap.log_delta_scale": 0.9})
    batch = make_batch()
    prepared = head.prepare(batch)
    prediction = head(torch.full((3, 3, 32, 32), 100.0), prepared)
    for sample in range(3):
        valid = batch["hole"][sample, 0].numpy() == 0
        logs = np.log(batch["warped"][sample].numpy()[:, valid].astype(np.float64) + EPS)
        low, high = np.percentile(logs, [1, 99])
        assert float(prediction["denom"][sample]) == pytest.approx(high - low, rel=1e-5)
        assert float(prediction["cap"][sample]) == pytest.approx(0.9 * (high - low), rel=1e-5)
    # Squashed once, not twice: a saturated output reaches the whole cap.
    torch.testing.assert_close(
        prediction["log_delta"], prediction["cap"].expand_as(prediction["log_delta"])
    )


def test_a_proportional_cap_ends_where_exp_is_safe(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    """A range of 60 nat and a factor of 3 would be a cap of 180: exp overflows at 88."""
    head = head_with({"cap.mode": "proportional", "cap.log_delta_scale": 3.0, "epsilon": 1e-8})
    batch = make_batch()
    stops = torch.linspace(-60.0, 60.0, 32).exp2() * 1e-4
    batch["warped"] = stops.expand_as(batch["warped"]) * (1.0 - batch["hole"])
    prediction = head(torch.full((3, 3, 32, 32), 100.0), head.prepare(batch))
    assert float(prediction["denom"].min()) > 30.0
    torch.testing.assert_close(prediction["cap"], torch.full((3, 1, 1, 1), LARGEST_CAP))
    assert torch.equal(largest_cap(head.settings, prediction["denom"]), prediction["cap"])
    holes = prediction["radiance"][batch["hole"].expand(-1, 3, -1, -1) > 0]
    assert bool(torch.isfinite(holes).all())


def test_denom_does_not_see_the_hole(make_batch: MakeBatch) -> None:
    """004-M4: with holes in the range, denom measures their presence (13.8 and more)."""
    batch = make_batch()
    with_hole = prepare(HeadSettings(), batch)["denom"]
    no_hole = prepare(
        HeadSettings(), {"warped": batch["target"], "hole": torch.zeros_like(batch["hole"])}
    )["denom"]
    torch.testing.assert_close(with_hole, no_hole, rtol=0.05, atol=0.0)
    assert with_hole.max() < 13.8


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("init", [2.5, 6.0, 23.0])
def test_learnable_scale_starts_exactly_and_stays_bounded(
    make_batch: MakeBatch, head_with: HeadWith, init: float, per_channel: bool
) -> None:
    head = head_with(
        {"cap.mode": "learnable", "cap.scale_init": init, "cap.per_channel": per_channel}
    )
    prepared = head.prepare(make_batch())
    scale = head.scale(prepared["denom"], prepared["statistics"])
    channels = 3 if per_channel else 1
    torch.testing.assert_close(scale, torch.full((3, channels, 1, 1), init), rtol=1e-6, atol=0.0)

    scale.sum().backward()
    assert head.scale.theta.grad.abs().min() > 0
    for theta, bound in ((-1e4, 2.0), (1e4, 24.0)):
        with torch.no_grad():
            head.scale.theta.fill_(theta)
            at_end = head.scale(prepared["denom"], prepared["statistics"])
        torch.testing.assert_close(at_end, torch.full_like(at_end, bound))


def test_the_documents_scale_is_a_parameter_of_any_size_and_sign(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    """004-M7: nothing keeps it above 0 or below where exp is safe."""
    head = head_with({"cap.mode": "unbounded", "cap.scale_init": 6.0})
    batch, raw = make_batch(), torch.randn(3, 3, 32, 32)
    for scale in (6.0, 70.0, -2.0):
        with torch.no_grad():
            prediction = head(raw, head.prepare(batch))
        torch.testing.assert_close(prediction["log_delta"], scale * raw.tanh())
        torch.testing.assert_close(prediction["cap"], torch.full((3, 1, 1, 1), abs(scale)))
        with torch.no_grad():
            head.scale.theta.fill_(70.0 if scale == 6.0 else -2.0)
    head(raw, head.prepare(batch))["log_delta"].sum().backward()
    torch.testing.assert_close(head.scale.theta.grad, raw.tanh().sum()[None])
    assert largest_cap(head.settings, torch.ones(1, 1, 1, 1)) == math.inf


def test_no_decay_names_the_learnt_scale(head_with: HeadWith) -> None:
    for mode, expected in (
        ("absolute", set()),
        ("learnable", {"scale.theta"}),
        ("predicted", {"scale.output.bias"}),
        ("unbounded", set()),
    ):
        head = head_with({"cap.mode": mode})
        assert head.no_decay == expected
        assert head.no_decay <= {name for name, _ in head.named_parameters()}


def document_scaler() -> nn.Sequential:
    """The predictor as the source document writes it, before its clamp to [2, 10]."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(7, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.Softplus()
    )


def test_predicted_scale_can_learn_from_every_start_and_the_documents_from_none(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    """004-M11: of 100 starts none of the document's form has a gradient; here all have."""
    prepared = prepare(HeadSettings(), make_batch())
    document_input = torch.rand(3, 7, 8, 8)
    document_input[:, 4:] = 0.0
    alive_document = alive = 0
    for seed in range(100):
        torch.manual_seed(seed)
        theirs = document_scaler()
        theirs(document_input).clamp(2.0, 10.0).sum().backward()
        alive_document += any(bool(p.grad.any()) for p in theirs.parameters())

        head = head_with({"cap.mode": "predicted", "cap.scale_init": 6.0})
        scale = head.scale(prepared["denom"], prepared["statistics"])
        torch.testing.assert_close(scale, torch.full_like(scale, 6.0), rtol=1e-2, atol=0.0)
        scale.sum().backward()
        alive += all(bool(p.grad.any()) for p in head.parameters())
    assert (alive_document, alive) == (0, 100)


def test_predicted_scale_learns_to_tell_patches_apart_within_its_bounds(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    torch.manual_seed(0)
    head = head_with({"cap.mode": "predicted"})
    batch = make_batch()
    batch["warped"] = batch["warped"] * torch.tensor([1e-3, 1.0, 1e2]).view(3, 1, 1, 1)
    prepared = head.prepare(batch)
    wanted = torch.tensor([4.0, 8.0, 16.0]).view(3, 1, 1, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.04)
    for _ in range(250):
        scale = head.scale(prepared["denom"], prepared["statistics"])
        optimizer.zero_grad()
        ((scale - wanted) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(scale, wanted, rtol=0.1, atol=0.0)
    assert scale.min() > 2.0
    assert scale.max() < 24.0


@given(st.floats(-1e4, 1e4), st.sampled_from(tuple(SQUASH_LIMIT)), st.floats(0.1, 40.0))
def test_no_squash_exceeds_the_cap(raw: float, kind: str, scale: float) -> None:
    reached = scale * squash(kind, torch.tensor(raw, dtype=torch.float64))
    cap = effective_cap(CapSettings(squash=kind), ClampSettings(), torch.tensor(scale))
    assert abs(float(reached)) <= float(cap) * (1 + 1e-6)
    assert math.copysign(1.0, float(reached)) == math.copysign(1.0, raw)


def test_double_tanh_reaches_only_762_thousandths(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    """004-M8: tanh in the network and again outside limits to tanh(1)."""
    head = head_with({"cap.squash": "double_tanh", "cap.log_delta_max": 10.0, "cap.alpha": 1.0})
    prediction = head(torch.full((3, 3, 32, 32), 1e3), head.prepare(make_batch()))
    assert float(prediction["log_delta"].max()) == pytest.approx(10.0 * math.tanh(1.0), rel=1e-6)
    assert float(prediction["log_delta"].max()) == pytest.approx(7.62, abs=0.005)
    assert float(prediction["cap"].max()) == pytest.approx(float(prediction["log_delta"].max()))


# --- the safety clamp ---------------------------------------------------------------------------


@given(st.floats(-60, 60), st.sampled_from(["soft", "hard"]))
def test_clamp_is_odd_bounded_and_the_identity_below_its_threshold(x: float, kind: str) -> None:
    settings = ClampSettings(enabled=True, max=8.0, kind=kind)
    value = torch.tensor(x, dtype=torch.float64)
    clamped = float(safety_clamp(settings, value))
    assert abs(clamped) <= 8.0
    assert float(safety_clamp(settings, -value)) == pytest.approx(-clamped)
    active = bool(clamp_active(settings, value))
    assert active == (abs(x) > (8.0 if kind == "hard" else 6.0))
    if not active:
        assert clamped == pytest.approx(x, abs=1e-12)
    else:
        assert abs(clamped) < abs(x)
    if kind == "soft" and active:
        assert clamped == pytest.approx(math.copysign(6 + 2 * math.tanh((abs(x) - 6) / 2), x))


def test_soft_clamp_joins_smoothly_and_keeps_a_gradient() -> None:
    settings = ClampSettings(enabled=True, max=8.0, kind="soft")
    knee = torch.tensor([6.0 - 1e-6, 6.0 + 1e-6, 9.0], dtype=torch.float64, requires_grad=True)
    safety_clamp(settings, knee).sum().backward()
    torch.testing.assert_close(knee.grad[:2], torch.ones(2, dtype=torch.float64))
    assert knee.grad[2] > 0.1
    hard = torch.tensor([9.0], requires_grad=True)
    safety_clamp(ClampSettings(enabled=True, kind="hard"), hard).sum().backward()
    assert hard.grad.item() == 0.0


@pytest.mark.parametrize("mode", ["absolute", "proportional", "learnable", "predicted"])
def test_the_clamp_acts_in_every_mode(
    make_batch: MakeBatch, head_with: HeadWith, mode: str
) -> None:
    """004-M5: in the document it sits behind one branch, and is dead code after its own change."""
    head = head_with(
        {"cap.mode": mode, "clamp.enabled": True, "clamp.max": 1.5, "clamp.kind": "hard"}
    )
    prediction = head(torch.full((3, 3, 32, 32), 5.0), head.prepare(make_batch()))
    assert prediction["unclamped"].min() > 1.5
    torch.testing.assert_close(prediction["log_delta"], torch.full_like(prediction["raw"], 1.5))
    torch.testing.assert_close(prediction["cap"], torch.full_like(prediction["cap"], 1.5))


# --- settings ------------------------------------------------------------------------------------


def test_batch_mean_is_refused_with_its_reason() -> None:
    with pytest.raises(SettingsError, match=r"depend on its neighbours.*mode=proportional"):
        replace(HeadSettings(), {"cap.mode": "batch_mean"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ring_kernel": 4}, "must be odd.*Take 3 or 5"),
        ({"cap.alpha": 4.0, "cap.log_delta_max": 17.0}, "at most 64.*68"),
        ({"cap.mode": "learnable", "cap.scale_init": 1.0}, "scale_low < scale_init < scale_high"),
        ({"cap.mode": "nothing"}, "takes one of absolute"),
        ({"prefill": "grey"}, "zero | nearest"),
    ],
)
def test_illegal_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(HeadSettings(), changes)


def test_bounds_of_unused_modes_do_not_bind() -> None:
    assert CapSettings(mode="absolute", scale_init=1.0).scale_init == 1.0
