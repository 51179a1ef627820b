"""The two ways to mix adapters: in weight space, or over outputs (the paper's). Pure functions of one MTA layer.

`common` is the FFN beneath all adapters: the backbone's, with the shared adapter in it under shared_place beneath.
Weight mixing: theta_t = common + sum_k g_tk D_k, run once for all rows of task t.
Output mixing: y = FFN_common(x) + sum_k g_tk (FFN_k(x) - FFN_common(x)), where FFN_k has weights common + D_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from alter_core.mta.adapters import BottleneckBank, FFNBank, LoRABank
from alter_core.mta.ffn import DOWN, FFNWeights
from alter_core.mta.routing import Rows

if TYPE_CHECKING:
    from alter_core.mta.layer import MTALayer

GROUPED_TOKENS = 64
"""Tokens per present task from which weights formed before beat low-rank deltas on CPU: below, reading one FFN's
weights per task costs more than the deltas' arithmetic."""


@dataclass(frozen=True)
class Formed:
    """What one task runs at one layer: an ordinary FFN, and bottlenecks beside it where there are any."""

    ffn: FFNWeights
    bottlenecks: tuple[dict[str, Tensor], ...] = ()


def form(layer: "MTALayer", tasks: Sequence[int], dtype: torch.dtype) -> list[Formed]:
    """Return the mixed FFN of each of `tasks`, weights formed in fp32 and then cast to `dtype`."""
    columns = layer.gate.one_hot()
    banks = layer.active_banks()
    if columns is not None and len(banks) == 1 and isinstance(banks[0][0], FFNBank) and banks[0][0].full:
        return _picked(layer, banks[0][0], [columns[t] - banks[0][1] for t in tasks], dtype)
    table = layer.gate.table()[list(tasks)]
    common = layer.common()
    weights = {role: _mixed(layer, role, common.weights[role], table) for role in common.weights}
    biases = {}
    for role, bias in common.biases.items():
        mixed = [(b, t) for b, t in _columns(layer, table) if isinstance(b, FFNBank)]
        parts = [bank.form_bias(part, role) for bank, part in mixed]
        rest = _rest([(b.full, t) for b, t in mixed])
        biases[role] = sum(parts, torch.zeros(())) + bias.float() * rest if parts else bias.expand(len(tasks), -1)
    bottlenecks = _formed_bottlenecks(layer, table)
    split = {role: _cast(layer, role, w, dtype).unbind(0) for role, w in weights.items()}
    split_biases = {role: _cast(layer, role, b, dtype).unbind(0) for role, b in biases.items()}
    return [
        Formed(
            FFNWeights({r: w[i] for r, w in split.items()}, {r: b[i] for r, b in split_biases.items()}),
            tuple({n: p[i].to(dtype) for n, p in bottleneck.items()} for bottleneck in bottlenecks),
        )
        for i in range(len(tasks))
    ]


def _picked(layer: "MTALayer", bank: FFNBank, places: Sequence[int], dtype: torch.dtype) -> list[Formed]:
    # Each task has one adapter of weight 1: no sum to form. unbind, not indexing: its backward writes each gradient
    # once, where one index per task would write the whole stack as often as there are tasks.
    weights = {role: w.unbind(0) for role, w in bank.weight.items()}
    biases = {role: b.unbind(0) for role, b in bank.bias.items()}
    return [
        Formed(
            FFNWeights(
                {role: _cast(layer, role, w[k], dtype) for role, w in weights.items()},
                {role: _cast(layer, role, b[k], dtype) for role, b in biases.items()},
            )
        )
        for k in places
    ]


def _mixed(layer: "MTALayer", role: str, common: Tensor, table: Tensor) -> Float[Tensor, "task ffn hidden"]:
    dense = [(b, t) for b, t in _columns(layer, table) if not isinstance(b, BottleneckBank)]
    if not dense:
        return common.expand(len(table), -1, -1)
    mixed: Tensor = sum((bank.form(part, role) for bank, part in dense[1:]), dense[0][0].form(dense[0][1], role))
    if layer.replaces_common():
        return mixed
    rest = _rest([(isinstance(b, FFNBank) and b.full, t) for b, t in dense])
    if isinstance(rest, Tensor):
        return mixed + rest[..., None] * common
    return mixed + common


