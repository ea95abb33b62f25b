"""The sweep directory as frames: `load_sweep(path)` one row a trial, `load_reports(path)` one row
a report.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_reports", "load_sweep"]


def __getattr__(name: str) -> Any:
    """The loaders on first use, so that nothing else here waits for pandas."""
    if name in __all__:
        from results import frame

        return getattr(frame, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
