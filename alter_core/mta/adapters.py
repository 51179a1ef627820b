"""Banks of adapters: N adapters of one kind, stacked in one tensor per linear so that they run in wide matmuls.

Every adapter is a change of the FFN it stands at. Shapes: adapter = how many adapters the bank holds; ffn and hidden
are the FFN's; rank is the configuration's.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alter_core.mta.ffn import DOWN, FFNWeights
from alter_core.spec.mta import AdapterKind, MTAConfig


class FFNBank(nn.Module):
    """Full FFNs (the paper's adapter). `full`: they replace the FFN beneath, theta = W_k; else they add to it.

    weight[role]: (adapter, ffn, hidden); bias[role]: (adapter, out), where the FFN has one.
    """

    kind: AdapterKind = "ffn"

    def __init__(self, like: FFNWeights, size: int, full: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.full = full
        self.weight = nn.ParameterDict({role: _stack(w, size, full, dtype) for role, w in like.weights.items()})
        self.bias = nn.ParameterDict({role: _stack(b, size, full, dtype) for role, b in like.biases.items()})

    @torch.no_grad()
    def reset(self, like: FFNWeights | None) -> None:
        """Start every adapter at `like` (copies) or at no change at all (deltas)."""
        for role, weight in self.weight.items():
            weight.copy_(like.weights[role]) if like else weight.zero_()
        for role, bias in self.bias.items():
            bias.copy_(like.biases[role]) if like else bias.zero_()

    def form(self, table: Float[Tensor, "task adapter"], role: str) -> Float[Tensor, "task ffn hidden"]:
        """Return sum_k table[t, k] W_k in fp32: bf16 gate weights would not sum to one."""
        weight: Tensor = self.weight[role]
        return torch.unflatten(table @ weight.float().flatten(1), 1, weight.shape[1:])

    def form_bias(self, table: Float[Tensor, "task adapter"], role: str) -> Float[Tensor, "task out"]:
        """Return sum_k table[t, k] b_k in fp32."""
        bias: Tensor = self.bias[role]
        return table @ bias.float()


class LoRABank(nn.Module):
    """Low-rank deltas scale * B_k A_k on each of the FFN's linears (Hu et al., arXiv 2106.09685); biases untouched.

    a[role]: (adapter, rank, in); b[role]: (adapter, rank, out), B transposed. b starts at zero, so a fresh adapter
    changes nothing.
    """

    kind: AdapterKind = "lora"

    def __init__(self, like: FFNWeights, size: int, rank: int, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.ParameterDict()
        self.b = nn.ParameterDict()
        for role, weight in like.weights.items():
            ffn, hidden = weight.shape
            inside, outside = (ffn, hidden) if role == DOWN else (hidden, ffn)
            self.a[role] = nn.Parameter(torch.empty(size, rank, inside, dtype=dtype, device=weight.device))
            self.b[role] = nn.Parameter(torch.empty(size, rank, outside, dtype=dtype, device=weight.device))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw A anew (uniform, as peft does) and set B to zero."""
        for a in self.a.values():
            nn.init.uniform_(a, -1 / math.sqrt(a.shape[2]), 1 / math.sqrt(a.shape[2]))
        for b in self.b.values():
            nn.init.zeros_(b)

    def form(self, table: Float[Tensor, "task adapter"], role: str) -> Float[Tensor, "task ffn hidden"]:
        """Return sum_k table[t, k] scale B_k A_k in fp32, laid out as FFN weights are."""
        a: Tensor = self.a[role].float()
        b: Tensor = self.b[role].float()
        scaled = (b * (self.scale * table)[:, :, None, None]).flatten(1, 2)  # task, adapter x rank, out
        narrow = a.flatten(0, 1)  # adapter x rank, in
        return narrow.t() @ scaled if role == DOWN else scaled.mT @ narrow

    def squeeze(
        self, role: str, x: Float[Tensor, "batch token in"], only: Sequence[int] | None = None
    ) -> Float[Tensor, "batch token adapter rank"]:
        """Return scale * A_k x for every adapter, or those at the places `only`, in one matmul."""
        a = _picked(self.a[role], only)
        narrow = x @ a.flatten(0, 1).to(x.dtype).t()
        return torch.unflatten(narrow * self.scale, -1, a.shape[:2])

    def add_mixed(
        self,
        out: Float[Tensor, "batch_token out"],
        role: str,
        x: Float[Tensor, "batch token in"],
        weights: Float[Tensor, "batch adapter"],
        only: Sequence[int] | None = None,
    ) -> None:
        """Add sum_k weights[row, k] scale B_k A_k x to `out`, in place: two matmuls for rows of any tasks.

        only: the places of the adapters to sum over, which the columns of `weights` are then for; unset, all.

        The second one adds as it multiplies: a tensor of its own for the deltas took twice as long as both matmuls.
        """
        narrow = self.squeeze(role, x, only) * weights[:, None, :, None].to(x.dtype)
        b = _picked(self.b[role], only)
        out.addmm_(narrow.flatten(0, 1).flatten(1).to(out.dtype), b.flatten(0, 1).to(out.dtype))

    def each(self, role: str, x: Float[Tensor, "batch token in"]) -> Float[Tensor, "adapter batch_token out"]:
        """Return scale * B_k A_k x of every adapter apart."""
        narrow = self.squeeze(role, x).flatten(0, 1).transpose(0, 1)  # adapter, batch x token, rank
        b: Tensor = self.b[role]
        return narrow @ b.to(x.dtype)


AdapterBank = FFNBank | LoRABank


def make_bank(
    kind: AdapterKind, like: FFNWeights, size: int, full: bool, config: MTAConfig, dtype: torch.dtype
) -> AdapterBank:
    """Return `size` fresh adapters of `kind` for an FFN with weights `like`; `full` only matters to kind ffn."""
    if kind == "ffn":
        return FFNBank(like, size, full, dtype)
    return LoRABank(like, size, config.rank, (config.alpha or config.rank) / config.rank, dtype)


@torch.no_grad()
def copy_adapter(target: AdapterBank, source: AdapterBank) -> None:
    """Set every adapter of `target` to the one adapter of `source`, a bank of the same kind and shape."""
    for (_, to), (_, given) in zip(target.named_parameters(), source.named_parameters(), strict=True):
        to.copy_(given.expand_as(to))


def bank_size(bank: AdapterBank) -> int:
    """Return how many adapters `bank` holds."""
    return int(next(bank.parameters()).shape[0])


def _picked(stack: Tensor, only: Sequence[int] | None) -> Tensor:
    if only is None:
        return stack
    parts = stack.unbind(0)  # a list as index would be sent to the device, and waited for
    return torch.stack([parts[place] for place in only])


def _stack(tensor: Tensor, size: int, full: bool, dtype: torch.dtype) -> nn.Parameter:
    start = tensor.detach() if full else torch.zeros_like(tensor)
    return nn.Parameter(start.to(dtype).expand(size, *tensor.shape).clone(memory_format=torch.contiguous_format))
