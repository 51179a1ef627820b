"""MTALayer: stands where a block's FFN stood, and holds that FFN, its adapters and their gate."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alter_core.errors import MTAError
from alter_core.mta.adapters import AdapterBank, FFNBank, LoRABank, bank_size, copy_adapter, make_bank
from alter_core.mta.architectures import Side
from alter_core.mta.ffn import FFN, FFNWeights
from alter_core.mta.gates import Gate
from alter_core.mta.mixing import GROUPED_TOKENS, Mixture, form, pick, run_grouped, run_low_rank, run_outputs
from alter_core.mta.routing import Router, Rows
from alter_core.spec.mta import MTAConfig
from alter_core.spec.stage import FREE, Start

FORMED_KEPT = 32
"""How many tasks' formed weights a layer keeps for generation; the oldest goes first."""


@dataclass
class _Memo:
    """Weights that a layer has formed, under a stamp of what they were formed from."""

    held: tuple[object, dict[tuple[int | None, torch.dtype], FFNWeights]] = field(default_factory=lambda: (None, {}))


class MTALayer(nn.Module):
    r"""Mixture of task adapters over one FFN (Xie et al., arXiv 2309.11042), in weight or output space.

    $$\theta_t = \theta_0 + \sum_k g_{tk} D_k, \qquad g_t = \mathrm{softmax}(\mathrm{logits}_t / \mathrm{temperature})$$

    base: the backbone's FFN, theta_0. shared: bank of shared adapters or None. tasks: banks of task adapters, one
    made at injection and one per added task. gate: the table; its columns are the shared adapters (when they stand
    beside) and then those of `tasks`.
    """

    def __init__(
        self,
        base: nn.Module,
        ffn: FFN,
        side: Side,
        block: int,
        config: MTAConfig,
        adapters: list[str],
        homes: list[int],
        router: Router,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.base = base
        self.ffn = ffn
        self.side = side
        self.block = block
        self.config = config
        self.router = router
        self.is_beneath = config.is_beneath
        like = ffn.read(base)
        count = config.shared_adapters
        shared_kind = config.shared_adapter or config.adapter
        self.shared = make_bank(shared_kind, like, count, True, config, dtype) if count else None
        self.tasks = nn.ModuleList([make_bank(config.adapter, like, len(adapters), not self.is_beneath, config, dtype)])
        beside = 0 if self.is_beneath else count
        names = [f"shared {i}" for i in range(beside)] + adapters
        self.gate = Gate(names, beside, [beside + home for home in homes], config.temperature)
        self.gate.to(like.weights["up"].device)
        self._memo = _Memo()

    @property
    def name(self) -> str:
        """Return side and block number, as tables and messages show it."""
        return f"{self.side}.{self.block}"

    def banks(self) -> list[tuple[AdapterBank, int, int]]:
        """Return (bank, first column, columns) of every bank in the gate."""
        found: list[tuple[AdapterBank, int, int]] = []
        first = 0
        beside = [] if self.shared is None or self.is_beneath else [self.shared]
        for bank in [*beside, *self.tasks]:
            size = bank_size(bank)
            found.append((bank, first, size))
            first += size
        return found

    def add_task(self, name: str, home: int | None, start: Start | None, keep: float) -> list[nn.Parameter]:
        """Add a task; return what is new, its adapter and its gate row. See `MTAModel.add_task`.

        home: the column of the adapter that it starts on; None: a fresh one, started as `start` says.
        """
        new: list[nn.Parameter] = []
        if home is None:
            dtype = next(self.tasks.parameters()).dtype
            bank = make_bank(
                self.config.adapter, self.ffn.read(self.base), 1, not self.is_beneath, self.config, dtype
            ).train(self.training)
            if start:
                self._start(bank, start)
            self.tasks.append(bank)
            new += bank.parameters()
        self.gate.add_task(name, home)
        last = len(self.gate.logits) - 1
        if self.gate.mode == "soft":
            self.gate.open(keep, first_part=last)
        elif self.gate.mode in FREE:
            self.gate.free(self.gate.mode, first_part=last)
        self.forget()
        return [*new, self.gate.logits[-1]]

    def active_banks(self) -> list[tuple[AdapterBank, int, int]]:
        """Return those of `banks` that exist at present (`MTAModel.use_adapters`)."""
        active = self.gate.active()
        return [(bank, first, size) for bank, first, size in self.banks() if size and active[first]]

    def beneath(self) -> AdapterBank | None:
        """Return the shared bank where it lies beneath the task adapters and is active."""
        return self.shared if self.is_beneath and self.gate.shared_active else None

    def is_dense(self) -> bool:
        """Tell whether tasks differ by full FFN weights, so that rows must be brought together by task."""
        return any(isinstance(b, FFNBank) for b, _, _ in self.active_banks())

    def common(self, dtype: torch.dtype | None = None) -> FFNWeights:
        """Return the FFN beneath all adapters of the gate, in `dtype` where given."""
        base = self.ffn.read(self.base)
        weights, biases = dict(base.weights), dict(base.biases)
        always = self.beneath()
        if isinstance(always, FFNBank):
            # No indexing: its backward fills a tensor of the weight's size with zeros, and copies the gradient there.
            weights = {role: w.squeeze(0) for role, w in always.weight.items()}
            biases = {role: b.squeeze(0) for role, b in always.bias.items()}
        elif isinstance(always, LoRABank):
            one = torch.ones(1, 1, device=weights["up"].device)
            weights = {role: w + always.form(one, role)[0] for role, w in weights.items()}
        if dtype is not None:
            weights = self.ffn.cast(self.base, weights, dtype)
            biases = self.ffn.cast(self.base, biases, dtype)
        return FFNWeights(weights, biases)

    def form(self, tasks: Sequence[int], dtype: torch.dtype) -> list[FFNWeights]:
        """Return the ordinary FFN that each of `tasks` runs under weight mixing, in `dtype`."""
        columns, banks = self.gate.one_hot(), self.active_banks()
        if columns is not None and len(banks) == 1:
            bank, first, _ = banks[0]
            if isinstance(bank, FFNBank) and bank.full:
                return pick(self.ffn, self.base, bank, [columns[task] - first for task in tasks], dtype)
        return form(self._mixture(self.common()), tasks, dtype)

    def _mixture(self, common: FFNWeights) -> Mixture:
        gate = self.gate
        return Mixture(self.ffn, self.base, common, gate.table(), self.active_banks(), gate.one_hot(), gate.is_whole)

    def _remembered(self, tasks: Sequence[int], dtype: torch.dtype) -> list[FFNWeights]:
        """`form` from memory. Only right with gradients off."""
        return [self._kept(task, dtype) for task in tasks]

    def common_for(self, dtype: torch.dtype) -> FFNWeights:
        """Return `common` in `dtype`; from memory while generating, where casting it anew would cost every token."""
        if self.training or torch.is_grad_enabled():
            return self.common(dtype)
        return self._kept(None, dtype)

    def _kept(self, task: int | None, dtype: torch.dtype) -> FFNWeights:
        """A task's FFN, or without one `common`; kept until any parameter is changed in place or replaced, or the
        gate's state changes."""
        stamp = self._stamp()
        held = self._memo.held
        if held[0] != stamp:
            # One assignment of both, so that another thread never pairs a new stamp with old weights.
            held = self._memo.held = (stamp, {})
        found = held[1].get((task, dtype))
        if found is None:
            found = self.common(dtype) if task is None else self.form([task], dtype)[0]
            while len(held[1]) >= FORMED_KEPT:
                held[1].pop(next(iter(held[1])), None)
            held[1][task, dtype] = found
        return found

    def start(self, start: Start) -> None:
        """Start all task adapters anew; see `MTAModel.start_adapters`. Raises MTAError where it cannot."""
        for bank, _, _ in self.banks():
            if bank is not self.shared:
                self._start(bank, start)
        self.forget()

    def _start(self, bank: AdapterBank, start: Start) -> None:
        shared = self.shared
        if self.is_beneath and start == "pretrained":
            raise MTAError("start pretrained: under shared_place beneath task adapters lie on the shared one; use zero")
        if start == "shared" and shared is None:
            raise MTAError("start shared: there is no shared adapter; set mta > shared_adapters: 1, or start: zero")
        if start == "shared" and self.config.shared_adapters > 1:
            raise MTAError(
                f"start shared: of {self.config.shared_adapters} shared adapters none is the one to start from; set "
                "mta > shared_adapters: 1"
            )
        from_shared = start == "shared" and not self.is_beneath
        if isinstance(bank, FFNBank):
            bank.reset(self._shared_ffn() if from_shared else self.ffn.read(self.base) if bank.full else None)
        elif from_shared and shared is not None:
            if type(shared) is not type(bank):
                raise MTAError(
                    f"start shared: task adapters are {bank.kind}, the shared one is {shared.kind}",
                    ["give both the same kind, or put the shared adapter beneath"],
                )
            copy_adapter(bank, shared)
        else:
            bank.reset()

    def _shared_ffn(self) -> FFNWeights:
        """Return theta_0 + D of the one shared adapter beside."""
        base, shared = self.ffn.read(self.base), self.shared
        if isinstance(shared, FFNBank):
            return FFNWeights({r: w[0] for r, w in shared.weight.items()}, {r: b[0] for r, b in shared.bias.items()})
        assert isinstance(shared, LoRABank)
        one = torch.ones(1, 1, device=base.weights["up"].device)
        return FFNWeights({r: w + shared.form(one, r)[0] for r, w in base.weights.items()}, base.biases)

    def forget(self) -> None:
        """Drop formed weights; needed only after a change that torch cannot see (`parameter.data`)."""
        self._memo.held = (None, {})

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memo": _Memo()}  # what is formed is in no copy

    def share_formed(self, other: "MTALayer") -> None:
        """Keep formed weights where `other` does, a copy of this layer over the same parameters."""
        self._memo = other._memo

    def train(self, mode: bool = True) -> "MTALayer":
        """Set training mode, and drop formed weights: optimisers that write to `.data` leave no other trace."""
        self.forget()
        return super().train(mode)

    def _stamp(self) -> object:
        return self.gate.state, [(p.data_ptr(), p._version) for p in self.parameters()]

    # A graph break: routing and the memo of formed weights are Python state that a graph cannot hold.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """Return the mixed FFN of `hidden`, each row under its own task.

        hidden: (batch, seq, hidden), or (batch x seq, hidden) where the block flattens it.
        Raises TaskIdError when no task ids are in force or their number does not fit the batch.
        """
        autocast = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
        routing = self.router.current()
        count = len(routing.ids) if hidden.dim() == 2 else hidden.shape[0]
        rows = routing.rows(count, hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            x = hidden.reshape(count, -1, hidden.shape[-1]).to(dtype)
            out = self._mix(x, rows)
            out = out.reshape(hidden.shape)
        return self.ffn.finish(self.base, out)

    def _mix(self, x: Float[Tensor, "batch token hidden"], rows: Rows) -> Float[Tensor, "batch token hidden"]:
        banks = self.active_banks()
        if not banks:
            return self.ffn.run(self.base, x, self.common_for(x.dtype))
        if self.config.mixing == "output" and self.gate.one_hot() is None:
            return run_outputs(self._mixture(self.common_for(x.dtype)), x, rows)
        learning = self.training or torch.is_grad_enabled()
        many = x.shape[0] * x.shape[1] >= GROUPED_TOKENS * len(rows.present)
        if self.is_dense() or (not learning and (many or len(rows.present) == 1)):
            formed = (self.form if learning else self._remembered)(rows.present, x.dtype)
            return run_grouped(self.ffn, self.base, x, rows, formed)
        return run_low_rank(self._mixture(self.common_for(x.dtype)), x, rows)
