"""Replicas: one model on several cores at once, a thread for each replica, none of which waits for another.

The threads of one matrix product meet at its end: where another program takes one's core for a moment, all stand still,
some thousand times a step. A replica has the same weights, under modules of its own, so that hooks and states of one
forward are not another's, and under parameters of its own, so that gradients are apart until they are summed, in the
replicas' order: the same bits, however they run.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows

MOST = 4
"""Replicas of a process; with more, gradients take more memory than the cores are worth."""
Item = TypeVar("Item")
Made = TypeVar("Made")


class Replicas:
    """`forward` and others like it, each with its share of this process's threads.

    To be made anew after modules or their states have changed; parameters may change in place. count: at most; one on a
    device that is no CPU, where kernels of one process queue up anyway.
    """

    def __init__(self, forward: TargetForward, count: int = MOST) -> None:
        self._threads = torch.get_num_threads()
        on_cpu = next(forward.model.parameters()).device.type == "cpu"
        count = min(count, self._threads) if on_cpu else 1
        self.forwards, self._aliases = [forward], []
        for _ in range(count - 1):
            aliases = {p: nn.Parameter(p.detach(), p.requires_grad) for p in forward.model.parameters()}
            tensors = {id(p): alias for p, alias in aliases.items()} | {id(b): b for b in forward.model.buffers()}
            self.forwards.append(TargetForward(copy.deepcopy(forward.mta, tensors)))
            self._aliases.append(aliases)
        self._share = self._threads // count
        self._pool = ThreadPoolExecutor(count, "replica", torch.set_num_threads, (self._share,))

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
        with self._divided():
            losses = [loss_of(forward) for forward in self.forwards]
        if not torch.equal(torch.get_rng_state(), state):
            torch.set_rng_state(state)
            return "its forward draws random numbers (dropout)"
        if not all(torch.equal(loss, losses[0]) for loss in losses):
            return "a copy of its modules gives another loss"
        return None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def together(
        self, run: Callable[[TargetForward, Item], Made], items: Sequence[Item], in_turn: bool = False
    ) -> list[Made]:
        """run(replica, item) of each replica and its item, at once, or one after another in the calling thread."""
        with self._divided():
            if in_turn or len(self) == 1:
                return [run(forward, item) for forward, item in zip(self.forwards, items, strict=False)]
            futures = [
                self._pool.submit(run, forward, item) for forward, item in zip(self.forwards, items, strict=False)
            ]
            wait(futures)  # all, also where one has failed: another might still be in the model
        return [future.result() for future in futures]

    @contextmanager
    def _divided(self) -> Iterator[None]:
        """Each thread computes with its share; MKL knows one number for all of them."""
        torch.set_num_threads(self._share)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)


def map_rows(
    forward: TargetForward, run: Callable[[TargetForward, Rows], Made], parts: Sequence[Rows]
) -> Iterator[Made]:
    """Yield run(a replica, rows) of each part, in order; as many at once as there are replicas.

    `run` is in a thread of its own: what holds for a thread (no_grad, autocast) is for it to set.
    """
    replicas = Replicas(forward, min(MOST, len(parts)))
    try:
        for first in range(0, len(parts), len(replicas)):
            yield from replicas.together(run, parts[first : first + len(replicas)])
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
