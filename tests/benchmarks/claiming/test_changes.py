"""What counts as a change of its own."""

from __future__ import annotations

import pytest

from benchmarks.claiming.changes import Change, changes, conditions_of
from settings.flat import flatten
from trainables.system import load_system

CONTROL = {
    "cap.mode": "absolute",
    "cap.most": 6.0,
    "cap.start": 6.0,
    "loss.hole.enabled": False,
    "loss.hole.weight": 1.0,
    "loss.hole.schedule.kind": "constant",
    "lr": 0.1,
}
CONDITIONS = {key: {} for key in CONTROL} | {
    "cap.most": {"cap.mode": ["absolute"]},
    "cap.start": {"cap.mode": ["learnable"]},
    "loss.hole.weight": {"loss.hole.enabled": [True]},
    "loss.hole.schedule.kind": {"loss.hole.enabled": [True]},
}


def found(**arm):
    """Key -> the choice that it counts with."""
    values = CONTROL | {key.replace("__", "."): value for key, value in arm.items()}
    return {change.key: change.under for change in changes(CONTROL, values, CONDITIONS)}


def test_a_change_has_both_values():
    assert changes(CONTROL, {**CONTROL, "lr": 0.2}, CONDITIONS) == [Change("lr", 0.1, 0.2)]
    assert changes(CONTROL, {**CONTROL, "lr": True}, CONDITIONS), "true is no number"


def test_what_exists_under_a_changed_choice_alone_counts_with_it():
    learnable = found(cap__mode="learnable", cap__most=16.0, cap__start=8.0)
    assert learnable == {"cap.mode": "", "cap.most": "cap.mode", "cap.start": "cap.mode"}
    switched = found(loss__hole__enabled=True, loss__hole__weight=3.0, lr=0.2)
    assert switched == {"loss.hole.enabled": "", "loss.hole.weight": "loss.hole.enabled", "lr": ""}


def test_what_exists_on_both_sides_is_a_change_of_its_own():
    assert found(cap__most=16.0, lr=0.2) == {"cap.most": "", "lr": ""}
    control = CONTROL | {"loss.hole.enabled": True}
    (change,) = changes(control, {**control, "loss.hole.weight": 3.0}, CONDITIONS)
    assert change.under == ""


def test_what_is_off_on_both_sides_is_no_change():
    assert found(loss__hole__weight=3.0, loss__hole__schedule__kind="warmup") == {}


@pytest.mark.parametrize(
    ("system", "key", "others"),
    [
        ("hdr_patch", "hdr.cap.scale_init", {"hdr.cap.mode": ["learnable"]}),
        ("hdr_patch", "loss.wasserstein.weight", {"loss.wasserstein.enabled": [True]}),
        ("hdr_patch", "loss.wasserstein.enabled", {}),
        ("trainables.toy:Toy", "loss.absolute.schedule.kind", {"loss.absolute.enabled": [True]}),
        ("trainables.toy:Toy", "optimizer.lr", {}),
    ],
)
def test_conditions_come_from_switches_and_from_the_spaces_of_a_system(system, key, others):
    conditions = conditions_of(system, flatten(load_system(system).Settings()))
    assert {
        other: list(dict.fromkeys(allowed)) for other, allowed in conditions[key].items()
    } == others


def test_a_key_without_effect_on_either_side_is_no_change():
    """The learnable cap's start, where both caps are absolute; and under one that is learnable."""
    conditions = conditions_of("hdr_patch", flatten(load_system("hdr_patch").Settings()))
    before = dict(flatten(load_system("hdr_patch").Settings()))
    absolute = {**before, "hdr.cap.mode": "absolute"}
    after = {**absolute, "hdr.cap.scale_init": before["hdr.cap.scale_init"] + 1.0}
    assert changes(absolute, after, conditions) == []
    learnable = {**after, "hdr.cap.mode": "learnable"}
    assert [(c.key, c.under) for c in changes(absolute, learnable, conditions)] == [
        ("hdr.cap.mode", ""),
        ("hdr.cap.scale_init", "hdr.cap.mode"),
    ]


def test_a_switch_is_a_change_of_its_own():
    settings = dict(flatten(load_system("hdr_patch").Settings()))
    conditions = conditions_of("hdr_patch", settings)
    before = {**settings, "hdr.prefill": "zero", "loss.sparsity.enabled": False}
    after = {**settings, "hdr.prefill": "push_pull", "loss.sparsity.enabled": True}
    own = [change.key for change in changes(before, after, conditions) if not change.under]
    assert own == ["hdr.prefill", "loss.sparsity.enabled"]
