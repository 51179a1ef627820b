"""FFN: reads a backbone's feed-forward sub-layer, and runs it on any weights of the same shape.

Every linear, on the way up or down, is seen as one matrix (ffn, hidden): then weights of all architectures stack,
mix and fold alike, and the wide matmul of many stacked FFNs needs no transposed copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from alter_core.errors import MTAError
from alter_core.mta.architectures import Architecture

DOWN = "down"
"""The one linear that maps ffn to hidden; all others ("up", "gate") map hidden to ffn."""


class InlineFFN(nn.Module):
    """Holds the linears of an FFN that its block owned directly (BART, OPT), under their own names."""

    def __init__(self, parts: Mapping[str, nn.Module], inner_dropout: float) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.inner_dropout = inner_dropout


@dataclass(frozen=True)
class FFNWeights:
    """One FFN: name of a linear -> weight (ffn, hidden), and name -> bias where there is one."""

    weights: Mapping[str, Float[Tensor, "ffn hidden"]]
    biases: Mapping[str, Float[Tensor, " out"]]


@dataclass(frozen=True)
class FFN:
    """Names inside of one FFN module, as found. Holds no tensors, so copies and pickles are safe."""

    linears: Mapping[str, str]
    """"up", "down" and for a gated FFN "gate" -> name of the linear in the module."""
    activation: str
    inner_dropout: str | None
    outer_dropout: str | None

    @staticmethod
    def of(module: nn.Module, architecture: Architecture) -> "FFN":
        """Return the names for `module`. Raises MTAError when a linear is missing or of an unknown class."""
        linears = {DOWN: architecture.down}
        for role, names in (("up", architecture.up), ("gate", architecture.gate)):
            present = [name for name in names if hasattr(module, name)]
            if present:
                linears[role] = present[0]
        problems = [
            f"{name}: {type(getattr(module, name, None)).__name__}, expected Linear or Conv1D"
            for name in linears.values()
            if not _is_linear(getattr(module, name, None))
        ]
        if "up" not in linears:
            problems.append(f"none of {', '.join(architecture.up)} found")
        if problems:
            raise MTAError(f"{type(module).__name__} cannot become an MTA layer", problems)
        inner = architecture.inner_dropout
        if isinstance(module, InlineFFN):
            inner = "inner_dropout"
        ordered = {role: linears[role] for role in ("gate", "up", DOWN) if role in linears}
        return FFN(ordered, architecture.activation, inner, architecture.outer_dropout)

    def sizes(self, module: nn.Module) -> tuple[int, int]:
        """Return (ffn, hidden)."""
        ffn, hidden = self.weight(module, "up").shape
        return ffn, hidden

    def weight(self, module: nn.Module, role: str) -> Float[Tensor, "ffn hidden"]:
        """Return a view of one linear's weight as (ffn, hidden)."""
        linear = getattr(module, self.linears[role])
        weight: Tensor = linear.weight
        out_first = isinstance(linear, nn.Linear)  # GPT-2's Conv1D keeps (in, out)
        return weight if out_first == (role != DOWN) else weight.t()

    def bias(self, module: nn.Module, role: str) -> Float[Tensor, " out"] | None:
        """Return one linear's bias, or None."""
        bias: Tensor | None = getattr(module, self.linears[role]).bias
        return bias

    def read(self, module: nn.Module) -> FFNWeights:
        """Return the module's own weights, as views."""
        biases = {role: self.bias(module, role) for role in self.linears}
        return FFNWeights(
            {role: self.weight(module, role) for role in self.linears},
            {role: bias for role, bias in biases.items() if bias is not None},
        )

    @torch.no_grad()
    def write(self, module: nn.Module, values: FFNWeights) -> None:
        """Copy `values` over the module's own weights."""
        for role in self.linears:
            self.weight(module, role).copy_(values.weights[role])
            bias = self.bias(module, role)
            if bias is not None:
                bias.copy_(values.biases[role])

    def cast(self, module: nn.Module, tensors: Mapping[str, Tensor], compute: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of linears in the dtype that each runs in: `compute`, the stream's, but for a linear
        that fp16 T5 keeps in fp32 (it overflows)."""

        def dtype(role: str) -> torch.dtype:
            own = self.weight(module, role).dtype
            return own if compute == torch.float16 and own == torch.float32 else compute

        return {role: tensor.to(dtype(role)) for role, tensor in tensors.items()}

    def activate(
        self, module: nn.Module, up: Float[Tensor, "*batch ffn"], gate: Float[Tensor, "*batch ffn"] | None
    ) -> Float[Tensor, "*batch ffn"]:
        """Return what goes into the linear on the way down: activation, product with the gate, inner dropout."""
        act = getattr(module, self.activation)
        inner: Tensor = act(up) if gate is None else act(gate) * up
        if self.inner_dropout is not None:
            dropout = getattr(module, self.inner_dropout)
            if isinstance(dropout, nn.Module):
                inner = dropout(inner)
            else:
                inner = F.dropout(inner, dropout, module.training)
        return inner

    def finish(self, module: nn.Module, out: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """Return `out` after the dropout that closes the FFN, where there is one."""
        if self.outer_dropout is None:
            return out
        result: Tensor = getattr(module, self.outer_dropout)(out)
        return result

    def run(
        self, module: nn.Module, hidden: Float[Tensor, "*batch hidden"], values: FFNWeights
    ) -> Float[Tensor, "*batch hidden"]:
        """Return the FFN of `hidden` with `values` for weights; activation and inner dropout are the module's."""

        def linear(role: str) -> Tensor:
            return F.linear(hidden, values.weights[role], values.biases.get(role))

        inner = self.activate(module, linear("up"), linear("gate") if "gate" in self.linears else None)
        down = values.weights[DOWN]
        return F.linear(inner.to(down.dtype), down.t(), values.biases.get(DOWN))


def _is_linear(module: object) -> bool:
    # By name: Conv1D moved between transformers' modules before, and quantised linears must be refused.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
