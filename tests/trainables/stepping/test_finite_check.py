"""`train.finite_check_every` above 1: a healthy training is the same, and of one that is not
finite nothing is reported or stored.
"""

from __future__ import annotations

import math

import pytest
import torch

from losses.balancers.base import FixedWeights
from losses.composite import Composite
from losses.terms import Term
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.parts import Phase
from trainables.run import LocalRun
from trainables.stepping.not_finite import NonFiniteError
from trainables.toy import ToySettings

APPLIED = r"^step 6, phase model: .*Updates were applied from this step on"
NAMED = r"^step 6, .*value of term loss\.squared is not finite.*The update was not applied"


@pytest.mark.parametrize("name", ["Toy", "Masked", "ToyGan"])
@pytest.mark.parametrize(
    "more",
    [{}, {"train__ema_decay": 0.5, "train__accumulate": 2}, {"loss__balancer__kind": "gradnorm"}],
    ids=["plain", "averaged, accumulated", "balanced"],
)
def test_it_changes_no_number(toys, tmp_path, name, more):
    one, five = (
        toys.train(
            getattr(toys, name)(), tmp_path / str(every), train__finite_check_every=every, **more
        )
        for every in (1, 5)
    )
    assert all(torch.equal(five.tensors[key], tensor) for key, tensor in one.tensors.items())
    assert [toys.without_time(report) for report in five.history] == [
        toys.without_time(report) for report in one.history
    ]


@pytest.mark.parametrize(
    ("changes", "stop", "said", "reported"),
    [
        ({"train__finite_check_every": 4}, None, APPLIED, [4]),
        ({"train__finite_check_every": 100, "train__report_every": 10}, None, APPLIED, []),
        ({"train__finite_check_every": 100}, 8, APPLIED, [4]),
        # A look at the very step comes before the update, and tells the term.
        ({"train__finite_check_every": 7}, None, NAMED, [4]),
        ({"train__finite_check_every": 100, "train__report_every": 1}, None, NAMED, range(1, 7)),
        ({"train__finite_check_every": 100, "train__report_every": 100}, 7, NAMED, []),
    ],
)
def test_it_is_found_before_a_report(toys, tmp_path, changes, stop, said, reported):
    system = toys.Faulty()
    tree = toys.settings(system, data__samples=200, train__ema_decay=0.5, **changes)
    run = LocalRun(tmp_path, stop_step=stop)
    with pytest.raises(NonFiniteError, match=said):
        fit(system, tree, run, None)
    assert [report["step"] for report in run.history] == list(reported)
    for path in checkpoint.available(tmp_path / "checkpoints"):
        tensors = checkpoint.load(path, system.name).tensors
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()), path


def test_a_resume_with_1_tells_the_term(toys, tmp_path):
    tree = toys.settings(toys.Faulty, data__samples=200, train__finite_check_every=4)
    with pytest.raises(NonFiniteError, match=r"Resume with train\.finite_check_every=1"):
        fit(toys.Faulty(), tree, LocalRun(tmp_path), None)
    again = replace(tree, {"train.finite_check_every": 1})
    with pytest.raises(NonFiniteError, match=NAMED):
        fit(toys.Faulty(), again, LocalRun(tmp_path, resume=True), None)


def refuses(prediction, batch, settings):
    """Zero, for a prediction that is a number."""
    if not bool(torch.isfinite(prediction["y"]).all()):
        raise ValueError("a prediction must be finite")
    return prediction["y"].float().sum() * 0.0


def test_what_a_system_makes_of_such_numbers_hides_nothing(toys, tmp_path):
    class Strict(toys.Faulty):
        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            terms = dict(phase.composite.terms)
            terms["absolute"] = Term(refuses, terms["squared"].count)
            return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]

    tree = toys.settings(
        Strict, data__samples=200, train__finite_check_every=100, train__report_every=12
    )
    with pytest.raises(NonFiniteError, match=APPLIED) as caught:
        fit(Strict(), tree, LocalRun(tmp_path), None)
    assert "a prediction must be finite" in str(caught.value.__context__)


class Looks(FixedWeights):
    """Fixed weights; keeps the numbers that it is shown, at every other step."""

    needs, interval = "losses", 2

    def __init__(self):
        self.seen = []

    def observe(self, observed, step):
        self.seen += observed.losses.values()


@pytest.mark.parametrize(("at", "said"), [(6, "value of term"), (5, "^step 5.*were applied")])
def test_a_balancer_is_shown_finite_numbers_alone(toys, tmp_path, at, said):
    balancer = Looks()

    class Watched(toys.Faulty):
        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            composite = Composite(phase.composite.terms, settings.loss, balancer=balancer)
            return [Phase("model", ("model",), phase.forward, composite)]

    Watched.at = at
    changes = {"train__finite_check_every": 100, "train__report_every": 12}
    tree = toys.settings(Watched, data__samples=200, **changes)
    with pytest.raises(NonFiniteError, match=said):
        fit(Watched(), tree, LocalRun(tmp_path), None)
    assert len(balancer.seen) == 2 * 3 and all(map(math.isfinite, balancer.seen))


def test_fp16_refuses_it_for_its_scaler_looks_at_every_step():
    both = {"train.precision": "fp16", "train.finite_check_every": 2}
    with pytest.raises(SettingsError, match=r"finite_check_every=2 saves nothing.*bf16"):
        replace(ToySettings(), both)
    replace(ToySettings(), {**both, "train.finite_check_every": 1})
