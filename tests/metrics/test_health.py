"""Health: each sign by hand, at and beyond its threshold, and once per training."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.codebook import CodebookHealthSettings
from metrics.hdr_patch import METRICS, CapHealthSettings
from metrics.health import HealthSettings, findings, health_columns, health_stop
from metrics.health_signs import SIGNS, Watched, overfit_ratio, readings

TERMS = ("main", "hier", "spectral")
FIXED = Watched("", "loss", TERMS, "train.grad_norm")
BALANCED = Watched("", "loss", TERMS, "train.grad_norm", balanced=dict.fromkeys(TERMS, 1.0))
CRITIC = Watched("critic", "critic", ("hinge", "penalty"), "train.critic.grad_norm")


def make_report(losses, weights, norm=1.0, validation=None, step=10):
    """The columns of a phase with prefix `loss`, with shares as the loop makes them."""
    report = {"step": step, "seconds": 1.0, "train.grad_norm": norm}
    parts = {name: (losses[name] or 0.0) * weights[name] for name in losses}
    total = sum(parts.values())
    for name, loss in losses.items():
        report[f"train.loss.{name}"] = loss
        report[f"train.loss.{name}.weight"] = weights[name]
        report[f"train.loss.{name}.share"] = parts[name] / total if total else 0.0
        report[f"val.loss.{name}"] = (validation or losses)[name]
    return report


SOUND = make_report(dict.fromkeys(TERMS, 1.0), dict.fromkeys(TERMS, 1.0))


def read(report, settings, phases, declared=()):
    return list(readings(report, phases, settings.measured, dict(declared)))


def warned(report, settings, phases, declared=()):
    return findings(read(report, settings, phases, declared), settings, report["step"])


def columns_of(report, settings, phases, before):
    return health_columns(read(report, settings, phases), settings, report["step"], before)


def names(report, settings=None, phases=(FIXED,)):
    return [found.name for found in warned(report, settings or HealthSettings(), phases)]


def test_a_sound_report_warns_of_nothing():
    assert warned(SOUND, HealthSettings(), [FIXED, BALANCED]) == []
    columns, fresh = columns_of(SOUND, HealthSettings(), [BALANCED], {})
    assert fresh == []
    assert columns == {
        "health.term_share": pytest.approx(1 / 3),
        "health.gradient_norm_high": 1.0,
        "health.gradient_norm_low": 1.0,
        "health.weight_collapse": pytest.approx(1.0),
        "health.overfit_ratio": pytest.approx(1.0),
        **{f"health.{sign}.warned": 0.0 for sign in SIGNS},
    }


def test_a_term_that_takes_over_is_named():
    losses = {"main": 1.0, "hier": 1.0, "spectral": 1.0}
    report = make_report(losses, {"main": 10.0, "hier": 0.5, "spectral": 0.1})
    (found,) = warned(report, HealthSettings(), [FIXED], {"loss.main": 0.25})
    assert found.name == "term_share"
    assert found.text == (
        "step 10: loss.main took over: with the weights that the system declares its share began "
        f"at 0.25, now it is {10.0 / 10.6:.4g} (health.term_share=0.9)"
    )
    assert names(report, HealthSettings(term_share=0.95)) == []


@pytest.mark.parametrize(("declared", "took_over"), [(0.0, True), (0.5, True), (0.51, False)])
def test_what_was_most_of_the_sum_before_has_not_taken_over(declared, took_over):
    report = make_report({"main": 0.9996, "hier": 0.0004}, {"main": 1.0, "hier": 1.0})
    for before in (declared, max(declared, 0.998)):
        (found,) = warned(report, HealthSettings(), [FIXED], {"loss.main": before})
        is_new = took_over and before == declared
        said = "took over: " if is_new else "was most of the sum with the weights that the system "
        assert found.text.startswith(f"step 10: loss.main {said}")
        assert found.text.endswith(
            f" its share began at {before:.4g}, now it is 0.9996 (health.term_share=0.9)"
        )


@pytest.mark.parametrize(
    ("declared", "share", "is_told"),
    [
        (0.0, 0.89, False),
        (0.0, 0.91, True),
        (0.92, 0.92, False),  # the plain 10:1 loss of `conditioner`
        (0.92, 0.959, False),
        (0.92, 0.961, True),
        (0.5, 0.89, False),
        (0.5, 0.91, True),
        (0.99, 0.991, False),
        (0.99, 0.9951, True),
        (1.0, 0.999, False),
    ],
)
def test_it_has_risen_by_half_of_what_it_lacked(declared, share, is_told):
    report = make_report({"main": share, "hier": 1.0 - share}, {"main": 1.0, "hier": 1.0})
    shares = {"loss.main": declared, "loss.hier": 0.0}
    found = warned(report, HealthSettings(), [FIXED], shares)
    assert [finding.name for finding in found] == ["term_share"] * is_told
    settings = HealthSettings(stop=("term_share",), stop_after=1)
    _, stop = health_stop(read(report, settings, [FIXED], shares), settings, 10, {})
    assert (stop is not None) == is_told, "what is not warned of ends nothing"


def test_a_term_alone_has_no_share_to_speak_of():
    alone = make_report(
        {"main": 1.0, "hier": None, "spectral": None}, {"main": 1.0, "hier": 0.0, "spectral": 0.0}
    )
    alone |= {"val.loss.hier": 1.0, "val.loss.spectral": 1.0}  # what is off is still validated
    assert names(alone) == []
    assert columns_of(alone, HealthSettings(), [FIXED], {})[0]["health.term_share"] is None


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (10.0, []),
        (10.01, ["gradient_norm_high"]),
        (1e-5, []),
        (0.9e-5, ["gradient_norm_low"]),
        (None, []),
    ],
)
def test_a_gradient_norm_beyond_the_documents_bounds(norm, expected):
    report = {**SOUND, "train.grad_norm": norm}
    assert names(report) == expected


def test_collapsed_weights_of_a_balancer_and_not_of_fixed_weights():
    """The soft-max weighter from losses 1, .1, .01 ends at .014, .080, 2.906 (000-M8)."""
    losses = {"main": 1.0, "hier": 0.1, "spectral": 0.01}
    report = make_report(losses, {"main": 0.014, "hier": 0.080, "spectral": 2.906})
    (found,) = warned(report, HealthSettings(), [BALANCED])
    assert found.name == "weight_collapse"
    assert "weight collapse of loss.main: its share of the mean weight is 0.014 " in found.text
    assert names(report) == []
    gone = make_report(losses, {"main": 0.0, "hier": 1.0, "spectral": 2.0})
    assert names(gone, phases=[BALANCED]) == ["weight_collapse"], "a weight of 0 is the worst"


def test_a_term_that_no_balancer_weighs_cannot_collapse():
    losses = dict.fromkeys(TERMS, 1.0)
    report = make_report(losses, {"main": 1.0, "hier": 1.0, "spectral": 1e-6})
    watched = Watched("", "loss", TERMS, "train.grad_norm", balanced={"main": 1.0, "hier": 1.0})
    assert names(report, phases=[watched]) == []


def test_a_small_weight_of_ones_own_is_no_collapse():
    """What the balancer makes of it counts: 0.01 and 0.6 of the terms' own weights."""
    own = {"main": 10.0, "hier": 1.0, "spectral": 1e-4}
    losses = {name: 1.0 / weight for name, weight in own.items()}
    watched = Watched("", "loss", TERMS, "train.grad_norm", balanced=own)
    assert names(make_report(losses, own), phases=[watched]) == []
    made = {"main": 0.1, "hier": 1.0, "spectral": 1e-4}
    assert names(make_report(losses, made), phases=[watched]) == ["weight_collapse"]


