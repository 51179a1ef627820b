"""The best state by task: gates and adapters are a task's own, so each task can end with the best that it was in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alter_core.training.result import TaskBest
from alter_core.training.stages import Named
from alter_core.training.trainable import Trainable

Losses = np.ndarray[Any, np.dtype[np.float64]]
"""Of each validation row, in nats."""


def take_better(
    found: dict[str, TaskBest],
    best: dict[str, Tensor],
    state: str,
    mta: Trainable,
    trained: Named,
    rows: tuple[np.ndarray[Any, np.dtype[np.int64]], Losses, Losses],
) -> None:
    """Where a task's loss at `state` is its least so far, by a standard error of the paired difference against the
    start, put its weights into `best` and the gain into `found`.

    rows: each validation row's task, its loss at the start, and its loss now.
    """
    task_ids, before, now = rows
    for number, task in enumerate(mta.tasks):
        gains = (before - now)[task_ids == number]
        if len(gains) < 2:  # no error to tell luck by
            continue
        gain, error = float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5)
        if gain <= max(error, found[task].gain if task in found else 0.0):
            continue
        found[task] = TaskBest(state, gain, error)
        places = mta.own_places(number)
        for name, parameter in trained:
            own = places.get(name, [])
            best[name][own] = parameter.detach()[own].cpu()


@contextmanager
def adapters_off(trained: Named) -> Iterator[None]:
    """Meanwhile, every free gate's weights are zero."""
    gates = [parameter for name, parameter in trained if ".gate.logits" in name]
    held = [gate.detach().clone() for gate in gates]
    with torch.no_grad():
        for gate in gates:
            gate.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for gate, former in zip(gates, held, strict=True):
                gate.copy_(former)
