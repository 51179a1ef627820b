"""Router: carries each row's task to the MTA layers, through one context manager that always clears itself.

The ids live in a ContextVar, so two threads that serve different tasks never see each other's rows. A backward pass
under gradient checkpointing may run on another thread and after the context was left; `RoutedCheckpoint` therefore
ties the ids to the recomputed function itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from alter_core.errors import TaskIdError
from alter_core.problems import first

_ACTIVE: ContextVar[Mapping["Router", "Routing"] | None] = ContextVar("alter_core_mta_routing", default=None)

TaskIds = Tensor | Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Rows:
    """The rows of one hidden tensor, and how to bring rows of one task together.

    `present[i]` owns `counts[i]` consecutive rows once rows are taken in `order`; `inverse` undoes it. Both are None
    when the rows already lie together.
    """

    ids: Int[Tensor, " batch"]
    present: tuple[int, ...]
    counts: tuple[int, ...]
    order: Int[Tensor, " batch"] | None
    inverse: Int[Tensor, " batch"] | None


class Routing:
    """The task ids of one batch, on the CPU; sorted and sent to a device once, whatever the number of MTA layers."""

    def __init__(self, ids: Sequence[int], known: str) -> None:
        self.ids = tuple(ids)
        self._known = known
        self._rows: dict[tuple[int, torch.device], Rows] = {}

    def check(self, rows: int) -> int:
        """Return how many rows each id stands for: 1, or under beam search and num_return_sequences a multiple.

        Raises TaskIdError when `rows` is not a multiple, or is one while gradients are on: only generation repeats
        rows, so in training a multiple is a mistake in the batch.
        """
        copies, rest = divmod(rows, len(self.ids))
        if rest or copies < 1 or (copies > 1 and torch.is_grad_enabled()):
            raise TaskIdError(
                f"{len(self.ids)} task ids were given for a batch of {rows} rows: pass one id per row",
                [f"known tasks: {self._known}"],
            )
        return copies

    def rows(self, rows: int, device: torch.device) -> Rows:
        """Return the grouping of a hidden tensor with `rows` rows. Raises TaskIdError as `check` does."""
        copies = self.check(rows)
        found = self._rows.get((copies, device))
        if found is None:
            # generate() repeats each row in place (repeat_interleave), so its copies stay neighbours.
            found = self._rows[copies, device] = _group([i for i in self.ids for _ in range(copies)], device)
        return found


def _group(ids: list[int], device: torch.device) -> Rows:
    present = tuple(sorted(set(ids)))
    counts = tuple(ids.count(task) for task in present)
    if all(a <= b for a, b in pairwise(ids)):
        return Rows(_sent([ids], device)[0], present, counts, None, None)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    inverse = [0] * len(ids)
    for place, row in enumerate(order):
        inverse[row] = place
    ids_, order_, inverse_ = _sent([ids, order, inverse], device)
    return Rows(ids_, present, counts, order_, inverse_)


def _sent(lists: list[list[int]], device: torch.device) -> tuple[Tensor, ...]:
    """On `device`, without waiting for what it does."""
    return torch.tensor(lists).to(device, non_blocking=True).unbind(0)


class Router:
    """Names of the tasks, and the one place where MTA layers look up the rows' tasks."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)

    def parse(self, task_ids: TaskIds) -> Routing:
        """Return the routing of `task_ids`: names, or integers from 0 in the order of `tasks`, one per row.

        A tensor should be on the CPU: the ids are read here, and a device would have to end its work first.
        Raises TaskIdError for unknown names, ids out of range, floats, or anything but one dimension.
        """
        known = ", ".join(f"{i}={name}" for i, name in enumerate(self.tasks))
        if isinstance(task_ids, Tensor):
            if task_ids.dim() != 1 or task_ids.is_floating_point() or task_ids.dtype == torch.bool:
                raise TaskIdError(
                    f"task ids must be whole numbers of shape (batch,), got {task_ids.dtype} of shape "
                    f"{tuple(task_ids.shape)}",
                    [f"known tasks: {known}"],
                )
            values: list[Any] = task_ids.tolist()
        elif isinstance(task_ids, str):
            raise TaskIdError(
                f"task ids must be one per row, got the single name {task_ids!r}: pass [{task_ids!r}] * batch",
                [f"known tasks: {known}"],
            )
        else:
            # NumPy's whole numbers too, which are no int
            values = [int(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for v in task_ids]
        numbers = {name: i for i, name in enumerate(self.tasks)}
        ids = [numbers.get(v, -1) if isinstance(v, str) else v for v in values]
        wrong = [
            f"row {row}: {values[row]!r}"
            for row, i in enumerate(ids)
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(self.tasks)
        ]
        if not ids:
            raise TaskIdError("no task ids were given: pass one per row", [f"known tasks: {known}"])
        if wrong:
            raise TaskIdError("unknown task ids", [*first(wrong, 8, "rows"), f"known tasks: {known}"])
        return Routing(ids, known)

    @contextmanager
    def using(self, routing: Routing) -> Iterator[None]:
        """Make `routing` current for this thread until the context ends, whatever happens in it."""
        token = _ACTIVE.set({**(_ACTIVE.get() or {}), self: routing})
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def current(self) -> Routing:
        """Return the routing in force on this thread. Raises TaskIdError when there is none."""
        routing = (_ACTIVE.get() or {}).get(self)
        if routing is None:
            raise TaskIdError(
                "an MTA layer ran without task ids: call the model inside `with mta.routing(task_ids):`",
                [f"known tasks: {', '.join(f'{i}={name}' for i, name in enumerate(self.tasks))}"],
            )
        return routing


class RoutedCheckpoint:
    """A block's gradient checkpointing function that carries the forward's routing into the recomputation."""

    def __init__(self, inner: Callable[..., Any], router: Router) -> None:
        self.inner = inner
        self.router = router

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Checkpoint `function` so that its second run, in backward, sees the ids of the first."""
        routing = self.router.current()

        def routed(*inputs: Any, **named: Any) -> Any:
            with self.router.using(routing):
                return function(*inputs, **named)

        return self.inner(routed, *args, **kwargs)


class RowCheck:
    """Counts rows where a block is about to flatten (batch, seq): inside, its FFN can no longer tell."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def __call__(self, block: object, inputs: tuple[Tensor, ...]) -> None:
        """Raise TaskIdError unless the ids in force fit the block's input."""
        self.router.current().check(inputs[0].shape[0])
