"""Statistics that a module gathers while it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class GathersOverUpdate(nn.Module, ABC):
    """A module that changes by what it sees in its forwards rather than by a gradient (a codebook
    of moving averages).

    Its forwards in training mode gather; the loop says when the update is over. So it moves once
    an update, however that is cut into micro-batches and ranks. What it has gathered is no buffer:
    DDP would overwrite it by that of rank 0.

    Attributes:
        is_heard: whether a forward in training mode gathers. It is False in those of a phase that
            does not update the module: a critic that looks at what a generator makes would count
            its samples twice, the second time in the next update.
    """

    is_heard = True

    @abstractmethod
    def take_in(self) -> None:
        """Moves by what was gathered since the last update; every rank calls it."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what was gathered: the update was skipped."""