def test_the_overfit_ratio_weighs_by_what_is_applied_now():
    losses = {"main": 0.1, "hier": 0.2, "spectral": None}
    validation = {"main": 3.0, "hier": 0.2, "spectral": 9.0}
    report = make_report(losses, {"main": 2.0, "hier": 5.0, "spectral": 1.0}, 1.0, validation)
    ratio = (2.0 * 3.0 + 5.0 * 0.2) / (2.0 * 0.1 + 5.0 * 0.2)  # spectral was not trained on
    assert overfit_ratio(report, "loss", TERMS) == pytest.approx(ratio)
    assert names(report, HealthSettings(overfit_ratio=ratio * 0.99)) == ["overfit_ratio"]
    assert names(report, HealthSettings(overfit_ratio=ratio * 1.01)) == []


@pytest.mark.parametrize("training", [0.0, -1.0, None])
def test_there_is_no_ratio_to_nothing(training):
    report = make_report(dict.fromkeys(TERMS, training), dict.fromkeys(TERMS, 1.0))
    assert overfit_ratio(report, "loss", TERMS) is None


def test_a_second_phase_has_columns_of_its_own():
    report = {
        **SOUND,
        "train.critic.grad_norm": 99.0,
        "train.critic.hinge": 1.0,
        "train.critic.hinge.weight": 1.0,
        "train.critic.hinge.share": 1.0,
        "val.critic.hinge": 1.0,
    }
    assert names(report, phases=[FIXED, CRITIC]) == ["critic.gradient_norm_high"]
    columns, _ = columns_of(report, HealthSettings(), [FIXED, CRITIC], {})
    assert columns["health.critic.gradient_norm_high.warned"] == 1.0
    assert columns["health.gradient_norm_high.warned"] == 0.0
    assert len(columns) == 4 * len(SIGNS)


