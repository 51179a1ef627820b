"""Prefixes: what all prompts of a task begin with, its instruction, is read once and kept between batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alter_core.mta.gates import Gate

KEPT_BYTES = 2**27
"""Most memory of the prefixes that are kept; those of the tasks that were asked last stay."""

Prompt = Sequence[int]


class Prefixes:
    """Keys and values of one model after each task's prefix, in caches of one row.

    They are dropped when a parameter of the model or the state of a gate is another one. Only a change that torch
    cannot see (in place, of `parameter.data`) needs `forget`.
    """

    def __init__(self) -> None:
        self._stamp: object = None
        self._held: dict[str, tuple[tuple[int, ...], Any]] = {}

    def caches(
        self, model: nn.Module, prefixes: Mapping[str, Prompt], read: Callable[[str, Prompt], Any]
    ) -> dict[str, Any]:
        """Task -> cache of its prefix, for the tasks of `prefixes`. read: a new cache, of a task and token ids."""
        stamp = _stamp(model)
        if stamp != self._stamp:
            self._stamp, self._held = stamp, {}
        asked = {}
        for task, ids in prefixes.items():
            known = self._held.pop(task, None)
            asked[task] = known if known and known[0] == tuple(ids) else (tuple(ids), read(task, ids))
        kept, size = {}, 0
        for task, held in reversed({**self._held, **asked}.items()):  # those asked last come first
            size += sum(part.nbytes for layer in held[1].layers for part in (layer.keys, layer.values))
            if size > KEPT_BYTES:
                break
            kept[task] = held
        self._held = dict(reversed(kept.items()))
        return {task: cache for task, (_, cache) in asked.items()}

    def forget(self) -> None:
        """Drop what was read."""
        self._held = {}


def batched(prefixes: Sequence[Any | None]) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values (row, head, seq, channel) of each layer, from each row's cache; None: a row without a prefix.

    Shorter ones have zeros before them.
    """
    distinct = list({id(cache): cache for cache in prefixes if cache is not None}.values())
    width = max(cache.get_seq_length() for cache in distinct)
    numbers = {id(cache): number for number, cache in enumerate(distinct)}
    places = [numbers.get(id(cache), len(distinct)) for cache in prefixes]
    rows = torch.tensor(places, device=distinct[0].layers[0].keys.device)
    for layers in zip(*(cache.layers for cache in distinct), strict=True):
        keys, values = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
        yield _picked(keys, width, rows), _picked(values, width, rows)


def _picked(parts: Sequence[Tensor], width: int, rows: Tensor) -> Tensor:
    """Those of `parts`, of one row each, that `rows` name; the number after the last one's is zeros."""
    wide = [widened(part, width) for part in parts]
    return torch.cat([*wide, torch.zeros_like(wide[0])])[rows]


def widened(part: Tensor, width: int) -> Tensor:
    """`part` (row, head, seq, channel) with zeros before it, `width` long."""
    return nn.functional.pad(part, (0, 0, width - part.shape[2], 0))


def _stamp(model: nn.Module) -> object:
    gates = [module.state for module in model.modules() if isinstance(module, Gate)]
    return gates, [(parameter.data_ptr(), parameter._version) for parameter in model.parameters()]
