"""The toy for the suites."""

from __future__ import annotations

NAME = "trainables.toy:Toy"

CURVE = {"train.steps": 60, "model.dropout": 0.1}
LEARNS = "val.loss.squared"
