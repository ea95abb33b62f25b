"""`field_vae` for the suites: its loss curve, and how long its loss changes."""

from __future__ import annotations

NAME = "field_vae"

CURVE = {"train.steps": 24, "optimizer.lr": 3e-3}
LEARNS = "val.loss.reconstruction"

# The document's ramp of the divergence ends there.
CHANGES_UNTIL = {"weights": 0.8}
"""Share of a training in which the loss of a space still changes, where it is above a tenth."""
