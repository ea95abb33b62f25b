"""The log-domain head against closed forms, and the mistakes that it must not repeat."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from models.hdr.head import (
    DENOM_MIN,
    HeadSettings,
    LogDomainHead,
    largest_cap,
    needed_cap,
    prepare,
    residual_mask,
    ring,
    valid_percentiles,
)
from settings.flat import replace

EPS = 1e-6

MakeBatch = Callable[..., dict[str, Tensor]]
HeadWith = Callable[..., LogDomainHead]


# --- radiance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [EPS, 0.03])
def test_radiance_is_its_formula_in_double_precision(
    make_batch: MakeBatch, head_with: HeadWith, eps: float
) -> None:
    cap = {"cap.log_delta_max": 4.0, "cap.alpha": 1.0}
    head = head_with({"prefill": "push_pull", "epsilon": eps, **cap})
    batch = make_batch()
    raw = torch.randn(3, 3, 32, 32)
    prepared = head.prepare(batch)
    prediction = head(raw, prepared)
    hole = batch["hole"].double()
    mask = hole + 0.5 * (nn.functional.max_pool2d(hole, 3, 1, 1) - hole)
    base = (prepared["prefilled"].double() + eps).log()
    torch.testing.assert_close(prepared["log_base"].double(), base, rtol=1e-5, atol=1e-5)
    expected = ((base + mask * 4.0 * raw.double().tanh()).exp() - eps).clamp(min=0)
    torch.testing.assert_close(
        prediction["radiance"].double(), expected, rtol=2e-5, atol=1e-9, check_dtype=False
    )
    torch.testing.assert_close(prediction["applied"], mask.float() * prediction["log_delta"])


def test_the_ring_supervises_the_whole_residual_and_applies_half(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    """004-M3: halving what is supervised makes the network predict the double on the ring."""
    head = head_with()
    prediction = head(torch.full((3, 3, 32, 32), 0.1), head.prepare(make_batch()))
    assert torch.equal(prediction["log_delta"].amin(), prediction["log_delta"].amax())
    on_ring = prediction["applied"][0, 0, 7, 12] / prediction["log_delta"][0, 0, 7, 12]
    assert float(on_ring) == pytest.approx(0.5)


def test_radiance_is_never_negative(make_batch: MakeBatch, head_with: HeadWith) -> None:
    """004-M20: exp(x) - eps is below 0 for a residual that darkens a hole."""
    head = head_with()
    prediction = head(torch.full((3, 3, 32, 32), -50.0), head.prepare(make_batch()))
    assert prediction["radiance"].min() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exp_under_autocast_equals_fp32(
    make_batch: MakeBatch, head_with: HeadWith, dtype: torch.dtype
) -> None:
    """exp(16) overflows fp16 (its limit is 11.09) and loses all but 3 digits in bf16."""
    batch = make_batch()
    for mode in ("absolute", "learnable", "predicted"):
        torch.manual_seed(0)
        head = head_with({"cap.mode": mode}).eval()
        raw = torch.randn(3, 3, 32, 32).to(dtype)
        exact = head(raw.float(), head.prepare(batch))
        with torch.autocast("cpu", dtype=dtype):
            under = head(raw, head.prepare(batch))
        for name, value in exact.items():
            assert under[name].dtype == torch.float32, name
            torch.testing.assert_close(under[name], value, rtol=0.0, atol=0.0, msg=name)
    assert exact["radiance"].isfinite().all()


def test_the_largest_legal_cap_does_not_overflow(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    head = head_with({"cap.log_delta_max": 16.0, "cap.alpha": 4.0})
    batch = make_batch()
    batch["warped"] = batch["warped"].clamp(max=1e3)
    prediction = head(torch.full((3, 3, 32, 32), 1e4), head.prepare(batch))
    assert prediction["radiance"].isfinite().all()


def test_a_nonfinite_output_stays_visible(make_batch: MakeBatch, head_with: HeadWith) -> None:
    head = head_with()
    raw = torch.zeros(3, 3, 32, 32)
    raw[1, 1, 10, 12] = torch.nan
    radiance = head(raw, head.prepare(make_batch()))["radiance"]
    assert int(radiance.isnan().sum()) == 1


# --- what the head prepares ---------------------------------------------------------------------


def test_ring_and_mask_on_a_known_hole() -> None:
    hole = torch.zeros(1, 1, 7, 7)
    hole[0, 0, 3, 3] = 1.0
    assert int(ring(hole, 3).sum()) == 8
    assert int(ring(hole, 5).sum()) == 24
    mask = residual_mask(HeadSettings(ring_scale=0.25), hole)
    assert mask[0, 0, 3, 3] == 1.0
    assert mask[0, 0, 2, 2] == 0.25
    assert mask[0, 0, 1, 1] == 0.0
    assert residual_mask(HeadSettings(mask=False), hole).min() == 1.0


@given(st.integers(0, 63), st.integers(0, 2**31 - 1), st.floats(0.0, 1.0))
def test_percentiles_equal_numpys_over_valid_pixels(holes: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    hole = np.zeros(64)
    hole[rng.permutation(64)[:holes]] = 1.0
    values = rng.normal(size=(3, 64))
    expected = np.quantile(values[:, hole == 0], share)
    found = valid_percentiles(
        torch.tensor(values).view(1, 3, 8, 8), torch.tensor(hole).view(1, 1, 8, 8), (share,)
    )
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_the_image_spans_zero_to_one_on_valid_pixels_and_is_clipped(make_batch: MakeBatch) -> None:
    batch = make_batch()
    batch["warped"][0, :, 0, 0] = 1e30
    prepared = prepare(HeadSettings(), batch)
    valid = (batch["hole"] == 0).expand(3, 3, 32, 32)
    inside = prepared["image"][valid]
    share = float(((inside >= 0) & (inside <= 1)).float().mean())
    assert share == pytest.approx(0.98, abs=0.005)
    assert prepared["image"].min() >= -1.0
    assert prepared["image"].max() <= 2.0


def test_the_documents_range_is_that_of_all_pixels(make_batch: MakeBatch) -> None:
    """004-M4: with a hole its least value is log(eps), whatever the contrast of the patch."""
    settings = replace(HeadSettings(), {"range": "min_max", "cap.mode": "proportional"})
    batch = make_batch()
    batch["hole"][2] = 0.0
    batch["warped"] = (batch["warped"] + 0.1) * (1.0 - batch["hole"])
    prepared = prepare(settings, batch)
    logs = np.log(batch["warped"].double().numpy() + EPS)
    low, high = logs.min((1, 2, 3)), logs.max((1, 2, 3))
    assert low[:2] == pytest.approx(math.log(EPS)) and low[2] > -3.0
    np.testing.assert_allclose(prepared["denom"].flatten(), high - low, rtol=1e-5)
    np.testing.assert_allclose(
        prepared["image"],
        (logs - low[:, None, None, None]) / (high - low)[:, None, None, None],
        atol=1e-5,
    )
    scale = LogDomainHead(settings)(torch.zeros(3, 3, 32, 32), prepared)["scale"].flatten()
    np.testing.assert_allclose(scale, 0.9 * (high - low), rtol=1e-5)


def test_patches_without_contrast_or_without_valid_pixels_are_finite(head_with: HeadWith) -> None:
    flat = {"warped": torch.full((1, 3, 32, 32), 0.5), "hole": torch.zeros(1, 1, 32, 32)}
    empty = {"warped": torch.zeros(1, 3, 32, 32), "hole": torch.ones(1, 1, 32, 32)}
    for batch in (flat, empty):
        for mode in ("absolute", "proportional", "learnable", "predicted"):
            head = head_with({"cap.mode": mode, "prefill": "push_pull"})
            prepared = head.prepare(batch)
            assert float(prepared["denom"]) == pytest.approx(DENOM_MIN)
            prediction = head(torch.randn(1, 3, 32, 32), prepared)
            assert all(
                value.isfinite().all() for value in (*prepared.values(), *prediction.values())
            )


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    batch = make_batch()
    raw = torch.randn(3, 3, 32, 32)
    for mode in ("proportional", "predicted"):
        torch.manual_seed(0)
        head = head_with({"cap.mode": mode})
        together = head(raw, head.prepare(batch))["radiance"][1:2]
        one = {name: value[1:2] for name, value in batch.items()}
        torch.testing.assert_close(head(raw[1:2], head.prepare(one))["radiance"], together)


def test_dither_is_small_random_and_for_training_only(
    make_batch: MakeBatch, head_with: HeadWith
) -> None:
    head = head_with({"dither": True})
    batch = make_batch()
    seeds = torch.arange(len(batch["hole"]))
    first, second = (head.prepare({**batch, "seed": seeds + add}) for add in (0, 9))
    assert not torch.equal(first["image"], second["image"])
    assert torch.equal(first["log_base"], second["log_base"])
    head.eval()
    plain = head.prepare(batch)
    assert torch.equal(plain["image"], head.prepare(batch)["image"])
    # +-eps/2 on an argument of at least eps moves the log by at most ln 2.
    moved = (first["image"] - plain["image"]).abs() * plain["denom"]
    assert 0.0 < moved.max() <= math.log(2.0) + 1e-5


def test_dither_is_uniform_between_half_an_epsilon_below_and_above(head_with: HeadWith) -> None:
    """Around the radiance itself: an input that is brighter by half an epsilon while training is
    another one than validation sees.
    """
    head = head_with({"dither": True, "epsilon": 0.1})
    warped = torch.linspace(0.0, 1.0, 3 * 64 * 64, dtype=torch.float64).view(1, 3, 64, 64)
    batch = {"warped": warped, "hole": torch.zeros(1, 1, 64, 64), "seed": torch.zeros(1).long()}
    prepared = head.prepare(batch)
    low = torch.quantile((warped + 0.1).log(), 0.01)
    seen = (prepared["image"].double() * prepared["denom"].double() + low).exp()
    noise = ((seen - warped) / 0.1 - 1.0).flatten().numpy()
    assert stats.kstest(noise, "uniform", args=(-0.5, 1.0)).pvalue > 0.01
    assert noise.min() >= -0.501 and noise.max() <= 0.501


# --- reach ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "radiance"),
    [(4, 5.4e-5), (6, 4.0e-4), (8, 3.0e-3), (10, 0.022), (12, 0.16), (14, 1.20), (16, 8.9)],
)
def test_what_a_black_hole_can_reach(cap: float, radiance: float) -> None:
    """004-M1: from an unfilled hole the recommended cap of 6 reaches 4e-4 and no more."""
    settings = replace(HeadSettings(), {"cap.log_delta_max": cap, "cap.alpha": 1.0})
    base = torch.full((1, 3, 2, 2), EPS).log()
    reached = (base + largest_cap(settings, torch.ones(1, 1, 1, 1))).exp() - EPS
    assert float(reached.max()) == pytest.approx(radiance, rel=0.03)
    head = LogDomainHead(settings)
    hole = {"warped": torch.zeros(1, 3, 2, 2), "hole": torch.ones(1, 1, 2, 2)}
    filled = head(torch.full((1, 3, 2, 2), 1e4), head.prepare(hole))["radiance"]
    torch.testing.assert_close(filled, reached, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("luminance", "delta"), [(0.01, 9.2), (1.0, 13.8), (100.0, 18.4)])
def test_needed_cap_of_a_black_hole(luminance: float, delta: float) -> None:
    target, base = torch.tensor(luminance), torch.tensor(EPS).log()
    assert float(needed_cap(target, base, EPS)) == pytest.approx(delta, abs=0.05)


def test_largest_cap_counts_mode_squash_and_clamp(head_with: HeadWith) -> None:
    denom = torch.tensor([2.0, 10.0]).view(2, 1, 1, 1)

    def caps(changes: dict[str, object]) -> list[float]:
        head = head_with(changes)
        return largest_cap(head.settings, denom).flatten().tolist()

    assert caps({}) == pytest.approx([19.2, 19.2])
    assert caps({"cap.mode": "proportional"}) == pytest.approx([1.8, 9.0])
    assert caps({"cap.mode": "learnable"}) == pytest.approx([24.0, 24.0])
    assert caps({"cap.squash": "double_tanh"}) == pytest.approx([19.2 * math.tanh(1.0)] * 2)
    assert caps({"clamp.enabled": True, "clamp.kind": "hard"}) == pytest.approx([8.0, 8.0])
