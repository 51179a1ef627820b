"""Which rows each training step takes, and the parts in which they are computed.

    SamplingPlan.rows(step) -> share of a process -> parts

All of it is a pure function of the rows, the seed and the step: nothing here needs to be saved to resume.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from alter_core.training.lines import Rows

TOKENS_PER_TASK = 192
"""With fewer, a part's own cost (weights brought to the computing precision, gradients summed) is what it takes."""


@dataclass(frozen=True)
class SamplingPlan:
    """Which rows each step takes: tasks by p proportional to rows^(1/temperature), each task's rows in passes.

    A task's share is met exactly over time, not on average, and it sees all of its rows once before any twice; at
    temperature 1 an epoch is therefore every row once.
    """

    draws: np.ndarray[Any, np.dtype[np.int64]]
    """(step, row of the step): places in EncodedRows."""

    @classmethod
    def make(cls, task_ids: Rows, steps: int, rows_per_step: int, temperature: float, seed: int) -> "SamplingPlan":
        """Plan `steps` steps. The same arguments always give the same plan; a longer plan starts as a shorter one."""
        tasks, counts = np.unique(task_ids, return_counts=True)
        share = counts ** (1 / temperature)
        share = share / share.sum()
        streams = [_Stream(np.flatnonzero(task_ids == task), seed, int(task)) for task in tasks]
        draws = np.empty((steps, rows_per_step), dtype=np.int64)
        taken = np.zeros(len(tasks), dtype=np.int64)
        for step in range(steps):
            owed = share * rows_per_step * (step + 1) - taken
            now = np.maximum(np.floor(owed), 0).astype(np.int64)
            for task in np.argsort(-(owed - now), kind="stable"):  # what is left goes where most is owed
                if now.sum() >= rows_per_step:
                    break
                now[task] += 1
            for task in np.argsort(owed - now, kind="stable"):
                surplus = int(now.sum()) - rows_per_step
                if surplus <= 0:
                    break
                now[task] -= min(surplus, now[task])
            draws[step] = np.concatenate([s.next(int(n)) for s, n in zip(streams, now, strict=True)])
            taken += now
        return cls(draws)

    def __len__(self) -> int:
        return len(self.draws)

    def rows(self, step: int) -> Rows:
        """Places of the rows of `step`, over all processes."""
        row: Rows = self.draws[step]
        return row


class _Stream:
    """A task's rows, pass after pass, each pass in an order of its own."""

    def __init__(self, rows: Rows, seed: int, task: int) -> None:
        self._rows = rows
        self._seed = (seed, task)
        self._pass = 0
        self._left: Rows = rows[:0]

    def next(self, count: int) -> Rows:
        parts = []
        while count > 0:
            if not len(self._left):
                self._left = np.random.default_rng((*self._seed, self._pass)).permutation(self._rows)
                self._pass += 1
            parts.append(self._left[:count])
            self._left = self._left[count:]
            count -= len(parts[-1])
        return np.concatenate(parts) if parts else self._rows[:0]


def divide(rows: Rows, lengths: Rows, process: int, processes: int, parts: int) -> list[Rows]:
    """The rows of a step that one process takes, in `parts` parts of like lengths, so that little is padded.

    Together, the processes' parts are the step's rows, each once, whatever the number of processes and parts.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    own = ordered[process::processes]
    return [part for part in np.array_split(own, parts) if len(part)]


def divide_by_task(
    rows: Rows, lengths: Rows, task_ids: Rows, process: int, processes: int, parts: int, most: int
) -> list[Rows]:
    """The rows of a step that one process takes, in parts of whole tasks, so that rows that share lines fill them.

    With all tasks in one part, the last line of each is as long as the longest row of any. Tasks of fewer than
    TOKENS_PER_TASK tokens share a part with the next longer ones. parts: at the least. most: tokens of a part.
    """
    tasks, at = np.unique(task_ids[rows], return_inverse=True)
    longest = np.zeros(len(tasks), dtype=np.int64)
    np.maximum.at(longest, at, lengths[rows])
    ordered = np.lexsort((lengths[rows], at, longest[at]))
    own, owners = rows[ordered][process::processes], at[ordered][process::processes]
    groups: list[list[Rows]] = [[]]
    for task in dict.fromkeys(owners.tolist()):
        if sum(int(lengths[held].sum()) for held in groups[-1]) >= TOKENS_PER_TASK:
            groups.append([])
        groups[-1].append(own[owners == task])
    whole = [np.concatenate(group) for group in groups if group]
    each = -(-parts // max(len(whole), 1))
    counts = [max(each, -(-int(lengths[group].sum()) // most)) for group in whole]
    return [
        part for group, count in zip(whole, counts, strict=True) for part in np.array_split(group, count) if len(part)
    ]


def spread(rows: Rows, lengths: Rows, task_ids: Rows, packed: bool, tokens: int) -> list[Rows]:
    """`rows` in parts of up to so many tokens, padding counted: of like lengths, or by task where they share lines."""
    by_length = np.argsort(-lengths[rows], kind="stable")
    ordered = rows[by_length[np.argsort(task_ids[rows][by_length], kind="stable")] if packed else by_length]
    total = np.cumsum(lengths[ordered])
    parts = []
    at = 0
    while at < len(ordered):
        end = at + tokens // int(lengths[ordered[at]])
        if packed:
            end = int(np.searchsorted(total, (total[at - 1] if at else 0) + tokens, side="right"))
        parts.append(ordered[at : max(end, at + 1)])
        at += len(parts[-1])
    return parts
