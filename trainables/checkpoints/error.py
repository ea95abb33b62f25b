"""What is wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged or belongs to something else; the message says which and what
    to do.
    """


class ExternalError(CheckpointError):
    """The weights of an external module are gone, or others. An older checkpoint of the training
    needs the same ones, so that none is fallen back to.
    """