def _rest(parts: Sequence[tuple[bool, Tensor]]) -> Tensor | float:
    """Return the weight (task, 1) left to the common FFN beside adapters that replace it; 1.0 when none does."""
    replaced = [table.sum(1, keepdim=True) for full, table in parts if full]
    return 1 - sum(replaced[1:], replaced[0]) if replaced else 1.0


def _columns(layer: "MTALayer", table: Tensor) -> list[tuple[FFNBank | LoRABank | BottleneckBank, Tensor]]:
    """Return each active bank with its own columns of `table`."""
    return [(bank, table[:, first : first + size]) for bank, first, size in layer.active_banks()]


def _cast(layer: "MTALayer", role: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(layer.ffn.dtype_of(layer.base, role, dtype))


def _formed_bottlenecks(layer: "MTALayer", table: Tensor) -> list[dict[str, Tensor]]:
    mixed: dict[str, Tensor] = {}
    for bank, part in _columns(layer, table):
        if isinstance(bank, BottleneckBank):
            for name, value in bank.form(part).items():
                mixed[name] = mixed[name] + value if name in mixed else value
    always = layer.beneath()
    formed = [mixed] if mixed else []
    if isinstance(always, BottleneckBank):
        formed.append({name: p.expand(len(table), *p.shape[1:]) for name, p in always.part.items()})
    return formed


def run_bottleneck(layer: "MTALayer", x: Tensor, part: dict[str, Tensor]) -> Tensor:
    """Return one bottleneck's output for `x` (..., hidden)."""
    inner = getattr(layer.base, layer.ffn.activation)(F.linear(x, part["down"], part["down_bias"]))
    return F.linear(inner, part["up"].t(), part["up_bias"])


def run_grouped(
    layer: "MTALayer", x: Float[Tensor, "batch token hidden"], rows: Rows, formed: Sequence[Formed]
) -> Float[Tensor, "batch token hidden"]:
    """Return the output of rows brought together by task, one ordinary FFN per task that is present.

    On CPUs a loop over the present tasks beats one grouped or padded matmul: each group stays in the cache on its way
    through the FFN, and nothing is padded.
    """

    def run(group: Tensor, own: Formed) -> Tensor:
        out = layer.ffn.run(layer.base, group, own.ffn)
        for part in own.bottlenecks:
            out = out + run_bottleneck(layer, group, part)
        return out

    if len(formed) == 1:
        return run(x, formed[0])
    together = x if rows.order is None else x.index_select(0, rows.order)
    out = torch.cat([run(g, own) for g, own in zip(torch.split(together, list(rows.counts)), formed, strict=True)])
    return out if rows.inverse is None else out.index_select(0, rows.inverse)


def run_low_rank(
    layer: "MTALayer", x: Float[Tensor, "batch token hidden"], rows: Rows
) -> Float[Tensor, "batch token hidden"]:
    """Return weight mixing's output where no adapter is a full FFN: all rows share one FFN and differ by low rank.

    Equal to forming theta_t, without forming it: no row moves, and all tasks' deltas take two narrow matmuls.
    """
    table = layer.gate.table()
    weights = table[rows.ids]
    common = layer.common_for(x.dtype)
    banks = [(bank, part) for bank, part in _columns(layer, weights) if isinstance(bank, LoRABank)]

    def linear(role: str, value: Tensor) -> Tensor:
        weight = common.weights[role]
        flat = value.flatten(0, 1).to(weight.dtype)
        out = F.linear(flat, weight.t() if role == DOWN else weight, common.biases.get(role))
        for bank, part in banks:
            bank.add_mixed(out, role, value, part)  # in place: nothing saved the linear's output
        return torch.unflatten(out, 0, value.shape[:2])

    inner = layer.ffn.activate(layer.base, linear("up", x), linear("gate", x) if "gate" in common.weights else None)
    out = linear(DOWN, inner)
    bottlenecks = _formed_bottlenecks(layer, table[list(rows.present)])
    if bottlenecks:
        together = x if rows.order is None else x.index_select(0, rows.order)
        groups = torch.split(together, list(rows.counts))
        for part in bottlenecks:
            own = [{n: p[i].to(x.dtype) for n, p in part.items()} for i in range(len(groups))]
            added = torch.cat([run_bottleneck(layer, g, o) for g, o in zip(groups, own, strict=True)])
            out = out + (added if rows.inverse is None else added.index_select(0, rows.inverse))
    return out


def run_outputs(
    layer: "MTALayer", x: Float[Tensor, "batch token hidden"], rows: Rows
) -> Float[Tensor, "batch token hidden"]:
    """Return output mixing's result: every adapter runs on every row, all of one bank in wide matmuls."""
    weights = layer.gate.table()[rows.ids]
    common = layer.common_for(x.dtype)
    parts = _columns(layer, weights)
    out = x.new_zeros(())
    left = torch.ones(len(weights), 1, device=x.device)  # weight of FFN_common itself
    for bank, own in parts:
        if isinstance(bank, BottleneckBank):
            out = out + bank.each(layer.ffn, layer.base, x, own)
            continue
        out = out + (_outputs_ffn if isinstance(bank, FFNBank) else _outputs_lora)(layer, bank, common, x, own)  # type: ignore[arg-type]
        left = left - own.sum(1, keepdim=True)
    if not layer.uses_no_common():
        out = out + layer.ffn.run(layer.base, x, common) * left[:, :, None].to(x.dtype)
    always = layer.beneath()
    if isinstance(always, BottleneckBank):
        out = out + run_bottleneck(layer, x, {n: p[0].to(x.dtype) for n, p in always.part.items()})
    return out


def _outputs_ffn(layer: "MTALayer", bank: FFNBank, common: FFNWeights, x: Tensor, weights: Tensor) -> Tensor:
    """One adapter at a time, each over all rows.

    One wide matmul over all adapters would write activations of rows x seq x adapters x ffn, fresh from the system at
    every call: its page faults cost more than it saves.
    """
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    parts = {role: w.unbind(0) for role, w in bank.weight.items()}
    part_biases = {role: b.unbind(0) for role, b in bank.bias.items()}
    for k, weight in enumerate(weights.unbind(1)):
        own = {r: w[k] if bank.full else w[k] + common.weights[r] for r, w in parts.items()}
        biases = {r: b[k] if bank.full else b[k] + common.biases[r] for r, b in part_biases.items()}
        ffn = FFNWeights(
            {r: _cast(layer, r, w, x.dtype) for r, w in own.items()},
            {r: _cast(layer, r, b, x.dtype) for r, b in biases.items()},
        )
        out = torch.addcmul(out, layer.ffn.run(layer.base, x, ffn), weight[:, None, None])
    return out.to(x.dtype)


def _outputs_lora(layer: "MTALayer", bank: LoRABank, common: FFNWeights, x: Tensor, weights: Tensor) -> Tensor:
    batch, tokens, _ = x.shape

    def up(role: str) -> Tensor:
        shared = F.linear(x, common.weights[role], common.biases.get(role)).flatten(0, 1)
        return shared + bank.each(role, x)  # adapter, batch x token, ffn

    inner = layer.ffn.activate(layer.base, up("up"), up("gate") if "gate" in common.weights else None)
    per_token = weights.t().to(x.dtype).repeat_interleave(tokens, 1)  # adapter, batch x token
    inner = inner * per_token[..., None]
    narrow = (inner @ bank.a[DOWN].to(x.dtype).mT) * bank.scale  # adapter, batch x token, rank
    out: Tensor = narrow.transpose(0, 1).flatten(1) @ bank.b[DOWN].to(x.dtype).flatten(0, 1)
    down = common.weights[DOWN]
    out = out + inner.sum(0).to(down.dtype) @ down
    out = torch.unflatten(out, 0, (batch, tokens))
    bias = common.biases.get(DOWN)
    return out if bias is None else out + (weights.sum(1)[:, None, None] * bias).to(out.dtype)
