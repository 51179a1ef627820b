"""Which rows of a batch share a line of it: rows of one task, end to end behind the tokens that they all begin with.

A task's prompts begin alike, with its instruction: of a causal model, so many states of theirs are the same, and are
computed once a line.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Rows = np.ndarray[Any, np.dtype[np.int64]]

WIDTH_STEP = 8
"""Widths are multiples of this at the least."""
WIDTHS = 16
"""To a doubling: attention's backward in bf16 keeps some 5 MB for each new width and thread, as long as it lives."""
WIDTHS_TRIED = 16
"""Of shared lines: finer would cost long lines more time than it saves padding."""
WIDEST = 3
"""Of a shared line, in longest rows."""
ATTENTION_WIDTH = 2048
"""Width of a line at which attention costs about as much as a small language model's linears."""


def width_of(longest: int) -> int:
    """Width of a batch of lines of up to `longest` tokens."""
    step = max(WIDTH_STEP, (1 << longest.bit_length() >> 1) // WIDTHS)
    return -(-longest // step) * step


def share_lines(task_ids: Rows, prompts: Sequence[np.ndarray[Any, Any]], lengths: Rows) -> tuple[Rows, Rows, Rows]:
    """Line of each row, where its own tokens begin there, and how many it shares with the others at the line's start.

    lengths: of whole rows. Lines have the width, from once to WIDEST times the longest row, that costs least.
    """
    shared = _shared_starts(task_ids, prompts)
    own = lengths - shared
    least, most = width_of(int(lengths.max())), WIDEST * int(lengths.max())
    apart = width_of(-(-(most - least) // WIDTHS_TRIED))
    laid = [_fill(task_ids, own, shared, width) for width in range(least, max(most, least) + 1, max(apart, 1))]

    def cost(layout: tuple[Rows, Rows]) -> int:
        lines, offsets = layout
        width = width_of(int((offsets + own).max()))
        return (int(lines.max()) + 1) * width * (ATTENTION_WIDTH + width)

    return *min(laid, key=cost), shared


def _shared_starts(task_ids: Rows, prompts: Sequence[np.ndarray[Any, Any]]) -> Rows:
    """Tokens that each row's prompt has in common with all of its task; fewer than it has, as its last one predicts."""
    shared = np.zeros(len(task_ids), dtype=np.int64)
    for task in np.unique(task_ids):
        members = np.flatnonzero(task_ids == task)
        if len(members) > 1:
            own = [prompts[row] for row in members.tolist()]
            most = min(map(len, own)) - 1
            starts = np.stack([prompt[:most] for prompt in own])
            differs = np.flatnonzero((starts != starts[0]).any(axis=0))
            shared[members] = differs[0] if len(differs) else most
    return shared


def _fill(task_ids: Rows, own: Rows, shared: Rows, width: int) -> tuple[Rows, Rows]:
    """Line and offset of each row: longest first, each on the first line of its task that still has room for it."""
    lines, offsets = np.zeros_like(own), np.zeros_like(own)
    used: list[tuple[int, int]] = []  # task and tokens of each line
    for row in np.argsort(-own, kind="stable"):
        task, size = int(task_ids[row]), int(own[row])
        fits = (i for i, (owner, taken) in enumerate(used) if owner == task and taken + size <= width)
        line = next(fits, len(used))
        if line == len(used):
            used.append((task, int(shared[row])))
        lines[row], offsets[row] = line, used[line][1]
        used[line] = (task, used[line][1] + size)
    return lines, offsets
