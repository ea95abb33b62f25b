"""The sweep directory as frames: `load_sweep(path)` one row a trial, `load_reports(path)` one row
a report, `load_references(path)` one row a reference and unit.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_references", "load_reports", "load_sweep"]


def __getattr__(name: str) -> Any:
    """The loaders on first use, so that nothing else here waits for pandas."""
    if name in __all__:
        from results import frame, references

        return getattr(references if name == "load_references" else frame, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
