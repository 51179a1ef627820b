"""Trunk: models that are alike below some block read prompts so far once for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from alter_core.mta.trunk import skipped


class Trunk:
    """What the blocks below `first`, in which models are alike, made of one batch's prompts.

    The first model that reads the batch leaves it here, forward by forward; the others start at block `first`.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._made: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []
        """Of each forward: states at block `first` (row, seq, hidden); keys and values of each block below."""

    @contextmanager
    def forward(self, number: int, blocks: nn.ModuleList, cache: Any) -> Iterator[None]:
        """Around forward `number` of the batch, which fills `cache`."""
        if number < len(self._made):
            states, held = self._made[number]
            with skipped(blocks, self.first, states):
                yield
            for block, (keys, values) in enumerate(held):
                layer = cache.layers[block]
                if layer.is_initialized:  # with what all prompts begin with, which `keys` hold as well
                    layer.keys, layer.values = keys, values
                else:
                    cache.update(keys, values, block)
            return

        seen: list[Tensor] = []
        handle = blocks[self.first].register_forward_pre_hook(lambda _block, given: seen.append(given[0]))
        try:
            yield
        finally:
            handle.remove()
        self._made.append((seen[0], [(layer.keys, layer.values) for layer in cache.layers[: self.first]]))
