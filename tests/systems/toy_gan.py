"""The toy of two phases for the suites."""

from __future__ import annotations

NAME = "trainables.toy:ToyGan"

CURVE = {
    "train.steps": 60,
    "train.ema_decay": 0.9,
    "train.accumulate": 2,
    "optimizer.lr": 0.1,
}
LEARNS = "val.loss.squared"
