"""Columns with the health check that stopped a trial."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from settings.stop_reasons import HealthStop


def health_columns(reasons: Sequence[str]) -> dict[str, pd.Series]:
    """`health/sign`, `health/value`, `health/threshold` and `health/step` of each trial; "" and
    missing values where no health check has stopped it.

    Args:
        reasons: the `stop_reason` of each trial.
    """
    stops = [HealthStop.parse(reason) for reason in reasons]
    return {
        "health/sign": pd.Series([stop.name if stop else "" for stop in stops], dtype="str"),
        "health/value": pd.Series([stop.value if stop else None for stop in stops], dtype=float),
        "health/threshold": pd.Series(
            [stop.threshold if stop else None for stop in stops], dtype=float
        ),
        "health/step": pd.Series([stop.step if stop else None for stop in stops], dtype="Int64"),
    }
