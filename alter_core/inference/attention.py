"""Which attention kernel reads prompts, and which one writes answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_TOKENS = 512
"""Longest row up to which attention over all of its tokens is computed by plain products on a CPU. They need more
memory than torch's fused kernel and less time: backward, and in bf16 half as much forward."""
PLAIN = "eager"


@contextmanager
def attention(model: Any, kernel: str) -> Iterator[None]:
    """Use `kernel` inside the block."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(kernel)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
