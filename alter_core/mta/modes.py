"""Modes of a model's modules, which may differ: a frozen trunk evaluates while what lies above it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from alter_core.mta.layer import MTALayer


@contextmanager
def evaluating(model: nn.Module) -> Iterator[bool]:
    """Without dropout meanwhile; afterwards each module is as it was, the frozen ones among those that train too.

    Gives whether any of them was in training mode.
    """
    training = [module for module in model.modules() if module.training]
    if training:  # not for nothing: an MTA layer that is told its mode forgets what it has mixed
        model.eval()
    try:
        yield bool(training)
    finally:
        for module in training:
            module.training = True
            if isinstance(module, MTALayer):  # or it would hold an FFN for each task while it trains on
                module.forget()


def forget_formed(model: nn.Module) -> None:
    """Let MTA layers drop the weights that they have formed for tasks: as large as the FFN for each."""
    for module in model.modules():
        if isinstance(module, MTALayer):
            module.forget()