def test_each_name_is_warned_of_once_and_stays_marked():
    bad, before, said = {**SOUND, "train.grad_norm": 50.0}, {}, []
    for report in (SOUND, bad, SOUND, bad):
        columns, fresh = columns_of(report, HealthSettings(), [FIXED], before)
        before = {**report, **columns}
        said.append([found.name for found in fresh])
        marked = columns["health.gradient_norm_high.warned"]
        assert marked == (0.0 if len(said) == 1 else 1.0)
    assert said == [[], ["gradient_norm_high"], [], []]
    assert before["health.gradient_norm_high"] == 50.0


values = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(
    losses=st.fixed_dictionaries(dict.fromkeys(TERMS, values)),
    weights=st.fixed_dictionaries(dict.fromkeys(TERMS, st.floats(0.0, 1e3))),
    norm=st.one_of(st.none(), st.floats(0.0, 1e9)),
)
def test_whatever_comes_the_columns_are_there_and_finite(losses, weights, norm):
    report = make_report(losses, weights, norm)
    columns, fresh = columns_of(report, HealthSettings(), [BALANCED], {})
    assert set(columns) == {f"health.{s}{end}" for s in SIGNS for end in ("", ".warned")}
    assert all(value is None or math.isfinite(value) for value in columns.values())
    marked = {name for name, value in columns.items() if name.endswith(".warned") and value}
    assert marked == {f"health.{found.name}.warned" for found in fresh}


# Signs that a system's validation measures


def test_the_signs_of_a_cap_are_metrics_of_the_system():
    measured = CapHealthSettings.measured
    assert {sign.column.removeprefix("val.") for sign in measured} <= {m.name for m in METRICS}
    assert all(hasattr(CapHealthSettings(), sign.name) for sign in measured)
    assert not HealthSettings.measured, "no other system has these settings"


def test_a_cap_out_of_reach_is_warned_of():
    """The cap of 6 over zero-filled holes: every target is out of reach (004-M1)."""
    settings = CapHealthSettings()
    report = {**SOUND, "val.unreachable_share": 1.0, "val.saturation_share": 0.5}
    (found,) = warned(report, settings, [FIXED])
    assert found.name == "cap_unreachable"
    assert found.text == "step 10: targets beyond the cap: share 1 (health.cap_unreachable=0.05)"
    columns, _ = columns_of(report, settings, [FIXED], {})
    assert columns["health.cap_saturation"] == 0.5
    assert columns["health.cap_saturation.warned"] == 0.0
    assert columns_of(SOUND, settings, [FIXED], {})[0]["health.cap_saturation"] is None


