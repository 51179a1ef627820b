"""A step by replicas of the model: gradients are apart until they are summed, in the replicas' order, which gives the
same bits however they run.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alter_core.mta.replicas import MOST, Threads, most_replicas, replica
from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows

Item = TypeVar("Item")
Made = TypeVar("Made")


class Replicas:
    """`forward` and others like it, each with its share of this process's threads and parameters of its own.

    To be made anew after modules or their states have changed; weights may change in place. count: at most.
    """

    def __init__(self, forward: TargetForward, count: int = MOST) -> None:
        count = most_replicas(forward.model, count)
        self.forwards, self._aliases = [forward], []
        for _ in range(count - 1):
            aliases = {p: nn.Parameter(p.detach(), p.requires_grad) for p in forward.model.parameters()}
            buffers = {buffer: buffer for buffer in forward.model.buffers()}
            self.forwards.append(TargetForward(replica(forward.mta, {**aliases, **buffers})))
            self._aliases.append(aliases)
        self._threads = Threads(count)

    def __len__(self) -> int:
        return len(self.forwards)

    def gradients(
        self,
        loss_of: Callable[[TargetForward, Rows], Tensor],
        parts: Sequence[Rows],
        lengths: Rows,
        trained: Sequence[nn.Parameter],
        in_turn: bool = False,
    ) -> Tensor:
        """Leave in `trained` the gradients of the losses of `parts` together; returns the sum of the losses.

        lengths: tokens of each row (row,), by which replicas get even shares. in_turn: all in the calling thread, which
        gives the same, for what counts there. A parameter that no row reaches has None.
        """

        def backward(forward: TargetForward, own: Sequence[Rows]) -> Tensor:
            total = torch.zeros((), device=trained[0].device)
            for rows in own:
                loss = loss_of(forward, rows)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            return total

        losses = self.together(backward, share_out(parts, lengths, len(self)), in_turn)
        for parameter in trained:
            for aliases in self._aliases:
                if (alias := aliases[parameter]).grad is not None:
                    parameter.grad = alias.grad if parameter.grad is None else parameter.grad.add_(alias.grad)
                    alias.grad = None
        return torch.stack(losses).sum()

    @torch.no_grad()
    def differ(self, loss_of: Callable[[TargetForward], Tensor]) -> str | None:
        """Why this model cannot be trained by replicas; None: it can.

        Its forward may not draw random numbers, of which a process has one row, and all must give the same loss.
        """
        state = torch.get_rng_state()
        with self._threads.divided():
            losses = [loss_of(forward) for forward in self.forwards]
        if not torch.equal(torch.get_rng_state(), state):
            torch.set_rng_state(state)
            return "its forward draws random numbers (dropout)"
        if not all(torch.equal(loss, losses[0]) for loss in losses):
            return "a copy of its modules gives another loss"
        return None

    def map(self, run: Callable[[TargetForward, Item], Made], items: Sequence[Item]) -> Iterator[Made]:
        """Yield run(a replica, item) of each item, in order; as many at once as there are replicas."""
        return self._threads.map(lambda item, number: run(self.forwards[number], item), items)

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def together(
        self, run: Callable[[TargetForward, Item], Made], items: Sequence[Item], in_turn: bool = False
    ) -> list[Made]:
        """run(replica, item) of each replica and its item, at once, or one after another in the calling thread."""
        calls = [partial(run, forward, item) for forward, item in zip(self.forwards, items, strict=False)]
        return self._threads.run(calls, in_turn)


def map_rows(
    forward: TargetForward, run: Callable[[TargetForward, Rows], Made], parts: Sequence[Rows]
) -> Iterator[Made]:
    """Yield run(a replica, rows) of each part, in order; as many at once as there are replicas.

    `run` is in a thread of its own: what holds for a thread (no_grad, autocast) is for it to set.
    """
    replicas = Replicas(forward, min(MOST, len(parts)))
    try:
        yield from replicas.map(run, parts)
    finally:
        replicas.close()


def share_out(parts: Sequence[Rows], lengths: Rows, count: int) -> list[list[Rows]]:
    """`parts` in their order, cut into `count` runs of like many tokens; a part at a border is cut in two."""
    rows = np.concatenate(parts)
    part = np.repeat(np.arange(len(parts)), [len(one) for one in parts])
    ends = np.cumsum(lengths[rows])
    owner = np.minimum((ends - lengths[rows] / 2) * count // ends[-1], count - 1)
    return [
        [found for number in range(len(parts)) if len(found := rows[(owner == replica) & (part == number)])]
        for replica in range(count)
    ]
