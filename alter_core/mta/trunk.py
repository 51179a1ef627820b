"""Blocks that need not run, because what they would compute is known: those below the first that differs or trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Skipped(nn.Module):
    """Stands for a trunk block; the last of them gives the cached states, in the form that the block would."""

    def __init__(self, block: nn.Module, states: Tensor | None) -> None:
        super().__init__()
        self._states = states
        for name in ("attention_type", "layer_type"):  # what some models read off their blocks
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))

    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return hidden if self._states is None else self._states


class _SkippedT5(_Skipped):
    """T5's first block also computes the position bias that all others share; a block hands it on."""

    def __init__(self, block: nn.Module, states: Tensor | None) -> None:
        super().__init__(block, states)
        self._attention: Any = [block.layer[0]]  # type: ignore[index]  # in a list: no submodule, it keeps its place

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any
    ) -> Any:
        if bias is None:
            attention = self._attention[0].SelfAttention
            bias = attention.compute_bias(hidden.shape[1], hidden.shape[1], device=hidden.device)
            bias = bias if mask is None else bias + mask
        return super().forward(hidden), bias, None


@contextmanager
def skipped(blocks: nn.ModuleList, first: int, states: Tensor) -> Iterator[None]:
    """Let the blocks below `first` stand still meanwhile: block `first` is given `states` (batch, seq, hidden)."""
    held = {i: blocks[i] for i in range(first)}
    try:
        for i, block in held.items():
            kind = _SkippedT5 if type(block).__name__ in ("T5Block", "MT5Block") else _Skipped
            blocks._modules[str(i)] = kind(block, states if i == first - 1 else None)
        yield
    finally:
        for i, block in held.items():
            blocks._modules[str(i)] = block
