"""LabelTries: which tokens may come next while a label is written, for all label tasks in one set of tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alter_core.errors import SpecError

FREE = 0
"""The node of rows that write free text."""


@dataclass(frozen=True)
class Choice:
    """One step of rows that write labels."""

    token: Int[Tensor, " batch"]
    log_probability: Float[Tensor, " batch"]
    node: Int[Tensor, " batch"]
    behind: list[tuple[float, ...]]
    """Of each row, how far the logits of the other allowed tokens are below the chosen one's, as numbers up to 0."""


class LabelTries:
    """The token sequences of every task's labels as one forest.

    A node is a prefix that two or more labels share, and each of its children is a next token. As soon as one label
    is left the row is done: what remains of it has probability one, and needs no step.

    A walk takes the likeliest child of each node, which is nearly always, and not always, the way to the likeliest
    label: a node's first child may have many labels of small chances. With `assistant`'s model and 77 labels, 2 of 132
    answers were another label than the likeliest, and none of those four labels was right.
    """

    def __init__(self, labels: Mapping[str, Sequence[Sequence[int]]], device: torch.device | None = None) -> None:
        """labels: for each label task, the token ids of its labels in order, end token included.

        Raises SpecError when two labels of a task have the same tokens.
        """
        self.roots: dict[str, int] = {}
        self._leaf: list[int] = [-1]
        children: list[list[tuple[int, int]]] = [[]]

        def grow(members: list[tuple[int, Sequence[int]]], depth: int) -> int:
            node = len(children)
            children.append([])
            self._leaf.append(members[0][0] if len(members) == 1 else -1)
            if len(members) > 1:
                by_token: dict[int, list[tuple[int, Sequence[int]]]] = {}
                for member in members:
                    by_token.setdefault(member[1][depth], []).append(member)
                children[node] = [(token, grow(held, depth + 1)) for token, held in by_token.items()]
            return node

        for task, sequences in labels.items():
            given = [tuple(sequence) for sequence in sequences]
            if len(set(given)) < len(given):
                second = next(place for place, label in enumerate(given) if label in given[:place])
                first = given.index(given[second])
                raise SpecError(
                    f"task {task}: two labels (number {first + 1} and {second + 1}) have the same first tokens; "
                    "raise its max_target_tokens or shorten them"
                )
            self.roots[task] = grow(list(enumerate(given)), 0)
        width = max(1, *(len(held) for held in children))
        table = torch.full((2, len(children), width), -1)
        for node, held in enumerate(children):
            if held:
                table[:, node, : len(held)] = torch.tensor(held).T
        self._tokens, self._next = table.to(device).unbind(0)

    def label(self, node: int) -> int:
        """Number of the only label that is left at `node`, or -1 while there are several."""
        return self._leaf[node]

    def choose(self, logits: Float[Tensor, "batch vocab"], node: Int[Tensor, " batch"]) -> Choice:
        """The likeliest allowed token of each row; probabilities are renormalised over the allowed ones."""
        tokens = self._tokens[node]  # batch, width
        allowed = logits.gather(1, tokens.clamp(min=0)).float().masked_fill(tokens < 0, -torch.inf)
        best, place = allowed.log_softmax(1).max(1)
        place = place[:, None]
        others = (allowed - allowed.gather(1, place)).scatter(1, place, -torch.inf).tolist()
        behind = [tuple(lag for lag in row if lag != -math.inf) for row in others]
        return Choice(tokens.gather(1, place)[:, 0], best, self._next[node].gather(1, place)[:, 0], behind)
