"""The two ways to mix adapters: in weight space, or over outputs (the paper's). Pure functions of a `Mixture`.

`common` is the FFN beneath all adapters: the backbone's, with the shared adapter in it under shared_place beneath.
Weight mixing: theta_t = common + sum_k g_tk D_k, run once for all rows of task t.
Output mixing: y = sum_k g_tk FFN_k(x), where FFN_k has weights common + D_k; a row of g sums to 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from alter_core.mta.adapters import AdapterBank, FFNBank, LoRABank
from alter_core.mta.ffn import DOWN, FFN, FFNWeights
from alter_core.mta.routing import Rows

GROUPED_TOKENS = 64
"""Tokens per present task from which weights formed before beat low-rank deltas on CPU: below, reading one FFN's
weights per task costs more than the deltas' arithmetic."""


@dataclass(frozen=True)
class Mixture:
    """What an MTA layer mixes at present."""

    ffn: FFN
    base: nn.Module
    """The backbone's FFN: whose activation and dropout run, and which dtypes its linears keep."""
    common: FFNWeights
    table: Float[Tensor, "task adapter"]
    """The gate's weights."""
    banks: Sequence[tuple[AdapterBank, int, int]]
    """(bank, first column of `table`, columns) of each bank that takes part; one or more, but for plain FFNs."""
    only: Sequence[int] | None = None
    """Each task's only column, of weight 1, where every task has one."""
    is_whole: bool = True
    """Every row of `table` sums to 1."""

    def of_banks(self, table: Float[Tensor, "row adapter"]) -> list[tuple[AdapterBank, Tensor]]:
        """Return each bank with its own columns of `table`."""
        return [(bank, table[:, first : first + size]) for bank, first, size in self.banks]

    def cast(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return each linear's tensor in the dtype to run it in; see `FFN.cast`."""
        return self.ffn.cast(self.base, tensors, dtype)


def form(mixture: Mixture, tasks: Sequence[int], dtype: torch.dtype) -> list[FFNWeights]:
    """Return the mixed FFN of each of `tasks`, weights formed in fp32 and then cast to `dtype`."""
    rows = mixture.table.unbind(0)
    table = torch.stack([rows[task] for task in tasks])  # a list as index would be sent to the device, and waited for
    weights = {
        role: _formed(mixture.of_banks(table), role, w, len(tasks), mixture.is_whole)
        for role, w in mixture.common.weights.items()
    }
    biases = {
        role: _formed_bias(mixture.of_banks(table), role, b, len(tasks)) for role, b in mixture.common.biases.items()
    }
    split = _unbound(mixture.cast(weights, dtype).items())
    split_biases = _unbound(mixture.cast(biases, dtype).items())
    return [FFNWeights(_at(i, split), _at(i, split_biases)) for i in range(len(tasks))]


def pick(ffn: FFN, base: nn.Module, bank: FFNBank, places: Sequence[int], dtype: torch.dtype) -> list[FFNWeights]:
    """Return the adapters at `places` of `bank`, full FFNs: what `form` gives tasks with one adapter of weight 1."""
    # unbind, not indexing: its backward writes each gradient once, where one index per task would write the whole
    # stack as often as there are tasks.
    weights, biases = _unbound(bank.weight.items()), _unbound(bank.bias.items())
    return [FFNWeights(ffn.cast(base, _at(k, weights), dtype), ffn.cast(base, _at(k, biases), dtype)) for k in places]


def _unbound(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[Tensor, ...]]:
    return {role: tensor.unbind(0) for role, tensor in tensors}


def _at(place: int, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    return {role: tensor[place] for role, tensor in tensors.items()}


def _formed(
    parts: Sequence[tuple[AdapterBank, Tensor]], role: str, common: Tensor, tasks: int, is_whole: bool
) -> Float[Tensor, "task ffn hidden"]:
    if not parts:
        return common.expand(tasks, -1, -1)
    (first, own), *others = parts
    mixed: Tensor = sum((bank.form(table, role) for bank, table in others), first.form(own, role))
    if is_whole and all(isinstance(bank, FFNBank) and bank.full for bank, _ in parts):
        return mixed  # whole FFNs: nothing shows beneath
    rest = _rest(parts)
    return mixed + (rest[..., None] * common if isinstance(rest, Tensor) else common)


def _formed_bias(
    parts: Sequence[tuple[AdapterBank, Tensor]], role: str, common: Tensor, tasks: int
) -> Float[Tensor, "task out"]:
    dense = [(bank, table) for bank, table in parts if isinstance(bank, FFNBank)]
    if not dense:
        return common.expand(tasks, -1)
    mixed = sum((bank.form_bias(table, role) for bank, table in dense), torch.zeros(()))
    return mixed + common.float() * _rest(dense)


def _rest(parts: Sequence[tuple[AdapterBank, Tensor]]) -> Tensor | float:
    """Return the weight (task, 1) left to the common FFN beside adapters that replace it; 1.0 when none does."""
    replaced = [table.sum(1, keepdim=True) for bank, table in parts if isinstance(bank, FFNBank) and bank.full]
    return 1 - sum(replaced[1:], replaced[0]) if replaced else 1.0


def run_grouped(
    ffn: FFN, base: nn.Module, x: Float[Tensor, "batch token hidden"], rows: Rows, formed: Sequence[FFNWeights]
) -> Float[Tensor, "batch token hidden"]:
    """Return the output of rows brought together by task, one ordinary FFN per task that is present.

    On CPUs a loop over the present tasks beats one grouped or padded matmul: each group stays in the cache on its way
    through the FFN, and nothing is padded.
    """
    if len(formed) == 1:
        return ffn.run(base, x, formed[0])
    together = x if rows.order is None else x.index_select(0, rows.order)
    groups = torch.split(together, list(rows.counts))
    out = torch.cat([ffn.run(base, group, own) for group, own in zip(groups, formed, strict=True)])
    return out if rows.inverse is None else out.index_select(0, rows.inverse)


def run_low_rank(
    mixture: Mixture, x: Float[Tensor, "batch token hidden"], rows: Rows
) -> Float[Tensor, "batch token hidden"]:
    """Return weight mixing's output where no adapter is a full FFN: all rows share one FFN and differ by low rank.

    Equal to forming theta_t, without forming it: no row moves, and all tasks' deltas take two narrow matmuls.
    """
    common = mixture.common
    reached = None if mixture.only is None else sorted({mixture.only[task] for task in rows.present})
    banks: list[tuple[LoRABank, Tensor, list[int] | None]] = []
    for bank, first, size in mixture.banks:
        assert isinstance(bank, LoRABank)
        places = [column - first for column in reached if first <= column < first + size] if reached else None
        if places != []:  # an adapter that no row reaches adds nothing
            own = _picked_columns(mixture.table, first, range(size) if places is None else places)
            banks.append((bank, own[rows.ids], places))

    def linear(role: str, value: Tensor) -> Tensor:
        weight = common.weights[role]
        flat = value.flatten(0, 1).to(weight.dtype)
        out = F.linear(flat, weight.t() if role == DOWN else weight, common.biases.get(role))
        for bank, own, places in banks:
            bank.add_mixed(out, role, value, own, places)  # in place: nothing saved the linear's output
        return torch.unflatten(out, 0, value.shape[:2])

    up, gate = linear("up", x), linear("gate", x) if "gate" in common.weights else None
    return linear(DOWN, mixture.ffn.activate(mixture.base, up, gate))


def _picked_columns(table: Tensor, first: int, places: Sequence[int]) -> Tensor:
    columns = table.unbind(1)
    return torch.stack([columns[first + place] for place in places], 1)


def run_outputs(
    mixture: Mixture, x: Float[Tensor, "batch token hidden"], rows: Rows
) -> Float[Tensor, "batch token hidden"]:
    """Return output mixing's result: every adapter runs on every row, all of one bank in wide matmuls."""
    out = x.new_zeros(())
    for bank, own in mixture.of_banks(mixture.table[rows.ids]):
        run = _outputs_ffn if isinstance(bank, FFNBank) else _outputs_lora
        out = out + run(mixture, bank, x, own)  # type: ignore[arg-type]
    return out


def _outputs_ffn(mixture: Mixture, bank: FFNBank, x: Tensor, weights: Tensor) -> Tensor:
    """One adapter at a time, each over all rows.

    One wide matmul over all adapters would write activations of rows x seq x adapters x ffn, fresh from the system at
    every call: its page faults cost more than it saves.
    """
    common = mixture.common
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    parts, part_biases = _unbound(bank.weight.items()), _unbound(bank.bias.items())
    for k, weight in enumerate(weights.unbind(1)):
        own, biases = _at(k, parts), _at(k, part_biases)
        if not bank.full:
            own = {role: delta + common.weights[role] for role, delta in own.items()}
            biases = {role: delta + common.biases[role] for role, delta in biases.items()}
        ffn = FFNWeights(mixture.cast(own, x.dtype), mixture.cast(biases, x.dtype))
        out = torch.addcmul(out, mixture.ffn.run(mixture.base, x, ffn), weight[:, None, None])
    return out.to(x.dtype)


def _outputs_lora(mixture: Mixture, bank: LoRABank, x: Tensor, weights: Tensor) -> Tensor:
    batch, tokens, _ = x.shape
    common = mixture.common

    def up(role: str) -> Tensor:
        shared = F.linear(x, common.weights[role], common.biases.get(role)).flatten(0, 1)
        return shared + bank.each(role, x)  # adapter, batch x token, ffn

    inner = mixture.ffn.activate(mixture.base, up("up"), up("gate") if "gate" in common.weights else None)
    per_token = weights.t().to(x.dtype).repeat_interleave(tokens, 1)  # adapter, batch x token
    inner = inner * per_token[..., None]
    narrow = (inner @ bank.a[DOWN].to(x.dtype).mT) * bank.scale  # adapter, batch x token, rank
    out: Tensor = narrow.transpose(0, 1).flatten(1) @ bank.b[DOWN].to(x.dtype).flatten(0, 1)
    down = common.weights[DOWN]
    out = out + inner.sum(0).to(down.dtype) @ down
    out = torch.unflatten(out, 0, (batch, tokens))
    bias = common.biases.get(DOWN)
    return out if bias is None else out + (weights.sum(1)[:, None, None] * bias).to(out.dtype)