def test_dead_codes_are_warned_of_below_the_threshold():
    """The demo's VQ-VAE uses 29 of 512 codes at its end."""
    settings = CodebookHealthSettings()
    assert {sign.column for sign in settings.measured} == {"val.codebook_utilisation"}
    report = {**SOUND, "val.codebook_utilisation": 29 / 512}
    (found,) = warned(report, settings, [FIXED])
    assert found.name == "codebook_utilisation"
    assert found.text.endswith(": share 0.05664 (health.codebook_utilisation=0.5)")
    assert names({**SOUND, "val.codebook_utilisation": 0.5}, settings) == []
    assert names(report, CodebookHealthSettings(codebook_utilisation=0.05)) == []
    ending = CodebookHealthSettings(stop=("codebook_utilisation",), stop_after=1)
    (stop,) = stops([report], ending)
    assert str(stop) == "health: codebook_utilisation 0.0566406 < 0.5 at step 10"
    assert stops([{**SOUND, "val.codebook_utilisation": 0.9}], ending) == [None]
    assert stops([SOUND], ending) == [None], "a report without the column"


# Stopping

ILL = {
    "term_share": make_report(
        {"main": 98.0, "hier": 1.0, "spectral": 1.0}, dict.fromkeys(TERMS, 1.0)
    ),
    "gradient_norm_high": {**SOUND, "train.grad_norm": 50.5},
    "gradient_norm_low": {**SOUND, "train.grad_norm": 1e-6},
    "weight_collapse": make_report(
        dict.fromkeys(TERMS, 1.0), {"main": 1.5, "hier": 1.5, "spectral": 0.01}
    ),
    "overfit_ratio": make_report(
        dict.fromkeys(TERMS, 1.0), dict.fromkeys(TERMS, 1.0), 1.0, dict.fromkeys(TERMS, 11.0)
    ),
}


def stops(reports, settings, phases=(BALANCED,)):
    """What every report of a training says of its end."""
    streaks, said = {}, []
    for report in reports:
        found = read(report, settings, phases)
        streaks, stop = health_stop(found, settings, report["step"], streaks)
        said.append(stop)
    return said


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_can_end_a_training_and_no_other_does(sign):
    only = HealthSettings(stop=(sign,), stop_after=1)
    others = HealthSettings(stop=tuple(name for name in SIGNS if name != sign), stop_after=1)
    (found,) = stops([ILL[sign]], only)
    (seen,) = [reading for reading in read(ILL[sign], only, [BALANCED]) if reading.name == sign]
    assert (found.name, found.step) == (sign, 10)
    assert found.value == pytest.approx(seen.value, rel=1e-5)
    assert sign in names(ILL[sign], only, [BALANCED])
    assert stops([ILL[sign]], others) == [None]
    assert stops([ILL[sign]], HealthSettings(stop_after=1)) == [None], "none is the default"


def test_a_gradient_is_warned_of_before_it_stops():
    """The documents warn above 10 and call it ill above 50."""
    settings = HealthSettings(stop=("gradient_norm_high",), stop_after=1)
    report = {**SOUND, "train.grad_norm": 30.0}
    assert names(report, settings) == ["gradient_norm_high"]
    assert stops([report], settings) == [None]
    (found,) = stops([{**SOUND, "train.grad_norm": 73.2}], settings)
    assert str(found) == "health: gradient_norm_high 73.2 > 50 at step 10"


@given(
    ill=st.lists(st.sampled_from([True, False, None]), max_size=12),
    stop_after=st.integers(1, 4),
)
def test_only_validations_in_a_row_count(ill, stop_after):
    """None is a report without the column: a row ends there."""
    norms = {True: 99.0, False: 1.0, None: None}
    reports = [{**SOUND, "train.grad_norm": norms[state]} for state in ill]
    settings = HealthSettings(stop=("gradient_norm_high",), stop_after=stop_after)
    expected = [
        end >= stop_after and all(ill[end - stop_after : end]) for end in range(1, len(ill) + 1)
    ]
    assert [stop is not None for stop in stops(reports, settings)] == expected


def test_the_first_sign_in_the_order_of_the_phases_is_the_reason():
    report = {**ILL["term_share"], "train.grad_norm": 99.0, "train.critic.grad_norm": 98.0}
    settings = HealthSettings(stop=("gradient_norm_high", "term_share"), stop_after=1)
    assert stops([report], settings, [FIXED, CRITIC])[0].name == "term_share"
    sound_first = {**report, **SOUND}
    assert stops([sound_first], settings, [FIXED, CRITIC])[0].name == "critic.gradient_norm_high"
