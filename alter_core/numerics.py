"""The number format that a training computes in, measured once at start rather than assumed."""

import time
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]

_SHAPE = (1024, 576, 1536)  # tokens, hidden, ffn: an FFN's matmul in a small language model
_REPEATS = 5
_GAIN = 1.2  # bf16 rounds: it must pay for that


def choose_precision(wanted: Literal["auto", "bf16", "fp32"], device: torch.device) -> tuple[Precision, float | None]:
    """The precision to compute in, and by what factor bf16's matmul was faster where that was measured."""
    if wanted != "auto":
        return wanted, None
    tokens, hidden, ffn = _SHAPE
    x, weight = torch.randn(tokens, hidden, device=device), torch.randn(ffn, hidden, device=device)
    seconds = {dtype: _fastest(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    return ("bf16" if gain >= _GAIN else "fp32"), gain


def dtype_of(precision: str) -> torch.dtype:
    """The dtype that `precision` stands for."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _fastest(x: torch.Tensor, weight: torch.Tensor) -> float:
    """The fastest of a few repeats: other processes can only make one slower."""
    times = []
    for _ in range(_REPEATS + 1):  # the first one also prepares kernels
        begin = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])
