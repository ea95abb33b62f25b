"""The one namespace: flatten, replace, and the names that are nearest to a mistyped one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.flat import flatten, leaves, nearest_names, replace
from settings.schema import SettingsError


@given(data=st.data())
def test_replacing_a_tree_by_its_own_values_gives_the_tree(data, toy, legal_changes):
    tree = replace(toy(), data.draw(legal_changes(toy)))
    flat = flatten(tree)
    assert replace(toy(), flat) == tree
    assert flatten(replace(toy(), flat)) == flat


@given(data=st.data())
def test_replace_changes_the_named_keys_and_no_other(data, toy, legal_changes):
    changes = data.draw(legal_changes(toy))
    before = flatten(toy())
    after = flatten(replace(toy(), changes))
    assert after == {**before, **changes}


@given(data=st.data())
def test_the_order_of_changes_does_not_matter(data, toy, legal_changes):
    changes = data.draw(legal_changes(toy))
    shuffled = dict(data.draw(st.permutations(list(changes.items()))))
    assert replace(toy(), changes) == replace(toy(), shuffled)


def test_keys_are_dotted_paths_of_the_tree(toy):
    flat = flatten(toy())
    assert flat["loss.kl.weight"] == 1e-4
    assert flat["seed"] == 0
    assert set(flat) == set(leaves(toy))


def test_replace_leaves_the_tree_it_was_given(toy):
    tree = toy()
    replace(tree, {"model.width": 8})
    assert tree == toy()


def test_rules_between_fields_see_the_tree_after_all_changes(toy):
    tree = replace(toy(), {"model.gated": False})
    # Each alone would break the rule on the way; together they keep it.
    assert replace(tree, {"model.norm": "no", "model.gated": True}).model.norm == "no"
    with pytest.raises(SettingsError, match="nothing else bounds"):
        replace(tree, {"model.norm": "no"})


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("loss.kl.wieght", "loss.kl.weight"),
        ("model.widht", "model.width"),
        ("kl.weight", "loss.kl.weight"),
        ("loss.kl_weight", "loss.kl.weight"),
        ("ramp_steps", "loss.kl.ramp_steps"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(toy, mistyped, meant):
    with pytest.raises(SettingsError) as caught:
        replace(toy(), {mistyped: 1})
    assert repr(mistyped) in str(caught.value)
    assert meant in str(caught.value)
    assert "--show" in str(caught.value)


def test_at_most_three_names_are_named(toy):
    assert len(nearest_names("model.w", leaves(toy))) <= 3
    assert nearest_names("qqqqqq", leaves(toy)) == []


def test_a_node_is_no_key(toy):
    with pytest.raises(SettingsError, match=r"there is no setting 'loss\.kl'"):
        replace(toy(), {"loss.kl": 1})
