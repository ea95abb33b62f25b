from __future__ import annotations

import pytest

from benchmarks.rivals.flow_solvers import COUNTS, SLOPES, constant, slope
from models.integration import SOLVERS


@pytest.mark.parametrize("variance", SLOPES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_slopes_on_gaussian_data_are_the_expected_ones(solver, variance):
    assert slope(solver, variance) == pytest.approx(SLOPES[variance][solver], abs=0.05)


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("steps", COUNTS)
def test_a_constant_velocity_arrives(steps, transform):
    """MONAI's does only where 1,000 divides evenly, and without a transform."""
    found = constant(steps, transform)
    assert found.value <= 1e-6
    assert (found.peer_value > 1e-3) == (steps != 100 or transform)
