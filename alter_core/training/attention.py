"""Which attention kernel trains, and which one writes answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PLAIN_TOKENS = 512
"""Longest row, prompt and target, up to which attention is computed by plain products on a CPU."""


def choose_attention(model: Any, longest: int, device: torch.device) -> str:
    """Set the kernel that `model` trains with on rows of up to `longest` tokens; give the model's own.

    On a CPU, torch's fused attention runs backward at a fraction of plain products' speed where rows are short: with
    SmolLM2-135M and rows of 70 tokens a step takes a sixth less. Long rows need the fused one for its memory.
    """
    own = str(model.config._attn_implementation)
    if device.type == "cpu" and longest <= PLAIN_TOKENS:
        model.set_attn_implementation("eager")
    return own


@contextmanager
def attention(model: Any, kernel: str) -> Iterator[None]:
    """Use `kernel` inside the block: the large batches that write answers have no memory for plain products."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(kernel)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
