"""Replicas: one model on several cores at once, a thread for each replica, none of which waits for another.

The threads of one matrix product meet at its end: where another program takes one's core for a moment, all stand still,
some thousand times a step. A replica has the same weights under modules of its own, so that hooks and states of one
forward are not another's.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

MOST = 4
"""Replicas of a process: each has memory of its own for what it computes."""
Thing = TypeVar("Thing")
Item = TypeVar("Item")
Made = TypeVar("Made")
_threads = torch.get_num_threads()


def use_threads(count: int) -> None:
    """Compute with so many threads in this process; unsaid, with as many as torch names when this is imported.

    Not with what torch names later: a thread that first computes while another's are divided has one share for good.
    """
    global _threads
    _threads = count
    torch.set_num_threads(count)


def most_replicas(model: nn.Module, most: int = MOST) -> int:
    """How many replicas of `model` this process has threads for.

    One on a device that is no CPU, where kernels of one process queue up anyway.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    return min(most, _threads) if on_cpu else 1


def replica(thing: Thing, tensors: Mapping[Tensor, Tensor]) -> Thing:
    """A copy of `thing`, modules and all, in which the keys of `tensors` are the values; other tensors are copied."""
    return copy.deepcopy(thing, {id(one): other for one, other in tensors.items()})


class Threads:
    """This process's threads, in `count` shares that compute at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._whole = _threads
        self._share = max(1, self._whole // count)
        self._pool = ThreadPoolExecutor(count, "replica", torch.set_num_threads, (self._share,))

    def run(self, calls: Sequence[Callable[[], Made]], in_turn: bool = False) -> list[Made]:
        """What the calls give, each in a thread of its own with its share; in_turn: all in the calling one.

        What holds for a thread (no_grad, autocast, counters) is for a call to set.
        """
        with self.divided():
            if in_turn or len(calls) == 1:
                return [call() for call in calls]
            futures = [self._pool.submit(call) for call in calls]
            wait(futures)  # all, also where one has failed: another might still be in the model
        return [future.result() for future in futures]

    def map(self, call: Callable[[Item, int], Made], items: Sequence[Item]) -> Iterator[Made]:
        """Yield call(item, number of the share) of each item, in order; as many at once as there are shares."""
        for first in range(0, len(items), self._count):
            some = items[first : first + self._count]
            yield from self.run([partial(call, item, number) for number, item in enumerate(some)])

    @contextmanager
    def divided(self) -> Iterator[None]:
        """The calling thread computes with one share; MKL knows one number for all threads."""
        torch.set_num_threads(self._share)
        try:
            yield
        finally:
            torch.set_num_threads(self._whole)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
