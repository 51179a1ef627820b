"""MTAModel: the handle on a Hugging Face model with MTA layers in it. Forward and generate stay the model's own."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import nn

from alter_core.errors import MTAError
from alter_core.mta.architectures import Architecture, Side
from alter_core.mta.layer import MTALayer
from alter_core.mta.routing import RoutedCheckpoint, Router, TaskIds
from alter_core.spec.mta import MTAConfig
from alter_core.spec.stage import FREE, GateMode, Start

NEW_ROW_KEEP = 0.97
"""Weight of the home adapter in a new task's row where gates are soft already, unless said otherwise."""

PARTS = ("backbone", "shared_adapters", "task_adapters", "gates")


class MTAModel:
    """Handle on `model`, whose chosen FFN sub-layers are MTA layers.

    with mta.routing(task_ids):
        out = mta.model(**batch)
    """

    def __init__(
        self,
        model: nn.Module,
        config: MTAConfig,
        router: Router,
        architecture: Architecture,
        blocks: Mapping[Side, nn.ModuleList],
        layers: Sequence[MTALayer],
        backbone_digests: Mapping[str, str],
    ) -> None:
        self.model = model
        self.config = config
        self.router = router
        self.architecture = architecture
        self.sides = blocks
        self.layers = list(layers)
        self.backbone_digests = dict(backbone_digests)
        """Digest of each backbone weight as it was at injection; empty when none was taken."""

    @property
    def tasks(self) -> list[str]:
        """Return the names of the tasks; a task's id is its place here."""
        return list(self.router.tasks)

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the decoder's blocks."""
        return self.sides["decoder"]

    @contextmanager
    def routing(self, task_ids: TaskIds) -> Iterator[None]:
        """Tell the MTA layers each row's task: names, or ids of shape (batch,). Cleared at the end, whatever happens.

        Holds for this thread alone. Under generate() an id covers all beams and returned sequences of its row, and
        under gradient checkpointing the backward pass may run after the context. Raises TaskIdError for bad ids.
        """
        routing = self.router.parse(task_ids)
        for layer in self.layers:
            block = self.sides[layer.side][layer.block]
            inner = getattr(block, "_gradient_checkpointing_func", None)
            if inner is not None and not isinstance(inner, RoutedCheckpoint):
                block._gradient_checkpointing_func = RoutedCheckpoint(inner, self.router)  # type: ignore[assignment]
        with self.router.using(routing):
            yield

    def set_gate_mode(self, mode: GateMode) -> None:
        """Weights from homes (hard) or from the gates' logits; alter_core/mta/gates.py says what modes make of them.

        Raises MTAError for an unknown mode, and where mixing outputs would need weights that sum to 1.
        """
        self._check_mode(mode)
        for layer in self.layers:
            layer.gate.mode = mode

    def _check_mode(self, mode: GateMode) -> None:
        if mode not in get_args(GateMode):
            raise MTAError(f"gate mode {mode!r} is unknown: {', '.join(get_args(GateMode))}")
        if mode in FREE and self.config.mixing == "output":
            raise MTAError(f"gate mode {mode}: weights that do not sum to 1 need mixing: weight")

    def open_gates(self, keep: float = 0.97) -> None:
        """Go to soft gates that start at keep * hard weights + (1 - keep) * uniform over the other adapters."""
        for layer in self.layers:
            layer.gate.open(keep)

    def free_gates(self, mode: GateMode) -> None:
        """Go to gates that turn adapters down or up (signed, strength), at first with the weights that are in force.

        Raises MTAError as `set_gate_mode` does.
        """
        self._check_mode(mode)
        for layer in self.layers:
            layer.gate.free(mode)

    @contextmanager
    def leaving_out(self, tasks: Collection[int]) -> Iterator[None]:
        """Meanwhile, with hard gates, rows of these tasks do without their home adapter, at every layer."""
        for layer in self.layers:
            layer.gate.without_home = frozenset(tasks)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.gate.without_home = frozenset()

    def own_places(self, task: int) -> dict[str, list[int]]:
        """Where a task's own weights lie, its home adapters and gate rows: name of a parameter -> places in it."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        found: dict[str, list[int]] = {}
        for layer in self.layers:
            part, row = layer.gate.place(task)
            found[names[id(part)]] = [row]
            home = layer.gate.homes[task]
            for bank, first, size in layer.banks():
                if bank is not layer.shared and first <= home < first + size:
                    found.update({names[id(parameter)]: [home - first] for parameter in bank.parameters()})
        return found

    def use_adapters(self, *, task: bool, shared: bool) -> None:
        """Choose which adapters exist at present. With none, an MTA layer is its plain FFN."""
        for layer in self.layers:
            layer.gate.task_active = task
            layer.gate.shared_active = shared

    @torch.no_grad()
    def start_adapters(self, task: Start) -> None:
        """Start all task adapters anew: at the pretrained FFN, at the shared adapter as trained so far, or at zero.

        For ffn adapters beside, zero and pretrained are the same. Under shared_place beneath a task adapter lies on
        top of the shared one, so zero and shared are the same, and pretrained would mean to undo it.
        Raises MTAError where an adapter cannot take that start.
        """
        if task not in get_args(Start):
            raise MTAError(f"start {task!r} is unknown: pretrained, shared or zero")
        for layer in self.layers:
            layer.start(task)

    def set_trainable(self, parts: Collection[str]) -> list[tuple[str, nn.Parameter]]:
        """Let only `parts` (of backbone, shared_adapters, task_adapters, gates) train; return their parameters.

        Raises MTAError for an unknown part.
        """
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise MTAError(f"no such part to train: {', '.join(unknown)}", [f"known: {', '.join(PARTS)}"])
        chosen = []
        for part, named in self.parameters_by_part().items():
            for name, parameter in named:
                parameter.requires_grad_(part in parts)
                if part in parts:
                    chosen.append((name, parameter))
        return chosen

    def parameters_by_part(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return every parameter once (tied ones under their first name), under its part."""
        owner = {}
        for layer in self.layers:
            groups = (("shared_adapters", layer.shared), ("task_adapters", layer.tasks), ("gates", layer.gate))
            for part, module in groups:
                owner.update({id(p): part for p in (module.parameters() if module is not None else ())})
        found: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
        for name, parameter in self.model.named_parameters():
            found[owner.get(id(parameter), "backbone")].append((name, parameter))
        return found

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters: total, trained, and of each part."""
        parts = self.parameters_by_part()
        counts = {part: sum(p.numel() for _, p in named) for part, named in parts.items()}
        trained = sum(p.numel() for named in parts.values() for _, p in named if p.requires_grad)
        return {"total": sum(counts.values()), "trained": trained, **counts}

    @torch.no_grad()
    def gate_table(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the weights in force: layer -> task -> adapter -> weight. JSON-able."""
        tables = {}
        for layer in self.layers:
            rows = layer.gate.table().tolist()
            tables[layer.name] = {
                task: dict(zip(layer.gate.columns, row, strict=True))
                for task, row in zip(self.tasks, rows, strict=True)
            }
        return tables

    def add_task(
        self, name: str, home: str | None = None, start: Start | None = None, keep: float = NEW_ROW_KEEP
    ) -> list[tuple[str, nn.Parameter]]:
        """Add a task, and return the parameters that alone may train for it: its adapters and gate rows.

        Without `home` the task gets a fresh adapter at every MTA layer, started as `start_adapters` would; with it,
        it starts on that task's adapter and only gate rows are new. keep: weight of the home adapter where gates are
        soft. Everything else is frozen, and as old rows never reach the new adapter, the other tasks' logits stay
        bit-identical whatever is trained now.

        Raises MTAError when `name` exists, or `home` does not, and unless 0 < keep < 1; the model is then as it was.
        """
        if not 0 < keep < 1:
            raise MTAError(f"add_task: keep must lie between 0 and 1, both excluded; got {keep}")
        if name in self.tasks:
            raise MTAError(f"task {name!r} exists already", [f"known tasks: {', '.join(self.tasks)}"])
        if home is not None and home not in self.tasks:
            raise MTAError(f"home {home!r} is no task", [f"known tasks: {', '.join(self.tasks)}"])
        place = None if home is None else self.tasks.index(home)
        new: set[int] = set()
        for layer in self.layers:
            column = None if place is None else layer.gate.homes[place]
            new.update(id(parameter) for parameter in layer.add_task(name, column, start, keep))
        self.router.tasks.append(name)
        if home is not None:
            homes = self.config.homes
            self.config = self.config.model_copy(update={"homes": {**homes, name: homes.get(home, home)}})
        found = []
        for parameter_name, parameter in self.model.named_parameters():
            parameter.requires_grad_(id(parameter) in new)
            if id(parameter) in new:
                found.append((parameter_name, parameter))
        return found
