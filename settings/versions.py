"""Versions of what is installed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package, `unknown` where it is not installed."""
    return {package: _version(package) for package in packages}


@cache  # a look through every folder of Python's path
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
