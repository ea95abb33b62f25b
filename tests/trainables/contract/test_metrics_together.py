"""Metrics with the same `reads` are looked at together: each fault is that of one of them."""

from __future__ import annotations

import pytest

from metrics.metric import Metric
from trainables import toy
from trainables.contract.check import faults_of
from trainables.contract.examined import Examined
from trainables.contract.metrics import measures_by_sums


def scaled(prediction, batch, settings):
    """Reads a key that it does not declare."""
    sums, count = toy.squared_error(prediction, batch, settings)
    return sums * (1.0 + settings.data.noise), count


class Several(toy.Toy):
    """Two sound metrics that share their sums, and one that is there without dropout alone."""

    name = "tests:Several"
    third = staticmethod(scaled)

    def metrics(self, settings, prepared):
        half = lambda sums, count: float(sums) / count / 2.0  # noqa: E731
        metrics = [
            Metric("mse", "", "min", toy.squared_error, "mean squared error"),
            Metric("half", "", "min", toy.squared_error, "half of it", half),
        ]
        if settings.model.dropout == 0.0:
            metrics.append(Metric("third", "", "min", self.third, "another one"))
        return metrics


class Sound(Several):
    third = staticmethod(toy.squared_error)


@pytest.mark.parametrize(("system", "keys"), [(Several, ["data.noise"]), (Sound, [])])
def test_who_reads_a_key_is_named_also_where_another_key_takes_it_away(system, keys, tmp_path):
    lines = [str(fault) for fault in faults_of(measures_by_sums, Examined(system(), tmp_path))]
    assert len(lines) == len(keys), lines
    for line, key in zip(lines, keys, strict=True):
        assert "metric third: `Metric.reads`" in line and f"{key} does" in line
