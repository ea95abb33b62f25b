"""`style_vae` for the suites: its loss curve."""

from __future__ import annotations

NAME = "style_vae"

CURVE = {"train.steps": 24, "optimizer.lr": 5e-3, "model.start": "cosines"}
LEARNS = "val.loss.l1"
