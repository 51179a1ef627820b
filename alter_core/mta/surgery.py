"""Change the set of tasks and adapters of a trained MTAModel: add a task, remove one, prune adapters hardly used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alter_core.errors import MTAError
from alter_core.mta.adapters import bank_size, keep_adapters, make_bank
from alter_core.mta.modes import evaluating
from alter_core.mta.routing import TaskIds

if TYPE_CHECKING:
    from alter_core.mta.layer import MTALayer, Start
    from alter_core.mta.model import MTAModel

NEW_ROW_KEEP = 0.97
"""Weight of the home adapter in a new task's row where gates are soft already, unless said otherwise."""


@dataclass(frozen=True)
class Pruned:
    """What pruning dropped, and what it changed. The last three are None without a probe."""

    dropped: dict[str, list[str]]
    """Layer -> names of its dropped adapters."""
    largest_weight_change: float
    """The largest change of a gate weight that stays, over layers and tasks."""
    parameters_dropped: int
    largest_logit_change: float | None
    mean_kl: float | None
    """Nats per position."""
    same_top: float | None
    """Share of positions whose most likely token stays."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def add_task(
    mta: "MTAModel", name: str, home: str | None = None, start: "Start | None" = None, keep: float = NEW_ROW_KEEP
) -> list[tuple[str, nn.Parameter]]:
    """Add a task, and return the parameters that alone may train for it: its adapters and gate rows.

    Without `home` the task gets a fresh adapter at every MTA layer, started as `start` says; with it, it starts on that
    task's adapter and only gate rows are new. keep: weight of the home adapter where gates are soft. Everything else is
    frozen, and as old rows never reach the new adapter, the other tasks' logits stay bit-identical whatever is trained
    now.

    Raises MTAError when `name` exists, or `home` does not, and unless 0 < keep < 1; the model is then as it was.
    """
    if not 0 < keep < 1:
        raise MTAError(f"add_task: keep must lie between 0 and 1, both excluded; got {keep}")
    if name in mta.tasks:
        raise MTAError(f"task {name!r} exists already", [f"known tasks: {', '.join(mta.tasks)}"])
    if home is not None and home not in mta.tasks:
        raise MTAError(f"home {home!r} is no task", [f"known tasks: {', '.join(mta.tasks)}"])
    columns = [layer.gate.homes[mta.tasks.index(home)] if home is not None else None for layer in mta.layers]
    if home is not None and None in columns:
        raise MTAError(f"home {home!r} has no adapter of its own any more (pruned)")
    fresh: set[int] = set()
    for layer, column in zip(mta.layers, columns, strict=True):
        gate = layer.gate
        if column is None:
            bank = _fresh_bank(layer)
            if start:
                layer.start(bank, start)
            layer.tasks.append(bank)
            fresh.update(id(p) for p in bank.parameters())
        gate.add_task(name, column)
        if gate.mode == "soft":
            gate.open(keep, first_part=len(gate.logits) - 1)
        fresh.add(id(gate.logits[-1]))
        layer.forget()
    mta.router.tasks.append(name)
    if home is not None:
        homes = mta.config.homes
        mta.config = mta.config.model_copy(update={"homes": {**homes, name: homes.get(home, home)}})
    new = []
    for parameter_name, parameter in mta.model.named_parameters():
        parameter.requires_grad_(id(parameter) in fresh)
        if id(parameter) in fresh:
            new.append((parameter_name, parameter))
    return new


def _fresh_bank(layer: "MTALayer") -> nn.Module:
    dtype = next(layer.tasks.parameters()).dtype
    bank = make_bank(layer.config.adapter, layer.ffn.read(layer.base), 1, not layer.is_beneath, layer.config, dtype)
    bank.train(layer.training)
    return bank


def remove_task(mta: "MTAModel", name: str) -> None:
    """Remove a task's gate rows; ids of the tasks after it fall by one.

    Its adapters stay, since other tasks may draw on them, so that the other tasks' logits stay bit-identical;
    `prune` drops those that nobody uses. Raises MTAError for an unknown task and for the last one.
    """
    if name not in mta.tasks:
        raise MTAError(f"no task {name!r}", [f"known tasks: {', '.join(mta.tasks)}"])
    if len(mta.tasks) == 1:
        raise MTAError(f"{name!r} is the only task: an MTA model needs one")
    number = mta.tasks.index(name)
    for layer in mta.layers:
        layer.gate.remove_task(number)
        layer.forget()
    del mta.router.tasks[number]


@torch.no_grad()
def prune(
    mta: "MTAModel", min_weight: float, probe: Mapping[str, Tensor] | None = None, task_ids: TaskIds | None = None
) -> Pruned:
    """Drop, at each layer, the adapters whose gate weight is below `min_weight` for every task.

    The weights that stay grow to sum to 1. With `probe`, keyword arguments of the model's forward, and its `task_ids`,
    the change of the logits is measured too. A task whose home adapter goes can no longer use hard gates.
    Adapters outside of the gate (shared_place beneath) stay. Raises MTAError where no adapter would be left.
    """
    if probe is not None and task_ids is None:
        raise MTAError("prune: a probe needs the task ids of its rows; pass them too")
    drops, problems = [], []
    for layer in mta.layers:
        if not all(layer.gate.active()):
            problems.append(
                f"{layer.name}: adapters are switched off, so their weights say nothing; use_adapters first"
            )
        table = layer.gate.table()
        largest = table.amax(0)
        drops.append([c for c, weight in enumerate(largest.tolist()) if weight < min_weight])
        if len(drops[-1]) == len(largest):
            problems.append(
                f"{layer.name}: no adapter has a weight of {min_weight}; the largest is {largest.max():.3g}"
            )
        elif without := [
            task for task, left in zip(mta.tasks, table[:, largest >= min_weight].sum(1), strict=True) if not left
        ]:
            problems.append(f"{layer.name}: {', '.join(without)} would have no adapter left; take a smaller min_weight")
    if problems:
        raise MTAError("nothing was pruned", problems)
    before = _logits(mta, probe, task_ids)
    dropped: dict[str, list[str]] = {}
    weight_change, parameters = 0.0, _size(mta)
    for layer, drop in zip(mta.layers, drops, strict=True):
        if drop:
            kept = [c for c in range(len(layer.gate.columns)) if c not in drop]
            old = layer.gate.table()[:, kept]
            dropped[layer.name] = [layer.gate.columns[c] for c in drop]
            _drop(layer, drop)
            if layer.gate.mode == "soft":
                weight_change = max(weight_change, float((layer.gate.table() - old).abs().max()))
    after = _logits(mta, probe, task_ids)
    measured: tuple[float | None, float | None, float | None] = (None, None, None)
    if before is not None and after is not None:
        kl = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).mean()
        same = (before.argmax(-1) == after.argmax(-1)).float().mean()
        measured = (float((before - after).abs().max()), float(kl), float(same))
    return Pruned(dropped, weight_change, parameters - _size(mta), *measured)


def _drop(layer: "MTALayer", drop: list[int]) -> None:
    keeps = [
        (bank, [c - first for c in range(first, first + size) if c not in drop]) for bank, first, size in layer.banks()
    ]
    for bank, keep in keeps:
        if len(keep) < bank_size(bank):
            keep_adapters(bank, keep)
    layer.gate.drop_columns(drop)
    layer.forget()


def _size(mta: "MTAModel") -> int:
    return sum(p.numel() for p in mta.model.parameters())


def _logits(mta: "MTAModel", probe: Mapping[str, Tensor] | None, task_ids: TaskIds | None) -> Tensor | None:
    if probe is None or task_ids is None:
        return None
    with evaluating(mta.model), mta.routing(task_ids):
        logits: Tensor = mta.model(**probe).logits.float()
    return logits
