"""Schedules: end points, continuity and bounds as properties, and a table of worked values."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from losses.schedules import (
    KINDS,
    ScheduleSettings,
    first_position,
    last_change_position,
    last_change_step,
    schedule_factor,
    unread,
)
from settings.flat import replace
from settings.schema import SettingsError
from settings.show import value_text
from trainables.conditioner.field_vae import FieldVaeSettings
from trainables.toy import ToySettings

UNIT = st.floats(0.0, 1.0)
FACTOR = st.floats(0.0, 10.0)


@st.composite
def schedules(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    start, end = sorted((draw(UNIT), draw(UNIT)))
    has_knots = kind in ("stages", "staircase")
    positions = sorted(draw(st.sets(UNIT, min_size=1, max_size=5))) if has_knots else ()
    factors = [draw(FACTOR) for _ in positions]
    return ScheduleSettings(
        kind=kind,
        start=start,
        end=end,
        first=draw(FACTOR),
        last=draw(FACTOR),
        positions=tuple(positions),
        factors=tuple(factors),
    )


def steepest(schedule):
    """A bound on the change per unit of position."""
    if schedule.kind == "stages":
        points = list(zip(schedule.positions, schedule.factors, strict=True))
        slopes = [abs(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
        return max(slopes, default=0.0)
    height = 1.0 if schedule.kind == "warmup" else abs(schedule.last - schedule.first)
    return 1.5708 * height / (schedule.end - schedule.start)


@given(schedules(("linear", "cosine", "warmup", "stages")))
def test_continuous(schedule):
    if schedule.kind == "stages":
        gaps = [b - a for a, b in itertools.pairwise(schedule.positions)]
        assume(all(gap > 1e-3 for gap in gaps))
    else:
        assume(schedule.end - schedule.start > 1e-3)
    steps = 500
    values = [schedule_factor(schedule, step, steps) for step in range(steps + 1)]
    limit = steepest(schedule) / steps * (1 + 1e-9) + 1e-9
    assert all(abs(b - a) <= limit for a, b in itertools.pairwise(values))


@given(schedules(), st.integers(1, 10_000), st.integers(0, 20_000))
def test_stays_between_its_extremes_and_is_pure(schedule, steps, step):
    value = schedule_factor(schedule, step, steps)
    known = {
        "constant": (1.0,),
        "warmup": (0.0, 1.0),
        "stages": schedule.factors,
        "staircase": schedule.factors,
    }.get(schedule.kind, (schedule.first, schedule.last))
    assert min(known) - 1e-12 <= value <= max(known) + 1e-12
    assert value == schedule_factor(schedule, step, steps)


@given(schedules(), st.integers(1, 10_000), st.integers(0, 10_000))
def test_ends_at_the_final_factor_and_stays_there(schedule, steps, beyond):
    final = schedule_factor(schedule, steps, steps)
    assert schedule_factor(schedule, steps + beyond, steps) == final
    expected = {"constant": 1.0, "warmup": 1.0}.get(schedule.kind, schedule.last)
    if schedule.kind in ("stages", "staircase"):
        expected = schedule.factors[-1]
    assert final == pytest.approx(expected)


@given(schedules(("linear", "cosine", "warmup", "step")), st.floats(0.0, 1.0, exclude_max=True))
def test_holds_the_first_value_before_its_start(schedule, share):
    steps = 1_000_000
    step = int(share * schedule.start * steps)
    assume(step / steps < schedule.start)
    first = 0.0 if schedule.kind == "warmup" else schedule.first
    assert schedule_factor(schedule, step, steps) == first


@given(schedules(), st.integers(1, 50), st.integers(0, 50), st.integers(1, 20))
def test_a_position_is_a_share_of_the_training(schedule, steps, step, times):
    """A rung of `times` as many steps sees the same factors, at `times` the step."""
    assume(step * times / (steps * times) == step / steps)
    long = schedule_factor(schedule, step * times, steps * times)
    assert long == schedule_factor(schedule, step, steps)


TABLE = [
    ({"kind": "constant"}, {0: 1.0, 5: 1.0, 10: 1.0}),
    ({"kind": "step", "start": 0.3, "first": 2.0, "last": 5.0}, {2: 2.0, 3: 5.0, 10: 5.0}),
    ({"kind": "warmup", "start": 0.2, "end": 0.6}, {0: 0.0, 2: 0.0, 3: 0.25, 4: 0.5, 6: 1.0}),
    (
        {"kind": "linear", "start": 0.0, "end": 0.5, "first": 4.0, "last": 0.0},
        {0: 4.0, 1: 3.2, 5: 0.0, 9: 0.0},
    ),
    (
        {"kind": "cosine", "start": 0.0, "end": 1.0, "first": 1.0, "last": 0.0},
        {
            0: 1.0,
            5: 0.5,
            10: 0.0,
            2: 0.5 + 0.25 * (1 + 5**0.5) / 2,
        },  # cos 36 deg = golden ratio / 2
    ),
    (
        {"kind": "stages", "positions": (0.2, 0.4, 1.0), "factors": (1.0, 3.0, 0.0)},
        {0: 1.0, 2: 1.0, 3: 2.0, 4: 3.0, 7: 1.5, 10: 0.0},
    ),
    (
        {"kind": "staircase", "positions": (0.2, 0.4, 1.0), "factors": (1.0, 3.0, 0.0)},
        {0: 1.0, 2: 1.0, 3: 1.0, 4: 3.0, 9: 3.0, 10: 0.0},
    ),
    ({"kind": "linear", "start": 0.5, "end": 0.5, "last": 2.0}, {4: 0.0, 5: 2.0}),
    ({"kind": "stages", "positions": (0.5,), "factors": (0.7,)}, {0: 0.7, 5: 0.7, 10: 0.7}),
]


@pytest.mark.parametrize(("fields", "expected"), TABLE)
def test_table(fields, expected):
    schedule = ScheduleSettings(**fields)
    found = {step: schedule_factor(schedule, step, 10) for step in expected}
    assert found == pytest.approx(expected)


def test_the_table_has_every_kind():
    assert {fields["kind"] for fields, _ in TABLE} == set(KINDS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "linear", "start": 0.6, "end": 0.5}, "start 0.6 must not lie after end 0.5"),
        ({"kind": "stages"}, "at least one"),
        ({"kind": "staircase"}, "schedule staircase needs as many"),
        ({"kind": "stages", "positions": (0.1, 0.2), "factors": (1.0,)}, "as many factors"),
        ({"kind": "stages", "positions": (0.3, 0.1), "factors": (1.0, 1.0)}, "must ascend"),
        ({"kind": "stages", "positions": (0.3, 0.3), "factors": (1.0, 1.0)}, "must ascend"),
        ({"kind": "zigzag"}, "one of constant"),
        ({"kind": "linear", "start": -0.1}, "0 .. 1"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(SettingsError, match=message):
        ScheduleSettings(**fields)


@given(schedules(), st.integers(1, 2000))
def test_nothing_changes_after_the_last_change(schedule, steps):
    first = last_change_step(schedule, steps)
    assert 0 <= first <= steps
    final = schedule_factor(schedule, steps, steps)
    assert all(schedule_factor(schedule, step, steps) == final for step in range(first, steps + 1))
    if first:  # and one step earlier the schedule is still on its way
        assert (first - 1) / steps < last_change_position(schedule) <= first / steps


SETTLED = [
    ({"kind": "constant", "end": 0.7}, 0),
    ({"kind": "step", "start": 0.3, "first": 2.0, "last": 5.0}, 3),
    ({"kind": "step", "start": 0.31, "first": 2.0, "last": 5.0}, 4),
    ({"kind": "step", "start": 0.3, "first": 5.0, "last": 5.0}, 0),
    ({"kind": "warmup", "start": 0.2, "end": 0.6}, 6),
    ({"kind": "warmup", "start": 0.0, "end": 0.0}, 0),
    ({"kind": "linear", "end": 0.5, "first": 4.0, "last": 0.0}, 5),
    ({"kind": "linear", "end": 0.5, "first": 4.0, "last": 4.0}, 0),
    ({"kind": "cosine", "first": 1.0, "last": 0.0}, 10),
    ({"kind": "stages", "positions": (0.2, 0.4, 1.0), "factors": (1.0, 3.0, 0.0)}, 10),
    ({"kind": "stages", "positions": (0.2, 0.4, 1.0), "factors": (1.0, 3.0, 3.0)}, 4),
    ({"kind": "stages", "positions": (0.2, 0.4), "factors": (3.0, 3.0)}, 0),
    ({"kind": "stages", "positions": (0.5,), "factors": (0.7,)}, 0),
    ({"kind": "staircase", "positions": (0.2, 0.4, 0.6), "factors": (1.0, 3.0, 3.0)}, 4),
    ({"kind": "staircase", "positions": (0.0, 0.3), "factors": (0.0, 1.0)}, 3),
]


@pytest.mark.parametrize(("fields", "expected"), SETTLED)
def test_last_change_by_hand(fields, expected):
    assert last_change_step(ScheduleSettings(**fields), 10) == expected


def test_last_change_is_exact_where_a_product_is_rounded():
    schedule = ScheduleSettings(kind="step", start=0.07)
    assert 0.07 * 100 > 7.0  # as floating point has it
    assert last_change_step(schedule, 100) == 7
    assert [schedule_factor(schedule, step, 100) for step in (6, 7)] == [0.0, 1.0]


UNREAD = {
    "start": 0.3, "end": 0.6, "first": 0.25, "last": 3.0,
    "positions": (0.1, 0.9), "factors": (0.2, 0.8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNREAD)
def test_what_changes_no_factor_is_told_and_nothing_else(kind, name):
    """Against the factors themselves."""
    knots = {"positions": (0.25, 0.5), "factors": (0.5, 2.0)}
    base = {"step": {"start": 0.2}, "stages": knots, "staircase": knots}
    with_name = {**base.get(kind, {}), "kind": kind, name: UNREAD[name]}
    one, other = (
        [schedule_factor(ScheduleSettings(**fields), step, 20) for step in range(21)]
        for fields in ({**base.get(kind, {}), "kind": kind}, with_name)
    )
    node = "loss.squared.schedule"
    changes = {f"{node}.{field}": value for field, value in with_name.items()}
    told = unread(replace(ToySettings(), changes))
    assert len(told) == (one == other)
    for text in told:
        assert text.startswith(f"{node}.{name}={value_text(UNREAD[name])} changes nothing, for ")
        assert f"{node}.kind={kind} does not read it. Leave it out, or set the kind to " in text


def test_a_kind_that_is_searched_and_the_defaults_of_a_tree_are_not_told():
    idle = replace(ToySettings(), {"loss.squared.schedule.start": 0.5})
    assert unread(idle) and not unread(idle, {"loss.squared.schedule.kind"})
    late = FieldVaeSettings()
    assert late.loss.kl.schedule.start == 0.3, "as its linear kind reads it"
    assert not unread(replace(late, {"loss.kl.schedule.kind": "constant"}))


STARTS = [
    ({"kind": "constant", "start": 0.4}, 0.0),
    ({"kind": "step", "start": 0.3}, 0.3),
    ({"kind": "step", "start": 0.3, "first": 0.1, "last": 0.0}, 0.0),
    ({"kind": "step", "start": 0.3, "last": 0.0}, math.inf),
    ({"kind": "warmup", "start": 0.2, "end": 0.6, "first": 5.0}, 0.2),
    ({"kind": "linear", "start": 0.2, "end": 0.5, "last": 4.0}, 0.2),
    ({"kind": "linear", "start": 0.2, "end": 0.5, "first": 4.0, "last": 0.0}, 0.0),
    ({"kind": "cosine", "start": 0.1}, 0.1),
    ({"kind": "stages", "positions": (0.2, 0.4, 1.0), "factors": (0.0, 0.0, 3.0)}, 0.4),
    ({"kind": "stages", "positions": (0.2, 0.4), "factors": (1.0, 0.0)}, 0.0),
    ({"kind": "stages", "positions": (0.2, 0.4), "factors": (0.0, 0.0)}, math.inf),
    ({"kind": "staircase", "positions": (0.2, 0.4, 1.0), "factors": (0.0, 0.0, 3.0)}, 1.0),
]


@pytest.mark.parametrize(("fields", "expected"), STARTS)
def test_first_position_by_hand(fields, expected):
    assert first_position(ScheduleSettings(**fields)) == expected


@given(schedules(), st.integers(1, 300))
def test_nothing_is_above_zero_before_the_first_position(schedule, steps):
    begins = first_position(schedule)
    factors = [schedule_factor(schedule, step, steps) for step in range(steps + 1)]
    early = [factor for step, factor in enumerate(factors) if step / steps < begins]
    assert not any(early) or begins == 0.0
    if begins == math.inf:
        assert not any(factors)
