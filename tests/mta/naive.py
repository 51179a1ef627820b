"""The MTA layer as its definition reads: one row, one adapter at a time. What the fast layer is held against."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alter_core.mta import MTALayer
from alter_core.mta.adapters import LoRABank

Weights = dict[str, Tensor]


def naive_layer(layer: MTALayer, hidden: Tensor, tasks: list[int]) -> Tensor:
    """Return the layer's output for hidden (batch, seq, hidden), computed row by row and adapter by adapter."""
    return torch.stack([_row(layer, x, task) for x, task in zip(hidden, tasks, strict=True)])


def _row(layer: MTALayer, x: Tensor, task: int) -> Tensor:
    base = _base(layer)
    beneath = layer.is_beneath and layer.gate.shared_active
    common = _add(base, _delta(layer.shared, 0, base), 1.0) if beneath else base
    gate = _gate_row(layer, task)
    if layer.config.mixing == "output":
        total = _run(layer, common, x)
        for weight, (bank, place) in zip(gate, _adapters(layer), strict=True):
            own = _add(common, _delta(bank, place, base), 1.0)
            total = total + weight * (_run(layer, own, x) - _run(layer, common, x))
        return total
    mixed = dict(common)
    for weight, (bank, place) in zip(gate, _adapters(layer), strict=True):
        mixed = _add(mixed, _delta(bank, place, base), weight)
    return _run(layer, mixed, x)


def _adapters(layer: MTALayer) -> list[tuple[Any, int]]:
    banks = [*([layer.shared] if layer.shared is not None and not layer.is_beneath else []), *layer.tasks]
    return [(bank, k) for bank in banks for k in range(next(bank.parameters()).shape[0])]


def _gate_row(layer: MTALayer, task: int) -> list[Any]:
    gate = layer.gate
    names = gate.columns
    used = [gate.shared_active if c < gate.shared else gate.task_active for c in range(len(names))]
    if gate.mode == "hard":
        home = gate.homes[task]
        mine = [used[c] and (c < gate.shared or c == home) for c in range(len(names))]
        return [1 / sum(mine) if m else 0.0 for m in mine]
    scores = [s for part in gate.logits for s in part][task] / gate.temperature
    powers = [scores[c].exp() if c < len(scores) and used[c] else torch.zeros(()) for c in range(len(names))]
    total = sum(powers)
    return [p / total if total else p for p in powers]


def _base(layer: MTALayer) -> Weights:
    found: Weights = {}
    for role, name in layer.ffn.linears.items():
        linear: Any = getattr(layer.base, name)
        weight = linear.weight if isinstance(linear, torch.nn.Linear) else linear.weight.t()
        found[role] = weight  # out, in
        if linear.bias is not None:
            found[f"{role} bias"] = linear.bias
    return found


def _delta(bank: Any, place: int, base: Weights) -> Weights:
    found: Weights = {}
    for role in [r for r in base if not r.endswith("bias")]:
        if isinstance(bank, LoRABank):
            found[role] = bank.scale * bank.b[role][place].t() @ bank.a[role][place]
            continue
        weight = bank.weight[role][place]
        weight = weight.t() if role == "down" else weight
        found[role] = weight - base[role] if bank.full else weight
        if f"{role} bias" in base:
            bias = bank.bias[role][place]
            found[f"{role} bias"] = bias - base[f"{role} bias"] if bank.full else bias
    return found


def _add(weights: Weights, delta: Weights, scale: Any) -> Weights:
    return {name: w + scale * delta[name] if name in delta else w for name, w in weights.items()}


def _run(layer: MTALayer, weights: Weights, x: Tensor) -> Tensor:
    act = getattr(layer.base, layer.ffn.activation)
    inner = F.linear(x, weights["up"], weights.get("up bias"))
    gated = "gate" in weights
    inner = act(F.linear(x, weights["gate"], weights.get("gate bias"))) * inner if gated else act(inner)
    return F.linear(inner, weights["down"], weights.get("down bias"))
