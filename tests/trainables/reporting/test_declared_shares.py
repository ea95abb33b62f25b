"""The shares under the declared weights: by hand, and what they make of `term_share`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.flat import replace
from trainables.contract.examined import SHORT
from trainables.loop import fit
from trainables.reporting.declared_shares import DeclaredShares
from trainables.run import LocalRun
from trainables.system import load_system
from trainables.toy import Toy, ToyGan


def named(changes):
    return {key.replace("__", "."): value for key, value in changes.items()}


def row(step=4, **values):
    return {"step": step, **{f"train.{key}": value for key, value in named(values).items()}}


FIRST = row(loss__squared=3.0, loss__absolute=2.0)


def make(system=Toy, **changes):
    tree = replace(system.Settings(), named(changes))
    return DeclaredShares(tree, system().phases(tree, None))


def test_by_hand():
    """The toy declares 1 and 0.5: 3 of 3 + 1."""
    assert make().look(FIRST) == {"loss.squared": 0.75, "loss.absolute": 0.25}


weights = st.floats(1e-3, 1e3)


@given(squared=weights, absolute=weights, kind=st.sampled_from(["fixed", "dwa", "uncertainty"]))
def test_no_weight_that_is_set_or_balanced_moves_them(squared, absolute, kind):
    """So a term planted at 100 times its weight is not what the sign compares with."""
    changes = {"loss__squared__weight": squared, "loss__absolute__weight": absolute}
    shares = make(**changes, loss__balancer__kind=kind)
    assert shares.look(FIRST) == make().look(FIRST)


def test_later_values_do_not_move_them():
    shares = make()
    assert shares.look(FIRST) == shares.look(row(8, loss__squared=9.0, loss__absolute=1e-3))
    assert shares.first == {"loss.squared": 3.0, "loss.absolute": 2.0}
    resumed = make()
    resumed.first = dict(shares.first)
    assert resumed.look(row(12, loss__squared=1.0, loss__absolute=1.0)) == shares.look(FIRST)


def test_a_term_counts_from_its_first_value_on():
    shares = make()
    assert shares.look(row(loss__squared=3.0, loss__absolute=None)) == {"loss.squared": 1.0}
    assert shares.look(row(8, loss__squared=1.0, loss__absolute=2.0)) == make().look(FIRST)


def test_while_others_warm_up_a_term_may_be_all():
    """A quarter of the way at the last of four steps before the report: 3 of 3 + 0.25."""
    warmup = {"loss__absolute__schedule__kind": "warmup", "train__steps": 12}
    shares = make(**warmup)
    assert shares.look(FIRST)["loss.squared"] == pytest.approx(3.0 / 3.25)
    assert shares.look({**FIRST, "step": 12})["loss.squared"] == pytest.approx(3.0 / (3 + 11 / 12))


@pytest.mark.parametrize(
    ("squared", "absolute", "expected"),
    [(1.0, -4.0, {}), (0.0, 0.0, {}), (4.0, -4.0, {"loss.squared": 1.0, "loss.absolute": 0.0})],
)
def test_terms_without_a_lower_bound(squared, absolute, expected):
    assert make().look(row(loss__squared=squared, loss__absolute=absolute)) == expected


def test_each_phase_is_a_sum_of_its_own():
    shares = make(ToyGan).look(row(loss__squared=3.0, loss__absolute=2.0, critic__hinge=7.0))
    assert shares == {"loss.squared": 0.75, "loss.absolute": 0.25, "critic.hinge": 1.0}


@pytest.fixture(params=["hdr_patch", "conditioner", "compression"])
def trained(request, tmp_path, shared_cache, capsys, one_thread):
    """Trains a system for two reports: (the last one, what was said of a share)."""
    system = load_system(request.param)
    short = {**SHORT, **system.small}
    prepared = system.prepare(replace(system.Settings(), short), shared_cache)

    def train(name, **changes):
        tree = replace(system.Settings(), {**short, **changes})
        report = fit(system, tree, LocalRun(tmp_path / name), prepared)
        said = capsys.readouterr().err.splitlines()
        return report, [line for line in said if "its share began at" in line]

    return train


@pytest.mark.slow
def test_a_term_of_a_hundred_times_its_weight_is_told_and_the_declared_ones_are_not(trained):
    """Of every system with health checks. The planted term is the largest one."""
    plain, said = trained("plain")
    assert said == [] and plain["health.term_share.warned"] == 0.0
    shares = {
        column.removesuffix(".share"): value
        for column, value in plain.items()
        if column.startswith("train.loss.") and column.endswith(".share")
    }
    largest = max(shares, key=shares.get)
    weight = f"{largest.removeprefix('train.')}.weight"
    planted, (line,) = trained("planted", **{weight: 100.0 * plain[f"{largest}.weight"]})
    assert line.startswith(f"warning: step 2: {largest.removeprefix('train.')} ")
    began = float(line.split("its share began at ")[1].split(",")[0])
    assert ("took over" in line) == (began <= 0.5) != ("was most of the sum" in line)
    assert planted["health.term_share.warned"] == 1.0
