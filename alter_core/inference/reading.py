"""Reading: a batch inside of a model, of whatever kind; prompts in parts of like length, then token by token.

Reading prompts is most of the work where answers are short, and on a CPU three things make it cheap: rows of one part,
whatever their tasks, are nearly of one length, so that little is padding; a part is small enough for the processor's
cache; and what all prompts of a task begin with, its instruction, is read once (`Prefixes`). Parts are rows that follow
each other, so it is for the caller to bring like rows together.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from alter_core.inference.prefixes import Prompt

PART_TOKENS = {"cpu": 2048}
"""Prompt tokens of one part, padding counted, by device; elsewhere as many as the batch has, where many is cheap."""
FORWARD_TOKENS = 64
"""As many tokens cost what a forward costs by itself, its weights being read: the most padding of a part."""

Routing = Callable[[Sequence[str]], AbstractContextManager[Any]]


class Reading(ABC):
    """A batch inside of a model. Rows are in the caller's order, less those that `keep` has dropped.

    pad: any token id; padding is masked. routing: carries rows' tasks.
    """

    def __init__(self, model: Any, tasks: Sequence[str], prompts: Sequence[Prompt], pad: int, routing: Routing) -> None:
        self.model = model
        self.tasks = list(tasks)
        self.prompts = prompts
        self.pad = pad
        self.routing = routing
        self.device = next(model.parameters()).device

    @abstractmethod
    def start(self, room: int) -> Tensor:
        """Logits (batch, vocab) after the prompts. room: most tokens that a row will write."""

    @property
    def may_join(self) -> bool:
        """Whether rows that are read later may join these."""
        return False

    @abstractmethod
    def keep(self, kept: Tensor) -> None:
        """Go on with the rows `kept` (row,) alone. Must be called between `start` and the first `step`."""

    @abstractmethod
    def step(self, token: Tensor) -> Tensor:
        """Logits (batch, vocab) after `token` (batch,)."""


def parts_of(prompts: Sequence[Prompt], device: torch.device) -> Iterator[range]:
    """Neighbours of like length, part by part."""
    most = PART_TOKENS.get(device.type)
    begin, longest, tokens = 0, len(prompts[0]), len(prompts[0])
    for row in range(1, len(prompts)):
        length = len(prompts[row])
        longest, tokens = max(longest, length), tokens + length
        size = longest * (row + 1 - begin)
        if most is not None and (size > most or size - tokens > FORWARD_TOKENS):
            yield range(begin, row)
            begin, longest, tokens = row, length, length
    yield range(begin, len(prompts))


def padded(prompts: Sequence[Prompt], pad: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (batch, seq) of prompts of different length."""
    width = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        blank = [pad] * (width - len(prompt))
        seen = [1] * len(prompt)
        hidden = [0] * len(blank)
        ids.append([*blank, *prompt] if left else [*prompt, *blank])
        mask.append([*hidden, *seen] if left else [*seen, *hidden])
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
