"""MONAI's modules, without transformers, which MONAI imports for one network of its own."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def monai_module(name: str) -> ModuleType:
    """`monai.<name>`, imported without transformers: MONAI takes BERT from it for Transchex, which
    is a third of what `diffusion` imports. Transchex cannot be built in such a process. What
    either package has imported already stays.

    Args:
        name: `networks.nets`, for instance.
    """
    modules: dict[str, Any] = sys.modules  # None is Python's own word for "not to be imported"
    hides = "monai" not in modules and "transformers" not in modules
    if hides:
        modules["transformers"] = None
    try:
        return importlib.import_module(f"monai.{name}")
    finally:
        if hides:
            del modules["transformers"]
