"""Trainable: what the loop needs of a model with adapters, whichever library made them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from alter_core.inference.predict import Routed
from alter_core.mta.architectures import Side
from alter_core.training.result import GateTable


class Place(Protocol):
    """A module of a block of `side`, which works on each token apart."""

    @property
    def side(self) -> Side: ...
    @property
    def block(self) -> int: ...
    def register_forward_pre_hook(self, hook: Any) -> RemovableHandle: ...
    def register_forward_hook(self, hook: Any) -> RemovableHandle: ...


class Trainable(Routed, Protocol):
    """A model with adapters, as MTAModel is one."""

    model: nn.Module

    @property
    def tasks(self) -> Sequence[str]:
        """Names; a task's id is its place here."""
        ...

    @property
    def sides(self) -> Mapping[Side, nn.ModuleList]:
        """Blocks by side."""
        ...

    @property
    def layers(self) -> Sequence[Place]:
        """Where adapters stand: what lies beneath the first is the trunk."""
        ...

    def parameter_counts(self) -> Mapping[str, int]:
        """`total` and `trained` at least."""
        ...

    def gate_table(self) -> GateTable: ...

    def leaving_out(self, tasks: Collection[int]) -> AbstractContextManager[None]:
        """Meanwhile, rows of these tasks do without their home adapter."""
        ...

    def own_places(self, task: int) -> Mapping[str, list[int]]:
        """Where a task's own weights lie: name of a parameter -> places in it."""
        ...
